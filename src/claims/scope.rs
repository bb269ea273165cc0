//! SMART scope strings → what they ask for. Hides the two grammars, v1 and v2, and other spellings of their `/`.
//! INVARIANT: a malformed scope asks for nothing, not even for its valid prefix; no scope is mended into a good one.
//! INVARIANT: a scope that a careless reader could take for a clinical one is clinical or malformed, never `Other`,
//! so that it cannot leave a token's roles in force.
//! Source: SMART App Launch 2.2, "Scopes for requesting FHIR Resources"; RFC 6749, 3.3, for a scope's characters.

use std::borrow::Cow;
use std::fmt;

use crate::fhir::definitions::{Definitions, FhirVersion, ParameterKind, ResourceType};

/// How many constraints one scope may have.
const CONSTRAINTS_MAX: usize = 16;

/// On whose behalf a clinical scope asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    Patient,
    User,
    System,
}

impl Level {
    pub const ALL: [Level; 3] = [Level::Patient, Level::User, Level::System];

    /// The word before the `/`.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Patient => "patient",
            Level::User => "user",
            Level::System => "system",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One letter of a v2 scope: create, read, update, delete, search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Letter {
    C,
    R,
    U,
    D,
    S,
}

impl Letter {
    /// In the order in which a scope must write them.
    pub const ALL: [Letter; 5] = [Letter::C, Letter::R, Letter::U, Letter::D, Letter::S];

    pub fn as_str(self) -> &'static str {
        match self {
            Letter::C => "c",
            Letter::R => "r",
            Letter::U => "u",
            Letter::D => "d",
            Letter::S => "s",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Letters(u8);

impl Letters {
    pub fn contains(self, letter: Letter) -> bool {
        self.0 & letter.bit() != 0
    }

    /// The letters in the order of `cruds`.
    pub fn iter(self) -> impl Iterator<Item = Letter> {
        Letter::ALL.into_iter().filter(move |letter| self.contains(*letter))
    }

    /// v2: some of `cruds`, in that order, none twice. v1: `read` is `rs`, `write` is `cud`, `*` is all.
    fn parse(text: &str) -> Result<(Letters, Version), ScopeError> {
        let of = |letters: &[Letter]| Letters(letters.iter().fold(0, |set, letter| set | letter.bit()));
        match text {
            "" => Err(ScopeError::NoLetters),
            "read" => Ok((of(&[Letter::R, Letter::S]), Version::V1)),
            "write" => Ok((of(&[Letter::C, Letter::U, Letter::D]), Version::V1)),
            "*" => Ok((of(&Letter::ALL), Version::V1)),
            _ => {
                let mut left = Letter::ALL.iter();
                let in_order = |c: char| left.find(|letter| letter.as_str().contains(c)).copied();
                let letters: Option<Vec<Letter>> = text.chars().map(in_order).collect();
                Ok((of(&letters.ok_or(ScopeError::Letters)?), Version::V2))
            }
        }
    }
}

impl fmt::Display for Letters {
    /// As a v2 scope writes them.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|letter| formatter.write_str(letter.as_str()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Which resource types a clinical scope is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScopeType {
    /// Written `*`.
    All,
    Type(ResourceType),
}

impl ScopeType {
    /// `*` or the type's name.
    pub fn as_str(self) -> &'static str {
        match self {
            ScopeType::All => "*",
            ScopeType::Type(resource_type) => resource_type.as_str(),
        }
    }
}

/// One `name=value` behind the `?` of a v2 scope; several of them must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Constraint {
    /// A search parameter of the type, of kind token, reference or uri; without chain and modifier.
    pub parameter: String,
    /// Decoded, never empty; its comma list (any of them) is kept as FHIR writes it, `\,` and all.
    pub value: String,
}

/// A well-formed clinical scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClinicalScope {
    pub level: Level,
    pub resource_type: ScopeType,
    /// Never empty.
    pub letters: Letters,
    /// None: unconstrained.
    pub constraints: Vec<Constraint>,
    /// As the token has it.
    pub text: String,
}

