//! The search grammar, read and written: each parameter → a `Term` and the types that it touches besides the searched.
//! Hides chains, `_has`, includes, modifiers, and which parameters FHIR knows.
//! INVARIANT: whatever is not known to reach less reaches every type (`Touched::Every`); nothing is ignored.
//! INVARIANT: a term, written and read again, is the same term.
//! Source: FHIR search.html (R4 §3.1.1, R5 §3.2.1): modifiers, chaining, reverse chaining, result parameters.

use std::collections::BTreeSet;
use std::fmt;

use crate::fhir::definitions::{Definitions, ParameterKind, ResourceType, SearchParameter};
use crate::fhir::url::Parameter;

/// How many chain and `_has` steps one parameter may take.
pub const DEPTH_MAX: usize = 8;

/// What the reader knows: HL7's definitions and the deployment's own parameters.
#[derive(Clone, Copy)]
pub struct Grammar<'a> {
    pub definitions: &'a Definitions,
    /// Configured search parameters by type and code; no type: every type has it.
    pub configured: &'a [(Option<String>, String)],
}

/// Where a search stands.
#[derive(Debug, Clone, Copy)]
pub enum Level<'a> {
    Type(ResourceType),
    /// Of all types of a compartment, which `_type` may narrow.
    Compartment(&'a [ResourceType]),
    /// Of every type, which `_type` may narrow.
    System,
}

/// A search, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The types searched for; `None`: every type.
    pub types: Option<Vec<ResourceType>>,
    /// In the order in which they were asked.
    pub terms: Vec<Touching>,
}

/// A term, and what it reveals besides the types searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touching {
    pub term: Term,
    pub touches: Vec<Touch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Touch {
    pub touched: Touched,
    pub by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Touched {
    Type(ResourceType),
    Every,
}

/// Why a type is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum By {
    /// A criterion looks at it: chains, `_has`, `_list`, `:in`.
    Chain,
    /// Its resources are returned.
    Include,
    /// The order tells about it.
    Sort,
    /// By a parameter that nobody knows, or whose reach cannot be read.
    Unknown,
}

/// One parameter of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    Criterion {
        path: Path,
        value: String,
    },
    Include(Include),
    Sort(Vec<SortKey>),
    /// `_type`
    Types(Vec<ResourceType>),
    /// A parameter about the answer (`_count`, `_format` …) or about the request, that touches nothing by itself.
    Result(Parameter),
    /// A parameter that is not read further.
    Opaque(Parameter),
}

/// `code:modifier`, below the steps that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub steps: Vec<Step>,
    pub code: String,
    pub modifier: Option<Modifier>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `code.` or `code:Type.`
    Chain { code: String, of: Option<ResourceType> },
    /// `_has:Type:reference:`
    Has { of: ResourceType, reference: String },
}

/// FHIR's search modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modifier {
    Missing,
    Exact,
    Contains,
    Text,
    TextAdvanced,
    CodeText,
    Not,
    Above,
    Below,
    In,
    NotIn,
    OfType,
    Identifier,
    Type(ResourceType),
}

/// `_include` and `_revinclude`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    pub reverse: bool,
    pub repeat: Repeat,
    pub what: Included,
}

