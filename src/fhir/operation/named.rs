//! `$name` operations, each with what it reveals or changes. Hides the parameters of every one that is known.
//! INVARIANT: an operation, a place or a parameter that is not known reaches everything.
//! Source: FHIR R4 operations.html; Bulk Data Access; US Core `$docref`; Azure's `$bulk-delete`, `$import` and the like.

use std::collections::BTreeSet;

use super::{
    Access, AccessRole, Accesses, At, Body, EvidenceKind, GENERAL, Invalid, Parsed, Reach, Reader, add_every,
    destruction, every, is_named, is_of, primary,
};
use crate::fhir::action::Action;
use crate::fhir::definitions::{Compartment, ResourceType};
use crate::fhir::search::{Grammar, Level, Search, SearchError};
use crate::fhir::url::{self, Parameter};

/// An operation being read: what its parameters add to what its name reaches.
pub(super) struct Call<'a, 'r> {
    pub(super) reader: &'r Reader<'a>,
    pub(super) action: Action,
    pub(super) at: At,
    pub(super) inputs: Vec<Parameter>,
}

pub(super) struct Read {
    pub(super) accesses: Accesses,
    pub(super) search: Option<Search>,
}

impl From<Accesses> for Read {
    fn from(accesses: Accesses) -> Read {
        Read { accesses, search: None }
    }
}

impl Call<'_, '_> {
    pub(super) fn read(&self, name: &str) -> Parsed<Read> {
        Ok(match name {
            "$everything" => self.everything()?.into(),
            "$export" => self.export()?.into(),
            "$lastn" => self.search("Observation", &["max"])?,
            "$docref" => {
                self.on(&["DocumentReference"], &["patient", "start", "end", "type", "on-demand", "profile"])?
            }
            "$expand" => self.on(&["ValueSet", "CodeSystem"], EXPAND)?,
            "$validate-code" => self.on(&["ValueSet", "CodeSystem"], VALIDATE_CODE)?,
            "$lookup" => self.on(&["CodeSystem"], LOOKUP)?,
            "$subsumes" => self.on(&["CodeSystem"], SUBSUMES)?,
            "$translate" => self.on(&["ConceptMap", "ValueSet", "CodeSystem"], TRANSLATE)?,
            "$match" => self.on(&["Patient"], &["resource", "onlyCertainMatches", "onlySingleMatch", "count"])?,
            "$member-match" => {
                self.on(&["Patient", "Coverage"], &["MemberPatient", "CoverageToMatch", "CoverageToLink", "Consent"])?
            }
            "$meta" => self.meta()?.into(),
            "$meta-add" | "$meta-delete" => {
                let accesses = Accesses::of(primary(self.action, self.at.reach(), EvidenceKind::StoredAndProposed));
                self.widened(accesses, &["meta"])?.into()
            }
            "$validate" => self.validate()?.into(),
            "$status" => self.on(&["SearchParameter"], &["url"])?,
            "$bulk-delete" => self.bulk(&[Action::DELETE])?,
            "$bulk-update" => self.bulk(&[Action::UPDATE])?,
            "$purge-history" => {
                let mut accesses = Accesses::of(primary(self.action, self.at.reach(), EvidenceKind::Versions));
                accesses.add(primary(Action::DELETE, self.at.reach(), EvidenceKind::Stored));
                let mut accesses = self.widened(accesses, &["allowPartialSuccess"])?;
                if accesses.seen.contains(&every(self.action)) {
                    add_every(&mut accesses, Action::DELETE);
                }
                accesses.into()
            }
            // Only a policy that names it permits such a one, and knows what it does.
            _ => Accesses::of(primary(self.action, self.at.reach(), self.at.evidence())).into(),
        })
    }

    /// The record of a patient, an encounter … or of all: whatever types `_type` leaves.
    fn everything(&self) -> Parsed<Accesses> {
        let mut accesses = Accesses::each(self.action, self.types()?.as_deref());
        if let At::Instance(..) = self.at {
            accesses.add(primary(self.action, self.at.reach(), EvidenceKind::Stored));
        }
        self.widened(accesses, &["start", "end", "_since", "_type", "_count"])
    }

