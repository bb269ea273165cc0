//! Where a claim stands, what it must be like, and the texts that are made of it. Hides how a rule's `when` and the
//! templates of its `grant` are written in claims.yaml.
//! INVARIANT: texts are compared whole and exactly; a number is never equal to a text.
//! INVARIANT: what is missing, empty or no single value makes no text, never an empty one.
//! Source: RFC 6901 for JSON Pointers.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde_json::Map;
use serde_json::Value as Json;

use super::nodes::{Entries, Node, Place, Reader, Value, list};

/// How deep `all`, `any` and `not` may stand in each other.
const DEPTH_MAX: usize = 8;
/// How many bytes a compiled `matches` may take.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// How many groups a `matches` may nest.
const REGEX_NESTING_MAX: u32 = 32;
/// How many texts one template may make of one token.
pub const TEXTS_MAX: usize = 1_000;

/// Where a claim stands: `realm_access.roles`, or as a JSON Pointer `/realm_access/roles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath {
    written: String,
    names: Vec<String>,
    /// A pointer can also name an item of an array, by its index.
    pointer: bool,
}

/// Why a text is no claim path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the name of a claim is empty")]
    EmptyName,
    #[error("a claim's name with other signs than letters, digits, `_`, `-` and `:` is written as a JSON Pointer")]
    Sign,
    #[error("in a JSON Pointer `~` is followed by 0 (for `~`) or 1 (for `/`)")]
    Escape,
}

impl ClaimPath {
    /// A JSON Pointer if it begins with `/`, else names joined by dots.
    pub fn parse(text: &str) -> Result<ClaimPath, PathError> {
        let pointer = text.strip_prefix('/');
        let names: Result<Vec<String>, PathError> = match pointer {
            Some(rest) => rest.split('/').map(unescaped).collect(),
            None => text.split('.').map(plain_name).collect(),
        };
        Ok(ClaimPath { written: text.to_owned(), names: names?, pointer: pointer.is_some() })
    }

    /// What stands there, whatever it is.
    pub fn find<'c>(&self, claims: &'c Map<String, Json>) -> Option<&'c Json> {
        let (first, rest) = self.names.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| match value {
            Json::Object(members) => members.get(name),
            Json::Array(items) if self.pointer => items.get(index(name)?),
            Json::Array(_) | Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => None,
        })
    }

    /// A path from a node, or a finding.
    pub fn read(node: &Node, what: &str, reader: &Reader<'_>) -> Option<ClaimPath> {
        let text = reader.text(node, what)?;
        match ClaimPath::parse(text) {
            Ok(path) => return Some(path),
            Err(error @ PathError::Sign) => {
                let pointer = format!("/{}", text.replace('~', "~0").replace('/', "~1"));
                let help = format!("write `{pointer}` if this is the name of one claim");
                reader.problem_with_help(node.place, format!("{what}: {error}"), help);
            }
            Err(error @ (PathError::EmptyName | PathError::Escape)) => {
                reader.problem(node.place, format!("{what}: {error}"));
            }
        }
        None
    }
}

impl fmt::Display for ClaimPath {
    /// As it is written in claims.yaml.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.written)
    }
}

fn plain_name(name: &str) -> Result<String, PathError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':');
    match name {
        "" => Err(PathError::EmptyName),
        _ if name.chars().all(plain) => Ok(name.to_owned()),
        _ => Err(PathError::Sign),
    }
}

fn unescaped(name: &str) -> Result<String, PathError> {
    let mut parts = name.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix('0'), part.strip_prefix('1')) {
            (Some(rest), _) => ('~', rest),
            (None, Some(rest)) => ('/', rest),
            (None, None) => return Err(PathError::Escape),
        };
        text.push(sign);
        text.push_str(rest);
    }
    if text.is_empty() { Err(PathError::EmptyName) } else { Ok(text) }
}

fn index(name: &str) -> Option<usize> {
    let plain = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if plain { name.parse().ok() } else { None }
}

/// What a rule asks of the claims.
#[derive(Debug, Clone)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Claim { path: ClaimPath, test: Test },
}

/// What is asked of one claim. One that is missing passes no test but `present: false`.
#[derive(Debug, Clone)]
pub enum Test {
    /// It is this one value.
    Equals(Scalar),
    /// It is one of these, or an array with one of them.
    AnyOf(Vec<Scalar>),
    /// It is an array with this value, or this value alone.
    Contains(Scalar),
    /// It is a text, or an array with a text, that matches from its beginning to its end.
    Matches(Pattern),
    /// It is there, whatever its value, `null` too.
    Present(bool),
}