/// Whether an include applies to what is included, and in which word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Once,
    Iterate,
    /// STU3's word for `:iterate`, which servers still take.
    Recurse,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Included {
    /// `*`
    All,
    /// `Type:*`
    AllOf(ResourceType),
    /// `Type:code` or `Type:code:Target`
    Parameter { of: ResourceType, code: String, target: Option<ResourceType> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortKey {
    pub descending: bool,
    pub path: Path,
}

/// Why a search is not FHIR, or ambiguous. Names only, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    #[error("parameter `{name}` differs from `{known}` only in its case")]
    CaseVariant { name: String, known: String },
    #[error("parameter `{name}` names a resource type that is not FHIR's")]
    UnknownType { name: String },
    #[error("parameter `{name}` has a modifier that is not FHIR's")]
    UnknownModifier { name: String },
    #[error("parameter `{name}` goes through `{code}`, which is no reference")]
    NotAReference { name: String, code: String },
    #[error("parameter `{name}` expects `{code}` to refer to a type that it never refers to")]
    NotATarget { name: String, code: String },
    #[error("parameter `{name}` is not of FHIR's search grammar")]
    Malformed { name: String },
    #[error("parameter `{name}` has more than {DEPTH_MAX} steps")]
    TooDeep { name: String },
    #[error("parameter `{name}` is given twice")]
    Repeated { name: String },
    #[error("parameter `{name}` has a value that is not one of its own")]
    Value { name: String },
    #[error("parameter `{name}` has no meaning here")]
    Misplaced { name: String },
}

/// What may stand once only, because two readers may take different ones.
const ONCE: &[&str] = &[
    "_at",
    "_contained",
    "_containedType",
    "_count",
    "_elements",
    "_filter",
    "_format",
    "_graph",
    "_maxresults",
    "_outputFormat",
    "_pretty",
    "_query",
    "_score",
    "_since",
    "_sort",
    "_summary",
    "_total",
    "_type",
];

/// Parameters of every type that a version's definitions may leave out.
const COMMON: &[&str] = &[
    "_content",
    "_id",
    "_in",
    "_language",
    "_lastUpdated",
    "_list",
    "_profile",
    "_security",
    "_source",
    "_tag",
    "_text",
];

/// Names that this file reads itself.
const OWN: &[&str] = &["_has", "_include", "_revinclude"];

impl<'a> Grammar<'a> {
    /// Reads a search. `also`: further parameters that are about the request and touch nothing.
    pub fn search(&self, level: Level<'_>, given: &[Parameter], also: &[&str]) -> Result<Search, SearchError> {
        refuse_repeated(given)?;
        let types = self.types_searched(level, given)?;
        let terms = given
            .iter()
            .map(|parameter| self.term(level, types.as_deref(), parameter, also))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Search { types, terms })
    }

    /// The types of a `_type` value: comma-separated, each known.
    pub fn types(&self, value: &str) -> Result<Vec<ResourceType>, SearchError> {
        let mut types = Vec::new();
        for name in value.split(',') {
            let of = self.resource_type(name, "_type")?;
            if !types.contains(&of) {
                types.push(of);
            }
        }
        Ok(types)
    }

    /// Whether a name, of a parameter that `known` does not hold, is one of them in another case.
    pub fn refuse_case_variants(name: &str, known: &[&str]) -> Result<(), SearchError> {
        match known.iter().find(|known| known.eq_ignore_ascii_case(name) && **known != name) {
            Some(known) => Err(SearchError::CaseVariant { name: word(name), known: (*known).to_owned() }),
            None => Ok(()),
        }
    }

    /// Whether every parameter is one of `known`. What may stand once only and repeats, or differs from a known name in its
    /// case alone, is an error.
    pub fn all_known(given: &[Parameter], known: &[&str]) -> Result<bool, SearchError> {
        refuse_repeated(given)?;
        for parameter in given {
            Grammar::refuse_case_variants(&parameter.name, known)?;
        }
        Ok(given.iter().all(|parameter| known.contains(&parameter.name.as_str())))
    }

    fn types_searched(&self, level: Level<'_>, given: &[Parameter]) -> Result<Option<Vec<ResourceType>>, SearchError> {
        let asked = given
            .iter()
            .find(|parameter| parameter.name == "_type")
            .map(|parameter| self.types(&parameter.value))
            .transpose()?;
        let misplaced = || SearchError::Misplaced { name: "_type".to_owned() };
        match (level, asked) {
            (Level::Type(of), None) => Ok(Some(vec![of])),
            (Level::Type(_), Some(_)) => Err(misplaced()),
            (Level::Compartment(members), None) => Ok(Some(members.to_vec())),
            (Level::Compartment(members), Some(asked)) => match asked.iter().all(|of| members.contains(of)) {
                true => Ok(Some(asked)),
                false => Err(misplaced()),
            },
            (Level::System, asked) => Ok(asked),
        }
    }

    fn term(
        &self,
        level: Level<'_>,
        types: Option<&[ResourceType]>,
        parameter: &Parameter,
        also: &[&str],
    ) -> Result<Touching, SearchError> {
        let Parameter { name, value } = parameter;
        if also.contains(&name.as_str()) {
            return Ok(Touching { term: Term::Result(parameter.clone()), touches: Vec::new() });
        }
        let head = name.split(['.', ':']).next().unwrap_or(name);
        Self::refuse_case_variants(head, ONCE)?;
        Self::refuse_case_variants(head, OWN)?;
        Self::refuse_case_variants(head, also)?;
        match head {
            "_include" => self.include(false, types, parameter),
            "_revinclude" => self.include(true, types, parameter),
            "_sort" => self.sort(types, parameter),
            "_type" => {
                whole(name, head)?;
                let types = self.types_searched(level, std::slice::from_ref(parameter))?.unwrap_or_default();
                Ok(Touching { term: Term::Types(types), touches: Vec::new() })
            }
            "_filter" | "_query" | "_graph" => {
                whole(name, head)?;
                let everything = vec![Touch { touched: Touched::Every, by: By::Unknown }];
                Ok(Touching { term: Term::Opaque(parameter.clone()), touches: everything })
            }
            "_summary" => result(parameter, head, &["true", "false", "text", "data", "count"]),
            "_total" => result(parameter, head, &["none", "estimate", "accurate"]),
            "_containedType" => result(parameter, head, &["container", "contained"]),
            "_score" => result(parameter, head, &["true", "false"]),
            "_contained" => {
                let mut read = result(parameter, head, &["true", "false", "both"])?;
                // what contains a match is returned, of whatever type it is; or the match alone, which nobody can judge
                // without what contains it
                if value != "false" {
                    read.touches.push(Touch { touched: Touched::Every, by: By::Unknown });
                }
                Ok(read)
            }
            "_count" | "_maxresults" => {
                whole(name, head)?;
                let number = (1..=9).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
                match number {
                    true => Ok(Touching { term: Term::Result(parameter.clone()), touches: Vec::new() }),
                    false => Err(SearchError::Value { name: head.to_owned() }),
                }
            }
            "_elements" | "_format" | "_pretty" => {
                whole(name, head)?;
                Ok(Touching { term: Term::Result(parameter.clone()), touches: Vec::new() })
            }
            _ => self.criterion(types, parameter),
        }
    }

    fn criterion(&self, types: Option<&[ResourceType]>, parameter: &Parameter) -> Result<Touching, SearchError> {
        let mut walk = Walk::new(*self, &parameter.name, types);
        let path = walk.path(&parameter.name)?;
        Ok(Touching {
            term: Term::Criterion { path, value: parameter.value.clone() },
            touches: walk.touches(By::Chain),
        })
    }

    fn sort(&self, types: Option<&[ResourceType]>, parameter: &Parameter) -> Result<Touching, SearchError> {
        whole(&parameter.name, "_sort")?;
        let mut keys = Vec::new();
        let mut touches = BTreeSet::new();
        for text in parameter.value.split(',') {
            let (descending, key) = text.strip_prefix('-').map_or((false, text), |key| (true, key));
            if key.contains(':') || key.starts_with("_has") {
                return Err(SearchError::Malformed { name: "_sort".to_owned() });
            }
            let path = if key == "_score" {
                Path { steps: Vec::new(), code: key.to_owned(), modifier: None }
            } else {
                let mut walk = Walk::new(*self, "_sort", types);
                let path = walk.path(key)?;
                touches.extend(walk.touches(By::Sort));
                path
            };
            keys.push(SortKey { descending, path });
        }
        Ok(Touching { term: Term::Sort(keys), touches: touches.into_iter().collect() })
    }

    fn include(
        &self,
        reverse: bool,
        types: Option<&[ResourceType]>,
        parameter: &Parameter,
    ) -> Result<Touching, SearchError> {
        let Parameter { name, value } = parameter;
        let repeat = match name.split_once(':').map(|(_, modifier)| modifier) {
            None if name.contains('.') => return Err(SearchError::Malformed { name: word(name) }),
            None => Repeat::Once,
            Some("iterate") => Repeat::Iterate,
            Some("recurse") => Repeat::Recurse,
            Some(_) => return Err(SearchError::UnknownModifier { name: word(name) }),
        };
        let what = self.included(name, value)?;
        let include = Include { reverse, repeat, what };
        let touches = self
            .collapsed(self.brought_in(name, types, &include)?)
            .into_iter()
            .map(|touched| Touch { touched, by: By::Include })
            .collect();
        Ok(Touching { term: Term::Include(include), touches })
    }

    fn included(&self, name: &str, value: &str) -> Result<Included, SearchError> {
        if value == "*" || value == "*:*" {
            return Ok(Included::All);
        }
        let mut words = value.split(':');
        let (Some(of), Some(code), target, None) = (words.next(), words.next(), words.next(), words.next()) else {
            return Err(SearchError::Malformed { name: word(name) });
        };
        let of = self.resource_type(of, name)?;
        if code == "*" && target.is_none() {
            return Ok(Included::AllOf(of));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if code.is_empty() || !code.bytes().all(plain) {
            return Err(SearchError::Malformed { name: word(name) });
        }
        let target = target.map(|target| self.resource_type(target, name)).transpose()?;
        Ok(Included::Parameter { of, code: code.to_owned(), target })
    }

    /// The types that an include adds to the answer.
    fn brought_in(
        &self,
        name: &str,
        types: Option<&[ResourceType]>,
        include: &Include,
    ) -> Result<BTreeSet<Touched>, SearchError> {
        let every = || BTreeSet::from([Touched::Every]);
        let repeated = include.repeat != Repeat::Once;
        match &include.what {
            Included::All if include.reverse || repeated => Ok(every()),
            Included::All => {
                Ok(types.map_or_else(every, |types| types.iter().flat_map(|of| self.referred_to(*of)).collect()))
            }
            Included::AllOf(of) if include.reverse => Ok(BTreeSet::from([Touched::Type(*of)])),
            Included::AllOf(_) if repeated => Ok(every()),
            Included::AllOf(of) => Ok(self.referred_to(*of)),
            Included::Parameter { of, code, target } => {
                let Some(parameter) = self.definitions.parameter(*of, code) else {
                    self.refuse_case_variant_of(code, Some(&[*of]))?;
                    return Ok(every());
                };
                if parameter.kind != ParameterKind::Reference {
                    return Err(SearchError::NotAReference { name: word(name), code: word(code) });
                }
                if target.is_some_and(|target| !parameter.targets.contains(&target)) {
                    return Err(SearchError::NotATarget { name: word(name), code: word(code) });
                }
                Ok(match (include.reverse, target) {
                    (true, _) => BTreeSet::from([Touched::Type(*of)]),
                    (false, Some(target)) => BTreeSet::from([Touched::Type(*target)]),
                    (false, None) => parameter.targets.iter().copied().map(Touched::Type).collect(),
                })
            }
        }
    }

    /// Every type that a type's parameters refer to; where the deployment adds parameters of its own, any.
    fn referred_to(&self, of: ResourceType) -> BTreeSet<Touched> {
        let mut touched: BTreeSet<_> = self
            .definitions
            .parameters(of)
            .filter(|parameter| parameter.kind == ParameterKind::Reference)
            .flat_map(|parameter| parameter.targets.iter().copied().map(Touched::Type))
            .collect();
        let configured = |on: &Option<String>| on.as_deref().is_none_or(|on| on == of.as_str());
        if self.configured.iter().any(|(on, _)| configured(on)) {
            touched.insert(Touched::Every);
        }
        touched
    }

    /// What refers to anything is one touch of every type, not one of each: a request may hold thousands of them.
    fn collapsed(&self, touched: BTreeSet<Touched>) -> BTreeSet<Touched> {
        let every = || self.definitions.resource_types().all(|of| touched.contains(&Touched::Type(of)));
        if touched.contains(&Touched::Every) || every() { BTreeSet::from([Touched::Every]) } else { touched }
    }

    fn resource_type(&self, text: &str, name: &str) -> Result<ResourceType, SearchError> {
        self.definitions.resource_type(text).ok_or_else(|| SearchError::UnknownType { name: word(name) })
    }

    /// The parameters of that code; `types` of `None` is every type.
    fn parameters(&self, types: Option<&[ResourceType]>, code: &str) -> Vec<&'a SearchParameter> {
        match types {
            Some(types) => types.iter().filter_map(|of| self.definitions.parameter(*of, code)).collect(),
            None => self.definitions.resource_types().filter_map(|of| self.definitions.parameter(of, code)).collect(),
        }
    }

    fn has_parameter(&self, of: ResourceType, code: &str) -> bool {
        COMMON.contains(&code)
            || self.definitions.parameter(of, code).is_some()
            || self.is_configured(Some(&[of]), code)
    }

    fn is_configured(&self, types: Option<&[ResourceType]>, code: &str) -> bool {
        let of_these = |on: &Option<String>| match (on, types) {
            (None, _) | (_, None) => true,
            (Some(on), Some(types)) => types.iter().any(|of| of.as_str() == on),
        };
        self.configured.iter().any(|(on, configured)| configured == code && of_these(on))
    }

    fn refuse_case_variant_of(&self, code: &str, types: Option<&[ResourceType]>) -> Result<(), SearchError> {
        for known in [ONCE, COMMON, OWN] {
            Self::refuse_case_variants(code, known)?;
        }
        let every;
        let types = match types {
            Some(types) => types,
            None => {
                every = self.definitions.resource_types().collect::<Vec<_>>();
                &every
            }
        };
        let defined = types.iter().flat_map(|of| self.definitions.parameters(*of)).map(|parameter| parameter.code);
        let configured = self.configured.iter().map(|(_, code)| code.as_str());
        match defined.chain(configured).find(|known| known.eq_ignore_ascii_case(code) && *known != code) {
            Some(known) => Err(SearchError::CaseVariant { name: word(code), known: known.to_owned() }),
            None => Ok(()),
        }
    }
}