impl fmt::Display for ClinicalScope {
    /// As a v2 scope, whatever version and spelling the token has; constraints as they are written there.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}.{}", self.level, self.resource_type.as_str(), self.letters)?;
        match self.text.split_once('?') {
            Some((_, query)) => write!(formatter, "?{query}"),
            None => Ok(()),
        }
    }
}

/// What one scope of a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Clinical(ClinicalScope),
    /// Meant as a clinical scope, or to be taken for one: asks for nothing, and is to be reported.
    Malformed {
        text: String,
        why: ScopeError,
    },
    /// One of SMART's and OpenID's own that give no access: `launch/patient`, `openid`, `fhirUser` ….
    Known,
    /// Any other: a matter between other parties.
    Other,
}

/// Why a scope asks for nothing. Names no part of the scope: whoever reports it has its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    #[error("a scope holds no white space and no control character; scopes are separated by one space")]
    WhiteSpace,
    #[error("a clinical scope begins exactly with `patient/`, `user/` or `system/`")]
    Level,
    #[error("after the level stands `*` or a resource type, written exactly as FHIR does")]
    Type,
    #[error("after the resource type stand a `.` and the letters")]
    NoLetters,
    #[error("the letters are some of `cruds` in that order, none twice; or v1's `read`, `write`, `*`")]
    Letters,
    #[error("a v1 scope (`read`, `write`, `*`) takes no constraints")]
    ConstraintOfV1,
    #[error("a constraint is written `?name=value`, several joined by `&`")]
    ConstraintForm,
    #[error("more than {max} constraints")]
    TooManyConstraints { max: usize },
    #[error("a constraint takes no modifier (`:`)")]
    Modifier,
    #[error("a constraint takes no chain (`.`)")]
    Chain,
    #[error("a constraint names a search parameter of the resource type; with `*`, one that all types have")]
    Parameter,
    #[error("a constraint's parameter is of kind token, reference or uri")]
    ParameterKind,
    #[error("a constraint's value, and each item of its comma list, is not empty")]
    EmptyValue,
    #[error("a constraint's value holds a character that must be percent-encoded")]
    ValueCharacter,
    #[error("a constraint's value has a percent sign without two hexadecimal digits, or encodes no UTF-8 text")]
    PercentEncoding,
    #[error("a backslash in a constraint's value stands before `,`, `|`, `$` or another backslash")]
    Escape,
}

/// What `text`, one scope of a token, is.
pub fn parse(text: &str, definitions: &Definitions) -> Scope {
    parse_spelled(text, &[], definitions)
}

/// As `parse`, where the issuer may write one of `slashes` in place of the `/` after the level word, because it allows
/// no `/` in a scope. The scope keeps its text as it is.
pub fn parse_spelled(text: &str, slashes: &[String], definitions: &Definitions) -> Scope {
    let malformed = |why| Scope::Malformed { text: text.to_owned(), why };
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return malformed(ScopeError::WhiteSpace);
    }
    if KNOWN.contains(&text) || text.starts_with("launch/") {
        return Scope::Known;
    }
    let spelled = respelled(text, slashes, definitions);
    for level in Level::ALL {
        let rest = spelled.strip_prefix(level.as_str()).and_then(|rest| rest.strip_prefix('/'));
        if let Some(rest) = rest {
            return match clinical(level, rest, text, definitions) {
                Ok(scope) => Scope::Clinical(scope),
                Err(why) => malformed(why),
            };
        }
    }
    if looks_clinical(text, definitions) { malformed(ScopeError::Level) } else { Scope::Other }
}

// `launch/…` besides.
const KNOWN: &[&str] = &["launch", "openid", "fhirUser", "offline_access", "online_access", "profile"];

fn clinical(level: Level, rest: &str, text: &str, definitions: &Definitions) -> Result<ClinicalScope, ScopeError> {
    let (head, query) = match rest.split_once('?') {
        Some((head, query)) => (head, Some(query)),
        None => (rest, None),
    };
    let (name, letters) = match head.split_once('.') {
        Some((name, letters)) => (name, Some(letters)),
        None => (head, None),
    };
    let resource_type = match name {
        "*" => ScopeType::All,
        _ => ScopeType::Type(definitions.resource_type(name).ok_or(ScopeError::Type)?),
    };
    let (letters, version) = Letters::parse(letters.ok_or(ScopeError::NoLetters)?)?;
    let constraints = match (query, version) {
        (None, Version::V1 | Version::V2) => Vec::new(),
        (Some(_), Version::V1) => return Err(ScopeError::ConstraintOfV1),
        (Some(query), Version::V2) => constraints(query, resource_type, definitions)?,
    };
    Ok(ClinicalScope { level, resource_type, letters, constraints, text: text.to_owned() })
}