/// A value that a claim is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    Text(String),
    Integer(i128),
    Bool(bool),
}

impl Condition {
    /// Whether the claims are as asked.
    pub fn is_met(&self, claims: &Map<String, Json>) -> bool {
        match self {
            Condition::All(parts) => parts.iter().all(|part| part.is_met(claims)),
            Condition::Any(parts) => parts.iter().any(|part| part.is_met(claims)),
            Condition::Not(part) => !part.is_met(claims),
            Condition::Claim { path, test } => test.passes(path.find(claims)),
        }
    }

    /// The one `matches` whose groups a grant may use: where there are several, or where the condition can be met
    /// without it, there is none.
    pub fn captured(&self) -> Option<(&ClaimPath, &Pattern)> {
        let only = self.surely_matched();
        if self.count_of_matches() == 1 { only } else { None }
    }

    fn surely_matched(&self) -> Option<(&ClaimPath, &Pattern)> {
        match self {
            Condition::All(parts) => parts.iter().find_map(Condition::surely_matched),
            Condition::Claim { path, test: Test::Matches(pattern) } => Some((path, pattern)),
            Condition::Claim {
                test: Test::Equals(_) | Test::AnyOf(_) | Test::Contains(_) | Test::Present(_), ..
            }
            | Condition::Any(_)
            | Condition::Not(_) => None,
        }
    }

    fn count_of_matches(&self) -> usize {
        match self {
            Condition::All(parts) | Condition::Any(parts) => parts.iter().map(Condition::count_of_matches).sum(),
            Condition::Not(part) => part.count_of_matches(),
            Condition::Claim { test, .. } => usize::from(matches!(test, Test::Matches(_))),
        }
    }

    /// A condition from a rule's `when`, or findings.
    pub fn read(node: &Node, reader: &Reader<'_>) -> Option<Condition> {
        Condition::read_at(node, 0, reader)
    }

    fn read_at(node: &Node, depth: usize, reader: &Reader<'_>) -> Option<Condition> {
        if depth > DEPTH_MAX {
            reader.problem(node.place, format!("conditions stand in each other more than {DEPTH_MAX} deep"));
            return None;
        }
        let entries = reader.entries(node, "condition", CONDITION_KEYS)?;
        let (kind, inner) = the_one_of(&["claim", "all", "any", "not"], &entries, reader)?;
        if kind == "claim" {
            return claim_condition(inner, &entries, reader);
        }
        for (key, place, _) in entries.iter().filter(|(key, ..)| TESTS.contains(key)) {
            reader.problem(place, format!("`{key}` stands beside `claim`, not beside `{kind}`"));
        }
        if kind == "not" {
            return Some(Condition::Not(Box::new(Condition::read_at(inner, depth + 1, reader)?)));
        }
        let items = reader.list(inner, kind)?;
        let parts: Vec<_> = items.iter().map(|item| Condition::read_at(item, depth + 1, reader)).collect();
        let parts: Option<Vec<_>> = parts.into_iter().collect();
        Some(if kind == "all" { Condition::All(parts?) } else { Condition::Any(parts?) })
    }
}

const TESTS: &[&str] = &["equals", "anyOf", "contains", "matches", "present"];
const CONDITION_KEYS: &[&str] = &["claim", "all", "any", "not", "equals", "anyOf", "contains", "matches", "present"];

/// The one key of `choices` that is there; none or several are findings.
pub fn the_one_of<'n>(choices: &[&str], entries: &Entries<'n>, reader: &Reader<'_>) -> Option<(&'n str, &'n Node)> {
    let mut there = entries.iter().filter(|(key, ..)| choices.contains(key));
    match (there.next(), there.next()) {
        (Some((key, _, node)), None) => return Some((key, node)),
        (None, _) => reader.problem(entries.place, format!("one of {} is missing", list(choices))),
        (Some((first, ..)), Some((second, place, _))) => {
            reader.problem(place, format!("`{first}` and `{second}` exclude each other; take one"));
        }
    }
    None
}