/// One walk along a path, from the types searched to the types at its end.
struct Walk<'a, 'b> {
    grammar: Grammar<'a>,
    /// The parameter's name, for errors.
    name: &'b str,
    /// The types that the rest of the path stands on; `None`: any.
    here: Option<Vec<ResourceType>>,
    touched: BTreeSet<Touched>,
    unknown: bool,
}

impl<'a, 'b> Walk<'a, 'b> {
    fn new(grammar: Grammar<'a>, name: &'b str, types: Option<&[ResourceType]>) -> Walk<'a, 'b> {
        Walk { grammar, name, here: types.map(<[_]>::to_vec), touched: BTreeSet::new(), unknown: false }
    }

    fn touches(self, by: By) -> Vec<Touch> {
        let unknown = self.unknown.then_some(Touch { touched: Touched::Every, by: By::Unknown });
        self.grammar.collapsed(self.touched).into_iter().map(|touched| Touch { touched, by }).chain(unknown).collect()
    }

    fn path(&mut self, text: &str) -> Result<Path, SearchError> {
        let mut rest = text;
        let mut steps = Vec::new();
        loop {
            if steps.len() > DEPTH_MAX {
                return Err(SearchError::TooDeep { name: word(self.name) });
            }
            let (step, next) = if let Some(reverse) = rest.strip_prefix("_has:") {
                self.reverse_step(reverse)?
            } else if let Some((link, next)) = rest.split_once('.') {
                (self.step(link, next)?, next)
            } else {
                let (code, modifier) = self.leaf(rest)?;
                return Ok(Path { steps, code, modifier });
            };
            steps.push(step);
            rest = next;
        }
    }