fn constraints(query: &str, of: ScopeType, definitions: &Definitions) -> Result<Vec<Constraint>, ScopeError> {
    if query.split('&').nth(CONSTRAINTS_MAX).is_some() {
        return Err(ScopeError::TooManyConstraints { max: CONSTRAINTS_MAX });
    }
    query.split('&').map(|part| constraint(part, of, definitions)).collect()
}

fn constraint(part: &str, of: ScopeType, definitions: &Definitions) -> Result<Constraint, ScopeError> {
    let (name, value) = part.split_once('=').ok_or(ScopeError::ConstraintForm)?;
    judge_parameter(name, of, definitions)?;
    let value = decode(value)?;
    judge_value(&value)?;
    Ok(Constraint { parameter: name.to_owned(), value })
}

// Every type has these. What else begins with `_` steers a search (`_include`, `_has`, `_sort` …) or is judged by no
// element of the resource (`_query`, `_list`, `_text` …), whatever kind HL7's tables give it.
const COMMON: &[&str] = &["_id", "_profile", "_security", "_source", "_tag"];

fn judge_parameter(name: &str, of: ScopeType, definitions: &Definitions) -> Result<(), ScopeError> {
    if name.contains(':') {
        return Err(ScopeError::Modifier);
    }
    if name.contains('.') {
        return Err(ScopeError::Chain);
    }
    let common = COMMON.contains(&name);
    let judge = |resource_type| {
        if name.starts_with('_') && !common {
            return Err(ScopeError::Parameter);
        }
        let parameter = definitions.parameter(resource_type, name).ok_or(ScopeError::Parameter)?;
        match parameter.kind {
            ParameterKind::Token | ParameterKind::Reference | ParameterKind::Uri => Ok(()),
            ParameterKind::String
            | ParameterKind::Date
            | ParameterKind::Number
            | ParameterKind::Quantity
            | ParameterKind::Composite
            | ParameterKind::Special => Err(ScopeError::ParameterKind),
        }
    };
    match of {
        ScopeType::Type(resource_type) => judge(resource_type),
        ScopeType::All if common => definitions.resource_types().try_for_each(judge),
        ScopeType::All => Err(ScopeError::Parameter),
    }
}

/// Percent-decoded once. `+` and `;` are read differently by different readers of queries, `"`, `\` and what is not
/// ASCII stand in no scope by RFC 6749: all of them must be encoded.
fn decode(value: &str) -> Result<String, ScopeError> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit(), digit());
                let code = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                code.ok_or(ScopeError::PercentEncoding)?
            }
            b'"' | b'\\' | b'+' | b';' | b'#' => return Err(ScopeError::ValueCharacter),
            _ if byte.is_ascii_graphic() => byte,
            _ => return Err(ScopeError::ValueCharacter),
        });
    }
    let text = String::from_utf8(decoded).map_err(|_| ScopeError::PercentEncoding)?;
    if text.chars().any(char::is_control) { Err(ScopeError::ValueCharacter) } else { Ok(text) }
}

/// No item of the comma list is empty or a bare `|`, and every escape is one of FHIR's.
fn judge_value(value: &str) -> Result<(), ScopeError> {
    let mut item_has_text = false;
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some(',' | '|' | '$' | '\\') => item_has_text = true,
                Some(_) | None => return Err(ScopeError::Escape),
            },
            ',' if !item_has_text => return Err(ScopeError::EmptyValue),
            ',' => item_has_text = false,
            '|' => {}
            _ => item_has_text = true,
        }
    }
    if item_has_text { Ok(()) } else { Err(ScopeError::EmptyValue) }
}