fn claim_condition(claim: &Node, entries: &Entries<'_>, reader: &Reader<'_>) -> Option<Condition> {
    let path = ClaimPath::read(claim, "claim", reader);
    let (key, node) = the_one_of(TESTS, entries, reader)?;
    let test = match key {
        "equals" => Test::Equals(Scalar::read(node, reader)?),
        "contains" => Test::Contains(Scalar::read(node, reader)?),
        "anyOf" => {
            let scalars = reader.list(node, key)?.iter().map(|item| Scalar::read(item, reader)).collect::<Vec<_>>();
            Test::AnyOf(scalars.into_iter().collect::<Option<_>>()?)
        }
        "matches" => Test::Matches(Pattern::read(node, reader)?),
        _ => Test::Present(reader.bool(node, key)?),
    };
    Some(Condition::Claim { path: path?, test })
}

impl Test {
    fn passes(&self, claim: Option<&Json>) -> bool {
        let Some(claim) = claim else { return matches!(self, Test::Present(false)) };
        match self {
            Test::Equals(scalar) => scalar.is(claim),
            Test::AnyOf(scalars) => items(claim).iter().any(|item| scalars.iter().any(|scalar| scalar.is(item))),
            Test::Contains(scalar) => items(claim).iter().any(|item| scalar.is(item)),
            Test::Matches(pattern) => items(claim).iter().filter_map(Json::as_str).any(|text| pattern.matches(text)),
            Test::Present(wanted) => *wanted,
        }
    }
}

/// An array's items, or the value itself.
fn items(value: &Json) -> &[Json] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

impl Scalar {
    fn is(&self, value: &Json) -> bool {
        match self {
            Scalar::Text(text) => value.as_str() == Some(text),
            Scalar::Bool(truth) => value.as_bool() == Some(*truth),
            Scalar::Integer(number) => integer(value) == Some(*number),
        }
    }

    fn read(node: &Node, reader: &Reader<'_>) -> Option<Scalar> {
        match &node.value {
            Value::Text(text) => Some(Scalar::Text(text.clone())),
            Value::Integer(number) => Some(Scalar::Integer(*number)),
            Value::Bool(truth) => Some(Scalar::Bool(*truth)),
            Value::Null | Value::Float | Value::List(_) | Value::Map(_) => {
                reader.problem(node.place, "a claim is compared with a text, a whole number, `true` or `false`");
                None
            }
        }
    }
}

fn integer(value: &Json) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

/// A regular expression that must match a whole text, in time linear in its length.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    fn parse(text: &str) -> Result<Pattern, regex::Error> {
        let build = |pattern: &str| {
            let mut builder = RegexBuilder::new(pattern);
            builder.size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).nest_limit(REGEX_NESTING_MAX).build()
        };
        // Alone first: `a)|(?:b` would slip out of the anchors.
        build(text)?;
        build(&format!(r"\A(?:{text})\z")).map(Pattern)
    }

    fn read(node: &Node, reader: &Reader<'_>) -> Option<Pattern> {
        let text = reader.text(node, "matches")?;
        Pattern::parse(text)
            .map_err(|error| {
                // The crate draws a picture around the last line, which says what is wrong.
                let told = error.to_string();
                let told = told.lines().last().unwrap_or_default();
                let told = told.trim_start_matches("error: ").trim_end_matches('.');
                let message = format!("`matches` is no regular expression: {}", told.to_lowercase());
                reader.problem_with_help(node.place, message, "the syntax is that of the Rust crate `regex`");
            })
            .ok()
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// How many groups it has, the whole match not counted.
    pub fn groups(&self) -> usize {
        self.0.captures_len().saturating_sub(1)
    }
}

/// The groups that a `matches` has caught, one row for each text that matched. A group without a text took no part.
pub type Caught = Vec<Vec<Option<String>>>;

/// What the groups of `pattern` catch of a claim.
pub fn catch(path: &ClaimPath, pattern: &Pattern, claims: &Map<String, Json>) -> Caught {
    let texts = path.find(claims).map(items).unwrap_or_default().iter().filter_map(Json::as_str);
    let row = |text| {
        let groups = pattern.0.captures(text)?;
        Some(groups.iter().skip(1).map(|group| group.map(|found| found.as_str().to_owned())).collect())
    };
    texts.take(TEXTS_MAX + 1).filter_map(row).collect()
}

/// A text with `${claim}` and `${1}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Claim(ClaimPath),
    /// A group of the rule's `matches`, from 1.
    Group(usize),
}

/// A template would make more texts of this token than `TEXTS_MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyTexts;