    /// `Type:reference:…`, after `_has:`.
    fn reverse_step<'t>(&mut self, text: &'t str) -> Result<(Step, &'t str), SearchError> {
        let malformed = || SearchError::Malformed { name: word(self.name) };
        let (of, text) = text.split_once(':').ok_or_else(malformed)?;
        let (reference, next) = text.split_once(':').ok_or_else(malformed)?;
        let of = self.grammar.resource_type(of, self.name)?;
        plain_code(reference).ok_or_else(malformed)?;
        match self.grammar.definitions.parameter(of, reference) {
            Some(parameter) if parameter.kind != ParameterKind::Reference => return Err(self.no_reference(reference)),
            Some(parameter) => {
                let here = self.here.as_deref();
                if here.is_some_and(|here| !parameter.targets.iter().any(|target| here.contains(target))) {
                    return Err(self.no_target(reference));
                }
            }
            None => {
                self.grammar.refuse_case_variant_of(reference, Some(&[of]))?;
                self.unknown |= !self.grammar.is_configured(Some(&[of]), reference);
            }
        }
        self.touched.insert(Touched::Type(of));
        self.here = Some(vec![of]);
        Ok((Step::Has { of, reference: reference.to_owned() }, next))
    }

    /// `code.` or `code:Type.`; an untyped one goes to those targets that have what comes next.
    fn step(&mut self, link: &str, next: &str) -> Result<Step, SearchError> {
        let (code, of) = match link.split_once(':') {
            Some((code, of)) => (code, Some(self.grammar.resource_type(of, self.name)?)),
            None => (link, None),
        };
        plain_code(code).ok_or_else(|| SearchError::Malformed { name: word(self.name) })?;
        let step = Step::Chain { code: code.to_owned(), of };
        let parameters = self.grammar.parameters(self.here.as_deref(), code);
        if parameters.is_empty() {
            self.grammar.refuse_case_variant_of(code, self.here.as_deref())?;
            // also a configured one: where it refers to is not known
            self.unknown = true;
            self.here = of.map(|of| vec![of]);
            return Ok(step);
        }
        let targets: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter.kind == ParameterKind::Reference)
            .flat_map(|parameter| parameter.targets.iter().copied())
            .collect();
        if targets.is_empty() {
            return Err(self.no_reference(code));
        }
        let here = match of {
            Some(of) if targets.contains(&of) => vec![of],
            Some(_) => return Err(self.no_target(code)),
            None => self.with_parameter(targets, next),
        };
        self.touched.extend(here.iter().copied().map(Touched::Type));
        self.here = Some(here);
        Ok(step)
    }

    /// Those of `targets` that have the parameter at the head of `next`; all, if none has: then `next` is unknown.
    fn with_parameter(&self, targets: BTreeSet<ResourceType>, next: &str) -> Vec<ResourceType> {
        let head = next.split(['.', ':']).next().unwrap_or(next);
        let having: Vec<_> =
            targets.iter().copied().filter(|of| head == "_has" || self.grammar.has_parameter(*of, head)).collect();
        if having.is_empty() { targets.into_iter().collect() } else { having }
    }

    fn leaf(&mut self, text: &str) -> Result<(String, Option<Modifier>), SearchError> {
        let (code, modifier) = match text.split_once(':') {
            Some((code, modifier)) => (code, Some(self.modifier(modifier)?)),
            None => (text, None),
        };
        plain_code(code).ok_or_else(|| SearchError::Malformed { name: word(self.name) })?;
        if code == "_has" {
            return Err(SearchError::Malformed { name: word(self.name) });
        }
        let parameters = self.grammar.parameters(self.here.as_deref(), code);
        let known =
            !parameters.is_empty() || COMMON.contains(&code) || self.grammar.is_configured(self.here.as_deref(), code);
        if !known {
            self.grammar.refuse_case_variant_of(code, self.here.as_deref())?;
        }
        // filters and named queries, which a chain may lead to as well
        self.unknown |= !known || matches!(code, "_filter" | "_query" | "_graph");
        match code {
            "_list" => self.touch_named(&["List"]),
            "_in" => self.touch_named(&["CareTeam", "Group", "List"]),
            _ => {}
        }
        if let Some(modifier) = modifier {
            self.modified(code, modifier, &parameters)?;
        }
        Ok((code.to_owned(), modifier))
    }

    fn modifier(&self, text: &str) -> Result<Modifier, SearchError> {
        Ok(match text {
            "missing" => Modifier::Missing,
            "exact" => Modifier::Exact,
            "contains" => Modifier::Contains,
            "text" => Modifier::Text,
            "text-advanced" => Modifier::TextAdvanced,
            "code-text" => Modifier::CodeText,
            "not" => Modifier::Not,
            "above" => Modifier::Above,
            "below" => Modifier::Below,
            "in" => Modifier::In,
            "not-in" => Modifier::NotIn,
            "of-type" => Modifier::OfType,
            "identifier" => Modifier::Identifier,
            of => match self.grammar.definitions.resource_type(of) {
                Some(of) => Modifier::Type(of),
                None => return Err(SearchError::UnknownModifier { name: word(self.name) }),
            },
        })
    }

    /// What a modifier looks at besides the resource itself.
    fn modified(&mut self, code: &str, modifier: Modifier, parameters: &[&SearchParameter]) -> Result<(), SearchError> {
        let references: Vec<_> =
            parameters.iter().filter(|parameter| parameter.kind == ParameterKind::Reference).collect();
        let others = parameters.is_empty() || references.len() < parameters.len();
        match modifier {
            // membership of a group, a list, a care team; of a value set
            Modifier::In | Modifier::NotIn => {
                if parameters.is_empty() || !references.is_empty() {
                    self.touch_named(&["CareTeam", "Group", "List"]);
                }
                if others {
                    self.touch_named(&["ValueSet"]);
                }
            }
            // the hierarchy of what is referred to; where a deployment's own parameter leads, nobody knows
            Modifier::Above | Modifier::Below => {
                if parameters.is_empty() {
                    self.touched.insert(Touched::Every);
                }
                let targets = references.iter().flat_map(|parameter| parameter.targets.iter().copied());
                self.touched.extend(targets.map(Touched::Type));
            }
            Modifier::Type(of) => {
                let fits = references.iter().any(|parameter| parameter.targets.contains(&of));
                if !parameters.is_empty() && !fits {
                    return Err(self.no_target(code));
                }
            }
            Modifier::Missing
            | Modifier::Exact
            | Modifier::Contains
            | Modifier::Text
            | Modifier::TextAdvanced
            | Modifier::CodeText
            | Modifier::Not
            | Modifier::OfType
            | Modifier::Identifier => {}
        }
        Ok(())
    }

    fn touch_named(&mut self, names: &[&str]) {
        let types = names.iter().filter_map(|name| self.grammar.definitions.resource_type(name));
        self.touched.extend(types.map(Touched::Type));
    }

    fn no_reference(&self, code: &str) -> SearchError {
        SearchError::NotAReference { name: word(self.name), code: word(code) }
    }

    fn no_target(&self, code: &str) -> SearchError {
        SearchError::NotATarget { name: word(self.name), code: word(code) }
    }
}