    /// What comes out, and what selects it. A `_typeFilter` is a search of its own.
    fn export(&self) -> Parsed<Accesses> {
        let types = match (self.types()?, &self.at) {
            (Some(types), _) => Some(types),
            (None, At::Type(_)) if self.at.is("Patient") => Some(self.reader.members(Compartment::Patient)),
            (None, At::Instance(..)) if self.at.is("Group") => Some(self.reader.members(Compartment::Patient)),
            (None, At::System | At::Type(_) | At::Instance(..) | At::Version(..)) => None,
        };
        let mut accesses = Accesses::each(self.action, types.as_deref());
        let selector = match self.at.evidence() {
            EvidenceKind::None => None,
            EvidenceKind::Many => Some(Action::SEARCH_TYPE),
            EvidenceKind::Stored
            | EvidenceKind::Proposed
            | EvidenceKind::StoredAndProposed
            | EvidenceKind::Versions => Some(Action::READ),
        };
        if let Some(action) = selector {
            let (target, evidence) = (self.at.reach(), self.at.evidence());
            accesses.add(Access { action, target, role: AccessRole::Selector, evidence });
        }
        if self.inputs.iter().any(|input| input.name == "patient") {
            self.reader.add_named(&mut accesses, Action::SEARCH_TYPE, AccessRole::Selector, &["Patient"]);
        }
        for (of, search) in self.type_filters()? {
            accesses.add(primary(self.action, Reach::Type(of), EvidenceKind::Many));
            accesses.touch(search.touches());
        }
        if self.inputs.iter().any(|input| input.name == "includeAssociatedData") {
            self.reader.add_named(&mut accesses, self.action, AccessRole::Primary, &["Provenance"]);
        }
        self.widened(accesses, EXPORT)
    }

    fn type_filters(&self) -> Parsed<Vec<(ResourceType, Search)>> {
        let given = self.inputs.iter().filter(|input| input.name == "_typeFilter");
        let filters: Vec<String> = given.flat_map(|input| split_filters(&input.value)).collect();
        self.reader.count(filters.len())?;
        filters.iter().map(|filter| self.type_filter(filter)).collect()
    }

    fn type_filter(&self, filter: &str) -> Parsed<(ResourceType, Search)> {
        let (of, query) = filter
            .split_once('?')
            .ok_or(SearchError::Value { name: "_typeFilter".to_owned() })
            .map_err(Invalid::from)?;
        let of = self.reader.resource_type(of)?;
        let max = self.reader.room.settings.parameters_max;
        // the value was decoded once already, so that a space is a space
        let query = url::parameters(&query.replace(' ', "+"), max).map_err(Invalid::Form)?;
        let query = self.reader.without_control(&query)?;
        let search = self.reader.grammar.search(Level::Type(of), &query, &[]).map_err(Invalid::from)?;
        Ok((of, search))
    }

    /// A search with another name.
    fn search(&self, of: &str, also: &[&str]) -> Parsed<Read> {
        let of = self.reader.resource_type(of)?;
        let search = self.reader.grammar.search(Level::Type(of), &self.inputs, also).map_err(Invalid::from)?;
        let mut accesses = Accesses::of(primary(self.action, Reach::Type(of), EvidenceKind::Many));
        accesses.touch(search.touches());
        if !matches!(self.at, At::Type(at) if at == of) {
            add_every(&mut accesses, self.action);
        }
        Ok(Read { accesses, search: Some(search) })
    }

    /// An operation on the types that it is defined for; called on another one, it may do anything.
    fn on(&self, names: &[&str], known: &[&str]) -> Parsed<Read> {
        let types: Vec<_> = names.iter().filter_map(|name| self.reader.room.definitions.resource_type(name)).collect();
        let mut accesses = Accesses::each(self.action, Some(&types));
        match &self.at {
            At::System => {}
            At::Type(of) if types.contains(of) => {}
            At::Instance(of, _) | At::Version(of, _, _) if types.contains(of) => {
                accesses.add(primary(self.action, self.at.reach(), self.at.evidence()));
            }
            At::Type(_) | At::Instance(..) | At::Version(..) => add_every(&mut accesses, self.action),
        }
        Ok(self.widened(accesses, known)?.into())
    }

    /// The labels in use: at the base, those of every type.
    fn meta(&self) -> Parsed<Accesses> {
        let access = match &self.at {
            At::System => primary(self.action, Reach::Every, EvidenceKind::Many),
            At::Type(_) | At::Instance(..) | At::Version(..) => {
                primary(self.action, self.at.reach(), self.at.evidence())
            }
        };
        self.widened(Accesses::of(access), &[])
    }

    fn validate(&self) -> Parsed<Accesses> {
        if let (Body::Json(body), Some(of)) = (self.reader.body, self.at.resource_type())
            && !is_of(body, "Parameters")
            && !is_of(body, of.as_str())
        {
            return Err(Invalid::BodyType { expected: of.as_str() }.into());
        }
        let accesses = Accesses::of(primary(self.action, self.at.reach(), self.at.evidence()));
        self.widened(accesses, &["resource", "mode", "profile", "usageContext"])
    }