impl Template {
    /// A template from a node, or a finding.
    pub fn read(node: &Node, what: &str, reader: &Reader<'_>) -> Option<Template> {
        let text = reader.text(node, what)?;
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((inside, after)) = after.split_once('}') else {
                reader.problem(node.place, format!("{what}: `${{` without its `}}`"));
                return None;
            };
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            parts.push(part(inside, node.place, what, reader)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Some(Template(parts))
    }

    /// The text, where nothing of it comes from a token.
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The highest group that it names; 0 if none.
    pub fn group_max(&self) -> usize {
        let group = |part: &Part| match part {
            Part::Group(number) => *number,
            Part::Literal(_) | Part::Claim(_) => 0,
        };
        self.0.iter().map(group).max().unwrap_or(0)
    }

    /// The texts that it makes: one for each row that was caught and each item of an array, all with all. None is empty.
    pub fn texts(&self, claims: &Map<String, Json>, caught: &Caught) -> Result<Vec<String>, TooManyTexts> {
        // A template without groups is made once, whatever was caught.
        let no_groups = vec![Vec::new()];
        let rows = if self.group_max() == 0 { &no_groups } else { caught };
        let mut texts = Vec::new();
        for row in rows {
            texts.extend(self.texts_of(claims, row)?);
            if texts.len() > TEXTS_MAX {
                return Err(TooManyTexts);
            }
        }
        Ok(texts)
    }

    fn texts_of(&self, claims: &Map<String, Json>, row: &[Option<String>]) -> Result<Vec<String>, TooManyTexts> {
        let mut texts = vec![String::new()];
        for part in &self.0 {
            let endings = match part {
                Part::Literal(text) => vec![text.clone()],
                Part::Group(number) => row.get(number.saturating_sub(1)).into_iter().flatten().cloned().collect(),
                Part::Claim(path) => path.find(claims).map(scalars).unwrap_or_default(),
            };
            let endings: Vec<String> = endings.into_iter().filter(|ending| !ending.is_empty()).collect();
            if texts.len().saturating_mul(endings.len()) > TEXTS_MAX {
                return Err(TooManyTexts);
            }
            texts = texts.iter().flat_map(|text| endings.iter().map(move |ending| format!("{text}{ending}"))).collect();
        }
        Ok(texts)
    }
}

fn part(inside: &str, place: Place, what: &str, reader: &Reader<'_>) -> Option<Part> {
    if !inside.is_empty() && inside.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = inside.parse().ok().filter(|number| (1..=99).contains(number));
        if number.is_none() {
            reader.problem(place, format!("{what}: the groups of `matches` are `${{1}}` and up"));
        }
        return number.map(Part::Group);
    }
    let node = Node { place, value: Value::Text(inside.to_owned()) };
    ClaimPath::read(&node, what, reader).map(Part::Claim)
}