fn refuse_repeated(given: &[Parameter]) -> Result<(), SearchError> {
    let mut seen = BTreeSet::new();
    for parameter in given.iter().filter(|parameter| ONCE.contains(&parameter.name.as_str())) {
        if !seen.insert(parameter.name.as_str()) {
            return Err(SearchError::Repeated { name: parameter.name.clone() });
        }
    }
    Ok(())
}

/// A parameter about the answer takes no modifier and no chain.
fn whole(name: &str, head: &str) -> Result<(), SearchError> {
    if name == head { Ok(()) } else { Err(SearchError::UnknownModifier { name: word(name) }) }
}

fn result(parameter: &Parameter, head: &str, values: &[&str]) -> Result<Touching, SearchError> {
    whole(&parameter.name, head)?;
    if !values.contains(&parameter.value.as_str()) {
        return Err(SearchError::Value { name: head.to_owned() });
    }
    Ok(Touching { term: Term::Result(parameter.clone()), touches: Vec::new() })
}

fn plain_code(code: &str) -> Option<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (!code.is_empty() && code.bytes().all(plain)).then_some(())
}

/// A word of the request for a message: never one that could be a token.
pub(crate) fn word(text: &str) -> String {
    if text.len() > 64 || text.contains("eyJ") { "…".to_owned() } else { text.to_owned() }
}