/// The scope with `/` after the level word, where one of `slashes` stands there. A `.` after `user` stands in other
/// scopes too (`user.read`): it counts where a resource type, `*` or two more parts follow.
fn respelled<'t>(text: &'t str, slashes: &[String], definitions: &Definitions) -> Cow<'t, str> {
    for level in Level::ALL {
        let Some(rest) = text.strip_prefix(level.as_str()) else { continue };
        for slash in slashes {
            let Some(rest) = rest.strip_prefix(slash.as_str()) else { continue };
            let doubtful = level == Level::User && slash == ".";
            if !doubtful || names_a_type(rest, definitions) || rest.starts_with('*') || two_parts(rest) {
                return Cow::Owned(format!("{}/{rest}", level.as_str()));
            }
        }
    }
    Cow::Borrowed(text)
}

/// `Something.more`, with the capital that a resource type has.
fn two_parts(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase()) && text.contains('.')
}

/// Whether a careless reader, one that folds letter case or takes another sign for the `/`, could see a clinical scope:
/// a level word, or any other word, then a sign like `/`, then a resource type as a whole word.
fn looks_clinical(text: &str, definitions: &Definitions) -> bool {
    const SIGNS: [char; 5] = ['/', ':', '.', '$', '\\'];
    let sign = |(at, c): (usize, char)| {
        let after = text.get(at..)?;
        let encoded = after.strip_prefix("%2f").or_else(|| after.strip_prefix("%2F"));
        let after = encoded.or_else(|| if SIGNS.contains(&c) { after.strip_prefix(c) } else { None })?;
        Some((text.get(..at)?, after))
    };
    let Some((word, after)) = text.char_indices().find_map(sign) else { return false };
    if word == "launch" {
        return false;
    }
    if Level::ALL.iter().any(|level| word.eq_ignore_ascii_case(level.as_str())) {
        let after = after.trim_start_matches(SIGNS);
        let wildcard = after.strip_prefix('*').is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
        return wildcard || names_a_type(after, definitions);
    }
    // `api:*` is an ordinary scope, `group/*.read` is not.
    after.starts_with("*.") || names_a_type(after, definitions)
}

/// Whether `text` begins with a resource type's name as a whole word, in any letter case.
fn names_a_type(text: &str, definitions: &Definitions) -> bool {
    let word = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    definitions.resource_types().any(|known| known.as_str().eq_ignore_ascii_case(word))
}

/// The properties of every scope text; a fuzz target calls it too.
#[doc(hidden)]
pub fn holds(text: &str) -> bool {
    let definitions = Definitions::of(FhirVersion::R4);
    match parse(text, definitions) {
        Scope::Clinical(scope) => renders_to(&scope, text) && letters_stand_alone(&scope, definitions),
        Scope::Malformed { text: kept, .. } => kept == text,
        Scope::Known | Scope::Other => Level::ALL.iter().all(|level| !text.starts_with(&format!("{level}/"))),
    }
}

/// Written again from its parts, it is the text that was read: nothing of it was passed over.
fn renders_to(scope: &ClinicalScope, text: &str) -> bool {
    let (head, query) = text.split_once('?').map_or((text, None), |(head, query)| (head, Some(query)));
    let head_is = |letters: &str| head == format!("{}/{}.{letters}", scope.level, scope.resource_type.as_str());
    let spelled = scope.letters.to_string();
    let of_v1 = match spelled.as_str() {
        "rs" => "read",
        "cud" => "write",
        "cruds" => "*",
        _ => &spelled,
    };
    let parts: Vec<&str> = query.map_or(Vec::new(), |query| query.split('&').collect());
    let constraint_is = |(constraint, part): (&Constraint, &&str)| {
        part.strip_prefix(&constraint.parameter)
            .and_then(|rest| rest.strip_prefix('='))
            .is_some_and(|value| decode(value).as_ref() == Ok(&constraint.value))
    };
    scope.text == text
        && !spelled.is_empty()
        && (head_is(&spelled) || query.is_none() && head_is(of_v1))
        && parts.len() == scope.constraints.len()
        && scope.constraints.iter().zip(&parts).all(constraint_is)
}