/// Texts as they are, whole numbers and booleans as JSON writes them; an array gives those of its items.
fn scalars(value: &Json) -> Vec<String> {
    let text = |item: &Json| match item {
        Json::String(text) => Some(text.clone()),
        Json::Bool(truth) => Some(truth.to_string()),
        Json::Number(_) => integer(item).map(|number| number.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    };
    items(value).iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Map<String, Json> {
        let json = serde_json::json!({
            "sub": "ann", "n": 7, "big": u64::MAX, "f": 7.0, "yes": true, "nothing": null, "empty": "",
            "realm_access": { "roles": ["nurse", "admin"] }, "https://x/roles": ["a"], "a.b": "dotted", "t~": "tilde",
            "mixed": ["x", 1, true, null, 1.5, {"k": "v"}, ["y"], ""], "groups": ["g-1", "g-2", "h"],
            "cognito:groups": ["c"],
        });
        json.as_object().cloned().unwrap()
    }

    /// What is read of `text`, or the findings.
    fn read<T>(text: &str, read: impl Fn(&Node, &Reader<'_>) -> Option<T>) -> Result<T, String> {
        let (reader, root) = Reader::open("f", text).map_err(|finding| finding.to_string())?;
        let value = read(&root, &reader);
        let findings = reader.findings();
        value.ok_or_else(|| findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn paths() {
        let check = |path: &str, expected: Result<Option<&str>, PathError>| {
            let found = ClaimPath::parse(path).map(|path| path.find(&claims()).map(ToString::to_string));
            assert_eq!(found, expected.map(|value| value.map(str::to_owned)), "{path}");
        };
        check("sub", Ok(Some("\"ann\"")));
        check("/sub", Ok(Some("\"ann\"")));
        check("realm_access.roles", Ok(Some(r#"["nurse","admin"]"#)));
        check("/realm_access/roles/1", Ok(Some("\"admin\"")));
        check("/realm_access/roles/01", Ok(None));
        check("/realm_access/roles/+1", Ok(None));
        check("/realm_access/roles/2", Ok(None));
        check("realm_access.roles.1", Ok(None));
        check("sub.name", Ok(None));
        check("Sub", Ok(None));
        check("nothing", Ok(Some("null")));
        check("cognito:groups", Ok(Some(r#"["c"]"#)));
        check("/https:~1~1x~1roles", Ok(Some(r#"["a"]"#)));
        check("/a.b", Ok(Some("\"dotted\"")));
        check("/t~0", Ok(Some("\"tilde\"")));
        check("a.b", Ok(None));
        check("https://x/roles", Err(PathError::Sign));
        check("a b", Err(PathError::Sign));
        check("", Err(PathError::EmptyName));
        check("a..b", Err(PathError::EmptyName));
        check("a.", Err(PathError::EmptyName));
        check("/", Err(PathError::EmptyName));
        check("/a/", Err(PathError::EmptyName));
        check("/a~", Err(PathError::Escape));
        check("/a~2", Err(PathError::Escape));
    }

    #[test]
    fn conditions() {
        let check = |text: &str, expected: Result<bool, &str>| {
            let met = read(text, Condition::read).map(|condition| condition.is_met(&claims()));
            assert_eq!(met.as_ref().map_err(String::as_str).copied(), expected, "{text}");
        };
        check("{claim: sub, equals: ann}", Ok(true));
        check("{claim: sub, equals: Ann}", Ok(false));
        check("{claim: sub, equals: an}", Ok(false));
        check("{claim: n, equals: 7}", Ok(true));
        check("{claim: n, equals: '7'}", Ok(false));
        check("{claim: big, equals: 18446744073709551615}", Ok(true));
        check("{claim: f, equals: 7}", Ok(false));
        check("{claim: yes, equals: true}", Ok(true));
        check("{claim: yes, equals: 'true'}", Ok(false));
        check("{claim: groups, equals: h}", Ok(false));
        check("{claim: groups, contains: h}", Ok(true));
        check("{claim: groups, contains: g}", Ok(false));
        check("{claim: sub, contains: ann}", Ok(true));
        check("{claim: sub, contains: a}", Ok(false));
        check("{claim: groups, anyOf: [x, h]}", Ok(true));
        check("{claim: sub, anyOf: [x, ann]}", Ok(true));
        check("{claim: sub, anyOf: [x, y]}", Ok(false));
        check("{claim: sub, matches: 'a.*'}", Ok(true));
        check("{claim: sub, matches: 'a'}", Ok(false));
        check("{claim: sub, matches: 'an|ann'}", Ok(true));
        check("{claim: sub, matches: \"(?m)ann\"}", Ok(true));
        check("{claim: groups, matches: 'g-\\d'}", Ok(true));
        check("{claim: n, matches: '7'}", Ok(false));
        check("{claim: nothing, present: true}", Ok(true));
        check("{claim: missing, present: true}", Ok(false));
        check("{claim: missing, present: false}", Ok(true));
        check("{claim: missing, equals: ''}", Ok(false));
        check("{not: {claim: missing, equals: a}}", Ok(true));
        check("{all: [{claim: sub, equals: ann}, {claim: n, equals: 8}]}", Ok(false));
        check("{any: [{claim: sub, equals: ann}, {claim: n, equals: 8}]}", Ok(true));
        check("{claim: sub}", Err("f:1:1: one of `equals`, `anyOf`, `contains`, `matches`, `present` is missing"));
        check("{equals: a}", Err("f:1:1: one of `claim`, `all`, `any`, `not` is missing"));
        check(
            "{claim: sub, equals: a, contains: b}",
            Err("f:1:25: `equals` and `contains` exclude each other; take one"),
        );
        check(
            "{claim: sub, not: {claim: n, equals: 1}}",
            Err("f:1:14: `claim` and `not` exclude each other; take one"),
        );
        check(
            "{claim: sub, equal: a}",
            Err(concat!(
                "f:1:1: one of `equals`, `anyOf`, `contains`, `matches`, `present` is missing\n",
                "f:1:14: unknown condition key `equal`; did you mean `equals`?"
            )),
        );
        check("{all: []}", Err("f:1:7: all: the list is empty"));
        check("{claim: sub, anyOf: a}", Err("f:1:21: anyOf: a list is wanted here"));
        check(
            "{claim: sub, equals: 1.5}",
            Err("f:1:22: a claim is compared with a text, a whole number, `true` or `false`"),
        );
        check("{claim: sub, present: 'yes'}", Err("f:1:23: present: `true` or `false` is wanted here"));
        check(
            "{claim: https://x/roles, present: true}",
            Err(concat!(
                "f:1:9: claim: a claim's name with other signs than letters, digits, `_`, `-` and `:` is written as a JSON ",
                "Pointer\n  help: write `/https:~1~1x~1roles` if this is the name of one claim"
            )),
        );
        let help = "\n  help: the syntax is that of the Rust crate `regex`";
        let regex = |text: &str, told: &str| {
            let expected = format!("f:1:23: `matches` is no regular expression: {told}{help}");
            check(&format!("{{claim: sub, matches: '{text}'}}"), Err(&expected));
        };
        regex("(a", "unclosed group");
        regex("a)|(?:b", "unopened group");
        regex("\\w{1000}", "compiled regex exceeds size limit of 1048576 bytes");
        let deep = format!("{}{{claim: n, equals: 7}}{}", "{not: ".repeat(DEPTH_MAX), "}".repeat(DEPTH_MAX));
        check(&deep, Ok(true));
        check(&format!("{{not: {deep}}}"), Err("f:1:55: conditions stand in each other more than 8 deep"));
    }

    #[test]
    fn templates() {
        let check = |text: &str, expected: Result<&[&str], &str>| {
            let quoted = serde_json::to_string(text).unwrap();
            let made = read(&quoted, |node, reader| Template::read(node, "role", reader)).and_then(|template| {
                let caught =
                    vec![vec![Some("one".to_owned()), None], vec![Some("uno".to_owned()), Some(String::new())]];
                template.texts(&claims(), &caught).map_err(|_| "too many".to_owned())
            });
            let expected = expected.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
            assert_eq!(made, expected.map_err(str::to_owned), "{text}");
        };
        check("nurse", Ok(&["nurse"]));
        check("$ {x} $1", Ok(&["$ {x} $1"]));
        check("${sub}", Ok(&["ann"]));
        check("role-${sub}-${n}", Ok(&["role-ann-7"]));
        check("${groups}", Ok(&["g-1", "g-2", "h"]));
        check("${realm_access.roles}", Ok(&["nurse", "admin"]));
        check("${/https:~1~1x~1roles}", Ok(&["a"]));
        check("${sub}/${cognito:groups}", Ok(&["ann/c"]));
        check("${mixed}", Ok(&["x", "1", "true"]));
        check("r-${missing}", Ok(&[]));
        check("r-${empty}", Ok(&[]));
        check("r-${nothing}", Ok(&[]));
        check("r-${f}", Ok(&[]));
        check("${1}", Ok(&["one", "uno"]));
        check("${2}", Ok(&[]));
        check("${groups}.${1}", Ok(&["g-1.one", "g-2.one", "h.one", "g-1.uno", "g-2.uno", "h.uno"]));
        check("${", Err("f:1:1: role: `${` without its `}`"));
        check("${}", Err("f:1:1: role: the text is empty"));
        check("${0}", Err("f:1:1: role: the groups of `matches` are `${1}` and up"));
        check("${100}", Err("f:1:1: role: the groups of `matches` are `${1}` and up"));
        check("", Err("f:1:1: role: the text is empty"));
        let mut many = claims();
        many.insert("many".to_owned(), (0..40).collect::<Vec<_>>().into());
        let template = read("'${many}-${many}'", |node, reader| Template::read(node, "role", reader)).unwrap();
        assert_eq!(template.texts(&many, &Vec::new()), Err(TooManyTexts));
    }

    #[test]
    fn a_group_is_used_only_where_it_must_have_matched() {
        let check = |text: &str, expected: Option<usize>| {
            let condition = read(text, Condition::read).unwrap();
            assert_eq!(condition.captured().map(|(_, pattern)| pattern.groups()), expected, "{text}");
        };
        check("{claim: sub, matches: '(a)(b)?'}", Some(2));
        check("{all: [{claim: n, equals: 7}, {claim: sub, matches: '(a)'}]}", Some(1));
        check("{any: [{claim: sub, matches: '(a)'}]}", None);
        check("{not: {claim: sub, matches: '(a)'}}", None);
        check("{all: [{claim: n, matches: '(a)'}, {claim: sub, matches: '(a)'}]}", None);
        check("{claim: sub, equals: a}", None);
    }
}