    /// Bulk changes: the operation, what it does to each resource, and the search that selects them.
    fn bulk(&self, does: &[Action]) -> Parsed<Read> {
        const HARD: &[&str] = &["_hardDelete", "hardDelete", "_purgeHistory", "purgeHistory"];
        let (hard, others): (Vec<_>, Vec<_>) = self.inputs.iter().cloned().partition(|input| is_named(input, HARD));
        let mut actions = [&[self.action], does].concat();
        if hard.iter().any(|input| input.value != "false") {
            actions.push(Action::HARD_DELETE);
        }
        const ALSO: &[&str] = &["excludedResourceTypes", "operation", "_isParallel", "_maxCount"];
        let of = self.at.resource_type();
        let level = of.map_or(Level::System, Level::Type);
        let search = self.reader.grammar.search(level, &others, ALSO).map_err(Invalid::from)?;
        let mut accesses = destruction(&actions, of, &search);
        if matches!(self.at, At::Instance(..) | At::Version(..)) {
            actions.iter().for_each(|action| add_every(&mut accesses, *action));
        }
        Ok(Read { accesses, search: Some(search) })
    }

    /// The types of every `_type`, however many times it is given.
    fn types(&self) -> Parsed<Option<Vec<ResourceType>>> {
        let mut types: Option<Vec<ResourceType>> = None;
        for input in self.inputs.iter().filter(|input| input.name == "_type") {
            let further = self.reader.grammar.types(&input.value).map_err(Invalid::from)?;
            types.get_or_insert_default().extend(further);
        }
        Ok(types)
    }

    /// Adds everything, where a parameter is not known.
    fn widened(&self, mut accesses: Accesses, known: &[&str]) -> Parsed<Accesses> {
        let known = [GENERAL, known].concat();
        // an operation's own parameters may repeat
        let mut seen = BTreeSet::new();
        let each: Vec<_> = self.inputs.iter().filter(|input| seen.insert(&input.name)).cloned().collect();
        if !Grammar::all_known(&each, &known).map_err(Invalid::from)? {
            add_every(&mut accesses, self.action);
        }
        Ok(accesses)
    }
}

const EXPORT: &[&str] = &[
    "_since",
    "_until",
    "_till",
    "_outputFormat",
    "_type",
    "_typeFilter",
    "_container",
    "_isParallel",
    "_maxCount",
    "allowPartialManifests",
    "includeAssociatedData",
    "organizeOutputBy",
    "patient",
];
const EXPAND: &[&str] = &[
    "url",
    "valueSet",
    "valueSetVersion",
    "filter",
    "date",
    "offset",
    "count",
    "includeDesignations",
    "designation",
    "includeDefinition",
    "activeOnly",
    "excludeNested",
    "excludeNotForUI",
    "excludePostCoordinated",
    "displayLanguage",
    "exclude-system",
    "system-version",
    "check-system-version",
    "force-system-version",
    "property",
    "useSupplement",
];
const VALIDATE_CODE: &[&str] = &[
    "url",
    "valueSet",
    "valueSetVersion",
    "codeSystem",
    "code",
    "system",
    "systemVersion",
    "version",
    "display",
    "coding",
    "codeableConcept",
    "date",
    "abstract",
    "displayLanguage",
    "useSupplement",
];
const LOOKUP: &[&str] =
    &["code", "system", "version", "coding", "date", "displayLanguage", "property", "useSupplement"];
const SUBSUMES: &[&str] = &["codeA", "codeB", "system", "version", "codingA", "codingB"];
const TRANSLATE: &[&str] = &[
    "url",
    "conceptMap",
    "conceptMapVersion",
    "code",
    "system",
    "version",
    "source",
    "coding",
    "codeableConcept",
    "target",
    "targetsystem",
    "dependency",
    "reverse",
    "sourceCode",
    "sourceCoding",
    "sourceCodeableConcept",
    "sourceScope",
    "targetCode",
    "targetCoding",
    "targetCodeableConcept",
    "targetScope",
    "targetSystem",
];

/// `A?x=1,B?y=2`: a comma parts filters where another type follows it, and values where none does.
fn split_filters(text: &str) -> Vec<String> {
    let mut filters: Vec<String> = Vec::new();
    for piece in text.split(',') {
        let filter = piece.trim_start();
        let begins = filter.split_once('?').is_some_and(|(of, _)| of.bytes().all(|byte| byte.is_ascii_alphabetic()));
        match filters.last_mut() {
            Some(last) if !begins => {
                last.push(',');
                last.push_str(piece);
            }
            Some(_) | None => filters.push(filter.to_owned()),
        }
    }
    filters
}