impl Search {
    /// Every touch of every term, each once.
    pub fn touches(&self) -> BTreeSet<Touch> {
        self.terms.iter().flat_map(|touching| touching.touches.iter().copied()).collect()
    }

    /// Whether anything is asked of the resources, so that the search selects some of them.
    pub fn has_criteria(&self) -> bool {
        self.terms.iter().any(|touching| matches!(touching.term, Term::Criterion { .. } | Term::Opaque(_)))
    }
}

impl Search {
    /// The codes of the parameters that a resource is found or sorted by, at the ends of chains too.
    pub fn codes_asked(&self) -> Vec<&str> {
        fn codes(touching: &Touching) -> Vec<&str> {
            match &touching.term {
                Term::Criterion { path, .. } => vec![path.code.as_str()],
                Term::Sort(keys) => keys.iter().map(|key| key.path.code.as_str()).collect(),
                Term::Opaque(parameter) => vec![parameter.name.as_str()],
                Term::Include(_) | Term::Types(_) | Term::Result(_) => Vec::new(),
            }
        }
        self.terms.iter().flat_map(codes).collect()
    }
}

impl Term {
    /// The parameter as it is written in a query.
    pub fn write(&self) -> Parameter {
        let parameter = |name: String, value: String| Parameter { name, value };
        match self {
            Term::Criterion { path, value } => parameter(path.to_string(), value.clone()),
            Term::Include(include) => parameter(include.name(), include.what.to_string()),
            Term::Sort(keys) => parameter("_sort".to_owned(), joined(keys.iter().map(SortKey::to_string))),
            Term::Types(types) => parameter("_type".to_owned(), joined(types.iter().map(|of| of.as_str().to_owned()))),
            Term::Result(parameter) | Term::Opaque(parameter) => parameter.clone(),
        }
    }
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(",")
}