/// A scope whose letters are cut short is judged by what is left of them, and a malformed rest gives no letter.
fn letters_stand_alone(scope: &ClinicalScope, definitions: &Definitions) -> bool {
    let head = scope.text.split('?').next().unwrap_or_default();
    let Some((stem, letters)) = head.split_once('.') else { return false };
    letters.char_indices().all(|(end, _)| {
        let left = letters.get(..end).unwrap_or_default();
        match parse(&format!("{stem}.{left}"), definitions) {
            Scope::Clinical(cut) => cut.letters.to_string() == left,
            Scope::Malformed { .. } => true,
            Scope::Known | Scope::Other => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a scope is, in one line: `level type letters constraints…`, `malformed: why`, `known` or `other`.
    fn told(scope: Scope) -> String {
        match scope {
            Scope::Clinical(scope) => {
                let constraints = scope.constraints.iter().map(|each| format!(" {}={}", each.parameter, each.value));
                let constraints: String = constraints.collect();
                format!("{} {} {}{constraints}", scope.level, scope.resource_type.as_str(), scope.letters)
            }
            Scope::Malformed { why, .. } => format!("malformed: {why:?}"),
            Scope::Known => "known".to_owned(),
            Scope::Other => "other".to_owned(),
        }
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(told(parse(text, Definitions::of(FhirVersion::R4))), expected, "{text}");
        assert!(holds(text), "{text}");
    }

    #[test]
    fn well_formed_scopes_of_v1_and_v2() {
        check("patient/Observation.read", "patient Observation rs");
        check("patient/Observation.write", "patient Observation cud");
        check("patient/Observation.*", "patient Observation cruds");
        check("user/*.*", "user * cruds");
        check("system/*.read", "system * rs");
        check("patient/Observation.cruds", "patient Observation cruds");
        check("patient/Observation.rs", "patient Observation rs");
        check("user/Practitioner.c", "user Practitioner c");
        check("system/*.cud", "system * cud");
        check("patient/*.s", "patient * s");
        check(
            "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory",
            "patient Observation rs category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory",
        );
        check(
            "patient/Observation.rs?category=http%3A%2F%2Fexample.org%7Claboratory&code=a,b",
            "patient Observation rs category=http://example.org|laboratory code=a,b",
        );
        check("patient/Observation.r?code=a&code=b", "patient Observation r code=a code=b");
        check("patient/*.rs?_security=http://x|R", "patient * rs _security=http://x|R");
        check("system/Observation.rs?subject=Patient/123", "system Observation rs subject=Patient/123");
        check("user/Observation.s?code=a%5C,b", "user Observation s code=a\\,b");
        check("user/Observation.s?code=sys|,|c", "user Observation s code=sys|,|c");
        check("user/Observation.s?code=50%25", "user Observation s code=50%");
        check("user/Observation.s?code=a=b?c", "user Observation s code=a=b?c");
    }

    #[test]
    fn a_malformed_scope_gives_nothing() {
        check("patient/Observation.sr", "malformed: Letters");
        check("patient/Observation.rr", "malformed: Letters");
        check("patient/Observation.rsx", "malformed: Letters");
        check("patient/Observation.R", "malformed: Letters");
        check("patient/Observation.Read", "malformed: Letters");
        check("patient/Observation.reads", "malformed: Letters");
        check("patient/Observation.rea", "malformed: Letters");
        check("patient/Observation.**", "malformed: Letters");
        check("patient/Observation.*s", "malformed: Letters");
        check("patient/Observation.rs.rs", "malformed: Letters");
        check("patient/Observation.rs,patient/Condition.rs", "malformed: Letters");
        check("patient/Observation.", "malformed: NoLetters");
        check("patient/Observation", "malformed: NoLetters");
        check("patient/*", "malformed: NoLetters");
        check("patient/Observation?code=a.rs", "malformed: NoLetters");
        check("patient/", "malformed: Type");
        check("patient/.rs", "malformed: Type");
        check("patient//Observation.rs", "malformed: Type");
        check("patient/observation.rs", "malformed: Type");
        check("patient/Observations.rs", "malformed: Type");
        check("patient/Obs*.rs", "malformed: Type");
        check("patient/Observation/1.rs", "malformed: Type");
        check("system/Observation%2Ers", "malformed: Type");
        check("user/read", "malformed: Type");
        check("patient/Observation.rs\tuser/*.rs", "malformed: WhiteSpace");
        check("patient/Observation.rs ", "malformed: WhiteSpace");
        check("openid\u{a0}profile", "malformed: WhiteSpace");
        check("patient/Observation.rs\0", "malformed: WhiteSpace");
    }

    #[test]
    fn constraints_are_plain_searches_or_none_at_all() {
        check("patient/Observation.read?code=a", "malformed: ConstraintOfV1");
        check("patient/Observation.*?code=a", "malformed: ConstraintOfV1");
        check("patient/Observation.rs?", "malformed: ConstraintForm");
        check("patient/Observation.rs?code", "malformed: ConstraintForm");
        check("patient/Observation.rs?code=a&", "malformed: ConstraintForm");
        check("patient/Observation.rs?=a", "malformed: Parameter");
        check("patient/Observation.rs?code=", "malformed: EmptyValue");
        check("patient/Observation.rs?code=a,,b", "malformed: EmptyValue");
        check("patient/Observation.rs?code=,a", "malformed: EmptyValue");
        check("patient/Observation.rs?code=|", "malformed: EmptyValue");
        check("patient/Observation.rs?code=%2C", "malformed: EmptyValue");
        check("patient/Observation.rs?code:not=a", "malformed: Modifier");
        check("patient/Observation.rs?code:in=a", "malformed: Modifier");
        check("patient/Observation.rs?subject:Patient=1", "malformed: Modifier");
        check("patient/Observation.rs?patient.name=a", "malformed: Chain");
        check("patient/Observation.rs?_has:Group:member:_id=1", "malformed: Modifier");
        check("patient/Observation.rs?_include=*", "malformed: Parameter");
        check("patient/Observation.rs?_sort=date", "malformed: Parameter");
        check("patient/Observation.rs?_count=1", "malformed: Parameter");
        check("patient/Observation.rs?_query=a", "malformed: Parameter");
        check("patient/Observation.rs?_text=a", "malformed: Parameter");
        check("patient/Observation.rs?Code=a", "malformed: Parameter");
        check("patient/Observation.rs?c%6Fde=a", "malformed: Parameter");
        check("patient/Observation.rs?unheard=a", "malformed: Parameter");
        check("patient/*.rs?code=a", "malformed: Parameter");
        check("patient/Observation.rs?date=2024", "malformed: ParameterKind");
        check("patient/Observation.rs?value-quantity=1", "malformed: ParameterKind");
        check("patient/Observation.rs?value-string=a", "malformed: ParameterKind");
        check("patient/Observation.rs?code=a+b", "malformed: ValueCharacter");
        check("patient/Observation.rs?code=a;b", "malformed: ValueCharacter");
        check("patient/Observation.rs?code=a#b", "malformed: ValueCharacter");
        check("patient/Observation.rs?code=\"a\"", "malformed: ValueCharacter");
        check("patient/Observation.rs?code=ä", "malformed: ValueCharacter");
        check("patient/Observation.rs?code=a%00", "malformed: ValueCharacter");
        check("patient/Observation.rs?code=a%", "malformed: PercentEncoding");
        check("patient/Observation.rs?code=a%4", "malformed: PercentEncoding");
        check("patient/Observation.rs?code=a%+4", "malformed: PercentEncoding");
        check("patient/Observation.rs?code=%ff", "malformed: PercentEncoding");
        check("patient/Observation.rs?code=a%5Cb", "malformed: Escape");
        check("patient/Observation.rs?code=a%5C", "malformed: Escape");
        let many = format!("patient/Observation.rs?code=a{}", "&code=a".repeat(CONSTRAINTS_MAX));
        check(&many, "malformed: TooManyConstraints { max: 16 }");
    }

    #[test]
    fn what_looks_clinical_is_never_passed_over() {
        for text in [
            "system:Patient.read",
            "Patient/Observation.read",
            "PATIENT/Observation.read",
            "user:Patient",
            "group/Observation.rs",
            "group/*.read",
            "patient.Observation.read",
            "patient$Observation.read",
            "patient%2fObservation.read",
            "patient%2FObservation.read",
            "patient\\Observation.read",
            "System/*.read",
            "system:*",
            "Patient//Observation.read",
            "patient:/Observation.read",
            "patient.observation.read",
            "\"patient/Observation.rs\"",
            "pаtient/Observation.rs", // a Cyrillic а
            "/Observation.read",
        ] {
            check(text, "malformed: Level");
        }
    }

    #[test]
    fn what_gives_no_access_is_known_or_left_alone() {
        for text in ["launch", "launch/patient", "launch/encounter", "launch/anything", "openid", "fhirUser", "profile"]
        {
            check(text, "known");
        }
        for text in ["offline_access", "online_access"] {
            check(text, "known");
        }
        for text in [
            "",
            "email",
            "user:email",
            "user.read",
            "User.Read",
            "api/read",
            "api:*",
            "https://example.org/scope",
            "https://patient.example.org/read",
            "user_impersonation",
            "patient",
            "Patient.Read",
            "patients/Everything.read",
            "fhiruser",
            ".default",
        ] {
            check(text, "other");
        }
    }

    #[test]
    fn an_issuer_may_spell_the_slash_otherwise() {
        let slashes = ["%2f", "%2F", ".", "$"].map(str::to_owned);
        let check = |text: &str, expected: &str| {
            let scope = parse_spelled(text, &slashes, Definitions::of(FhirVersion::R4));
            if let Scope::Clinical(scope) = &scope {
                assert_eq!(scope.text, text);
                let again = parse(&scope.to_string(), Definitions::of(FhirVersion::R4));
                assert_eq!(told(again), expected, "{text}, written again");
            }
            assert_eq!(told(scope), expected, "{text}");
        };
        check("patient/Observation.rs", "patient Observation rs");
        check("patient%2fObservation.rs", "patient Observation rs");
        check("patient%2FObservation.rs", "patient Observation rs");
        check("patient.Observation.rs", "patient Observation rs");
        check("patient$Observation.read", "patient Observation rs");
        check("user.*.read", "user * rs");
        check("system.*.*", "system * cruds");
        check("patient.Observation.rs?subject=Patient/1", "patient Observation rs subject=Patient/1");
        check("patient.Observation.rs?code=a%2fb", "patient Observation rs code=a/b");
        // only the first, only there, only as the issuer spells it
        check("patient..Observation.rs", "malformed: Type");
        check("patient%2f%2fObservation.rs", "malformed: Type");
        check("patient:Observation.rs", "malformed: Level");
        check("Patient.Observation.rs", "malformed: Level");
        check("patient.Observations.rs", "malformed: Type");
        check("user.Observations.rs", "malformed: Type");
        check("user.observation.rs", "malformed: Type");
        check("user.read", "other");
        check("User.Read", "other");
        check("launch.patient", "other");
    }

    /// Well-formed scopes of the definitions' own types, then up to three bends.
    fn scopes() -> impl Strategy<Value = String> {
        let names = ["*", "Patient", "Observation", "Condition", "Encounter", "Group"];
        let letters = ["read", "write", "*", "cruds", "rs", "c", "u", "cud", "ds"];
        let queries = ["", "", "", "?_security=R", "?_id=1,2&_tag=a%7Cb", "?subject=Patient/1", "?code=%5C%2C"];
        let level = prop::sample::select(&["patient", "user", "system"][..]);
        let parts = (level, prop::sample::select(names.to_vec()), prop::sample::select(letters.to_vec()));
        let whole = (parts, prop::sample::select(queries.to_vec()))
            .prop_map(|((level, name, letters), query)| format!("{level}/{name}.{letters}{query}"));
        let bend = (any::<prop::sample::Index>(), prop::sample::select(b"/.:?=&%* \t,rsP2\\$|+".to_vec()), 0..4u8);
        (whole, prop::collection::vec(bend, 0..4)).prop_map(|(mut text, bends)| {
            for (index, byte, how) in bends {
                let at = index.index(text.len().max(1)).min(text.len());
                match how {
                    0 => text.insert(at, char::from(byte)),
                    1 if at < text.len() => drop(text.remove(at)),
                    2 => text.truncate(at),
                    _ => text = text.replacen(char::from(byte), "", 1),
                }
            }
            text
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn scopes_hold(text in scopes()) {
            prop_assert!(holds(&text));
        }

        #[test]
        fn any_text_holds(text in ".{0,40}") {
            prop_assert!(holds(&text));
        }
    }
}