impl Include {
    fn name(&self) -> String {
        let name = if self.reverse { "_revinclude" } else { "_include" };
        let modifier = match self.repeat {
            Repeat::Once => "",
            Repeat::Iterate => ":iterate",
            Repeat::Recurse => ":recurse",
        };
        format!("{name}{modifier}")
    }
}

impl fmt::Display for Included {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Included::All => formatter.write_str("*"),
            Included::AllOf(of) => write!(formatter, "{}:*", of.as_str()),
            Included::Parameter { of, code, target: None } => write!(formatter, "{}:{code}", of.as_str()),
            Included::Parameter { of, code, target: Some(target) } => {
                write!(formatter, "{}:{code}:{}", of.as_str(), target.as_str())
            }
        }
    }
}

impl fmt::Display for SortKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", if self.descending { "-" } else { "" }, self.path)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Chain { code, of: None } => write!(formatter, "{code}.")?,
                Step::Chain { code, of: Some(of) } => write!(formatter, "{code}:{}.", of.as_str())?,
                Step::Has { of, reference } => write!(formatter, "_has:{}:{reference}:", of.as_str())?,
            }
        }
        formatter.write_str(&self.code)?;
        match self.modifier {
            Some(modifier) => write!(formatter, ":{}", modifier.as_str()),
            None => Ok(()),
        }
    }
}

impl Modifier {
    pub fn as_str(self) -> &'static str {
        match self {
            Modifier::Missing => "missing",
            Modifier::Exact => "exact",
            Modifier::Contains => "contains",
            Modifier::Text => "text",
            Modifier::TextAdvanced => "text-advanced",
            Modifier::CodeText => "code-text",
            Modifier::Not => "not",
            Modifier::Above => "above",
            Modifier::Below => "below",
            Modifier::In => "in",
            Modifier::NotIn => "not-in",
            Modifier::OfType => "of-type",
            Modifier::Identifier => "identifier",
            Modifier::Type(of) => of.as_str(),
        }
    }
}
