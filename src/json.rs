//! Strict JSON text → `serde_json::Value`. Hides where serde_json is lenient: duplicate names, unbounded nesting.
//! INVARIANT: an accepted text has one reading: no object names a member twice, compared after unescaping.
//! INVARIANT: recursion is bounded by `depth_max`, and that by `DEPTH_CEILING`, whatever the text.
//! INVARIANT: an error never quotes a value.
//! Source: RFC 8259; RFC 7515 section 4 and RFC 7493 (I-JSON) for duplicate names.

pub mod pieces;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::map::Entry;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

/// Nesting that no caller may exceed, so that a generous configuration cannot exhaust a thread's stack.
pub const DEPTH_CEILING: usize = 256;

/// The text of bytes: UTF-8 without a byte order mark.
pub fn text(bytes: &[u8]) -> Result<&str, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::encoding(bytes, error.valid_up_to()))?;
    match text.starts_with('\u{feff}') {
        true => Err(JsonError::new(JsonErrorKind::Encoding, "the text begins with a byte order mark", 1, 1)),
        false => Ok(text),
    }
}

/// Reads one JSON text. `depth_max` counts objects and arrays around a value: `1` is depth 0, `[1]` depth 1.
pub fn parse(bytes: &[u8], depth_max: usize) -> Result<Value, JsonError> {
    parse_str(text(bytes)?, depth_max)
}

/// Reads one JSON text that is known to be UTF-8; as [`parse`].
pub fn parse_str(text: &str, depth_max: usize) -> Result<Value, JsonError> {
    if text.starts_with('\u{feff}') {
        return Err(JsonError::new(JsonErrorKind::Encoding, "the text begins with a byte order mark", 1, 1));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // Ours is the only bound, and it is checked before each step down.
    deserializer.disable_recursion_limit();
    let value = Nested { depth_left: depth_max.min(DEPTH_CEILING) }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// The members of one JSON object in their order, each value as its text. What is in a value is judged when it is read.
pub fn members(text: &str) -> Result<Vec<(Cow<'_, str>, &str)>, JsonError> {
    shallow(text, Members)
}

/// The items of one JSON array, each as its text; as [`members`].
pub fn items(text: &str) -> Result<Vec<&str>, JsonError> {
    shallow(text, Items)
}

/// What a text that [`members`] or [`items`] gave says, where it is a string.
pub fn string(text: &str) -> Option<Result<Cow<'_, str>, JsonError>> {
    let between = text.strip_prefix('"')?.strip_suffix('"')?;
    Some(match between.contains('\\') {
        true => serde_json::from_str(text).map(Cow::Owned).map_err(JsonError::from),
        false => Ok(Cow::Borrowed(between)),
    })
}

fn shallow<'t, S: DeserializeSeed<'t>>(text: &'t str, seed: S) -> Result<S::Value, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(read)
}

/// Why a text is no strict JSON, and where. `line` and `column` count from 1, the column in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at {line}:{column}")]
pub struct JsonError {
    pub kind: JsonErrorKind,
    /// For people; it may name a duplicate member, and quotes nothing else.
    pub message: String,
    pub line: usize,
    pub column: usize,
}

/// The kinds of [`JsonError`]; Display is the message for those who may not see even a member's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    #[error("not UTF-8 without a byte order mark")]
    Encoding,
    #[error("not well-formed JSON")]
    Syntax,
    #[error("nested too deeply")]
    TooDeep,
    #[error("an object names a member twice")]
    DuplicateName,
}

impl JsonError {
    fn new(kind: JsonErrorKind, message: impl Into<String>, line: usize, column: usize) -> JsonError {
        JsonError { kind, message: message.into(), line, column }
    }

    /// The error of a part, told of the whole that holds the part.
    pub fn within(self, whole: &str, part: &str) -> JsonError {
        let offset = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        let before = whole.as_bytes().get(..offset).unwrap_or_default();
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        let columns = before.iter().rev().take_while(|byte| **byte != b'\n').count();
        let column = if self.line == 1 { self.column + columns } else { self.column };
        JsonError { line: self.line + lines, column, ..self }
    }

    fn encoding(bytes: &[u8], valid: usize) -> JsonError {
        let before = bytes.get(..valid).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        JsonError::new(JsonErrorKind::Encoding, "a byte that is not UTF-8", line, column)
    }
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> JsonError {
        let (line, column) = (error.line(), error.column());
        // serde_json's own messages name what was expected and never quote the text.
        let written = error.to_string();
        let message = written.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&written);
        match error.classify() {
            Category::Data if message == TOO_DEEP => JsonError::new(JsonErrorKind::TooDeep, message, line, column),
            Category::Data => JsonError::new(JsonErrorKind::DuplicateName, message, line, column),
            Category::Eof => JsonError::new(JsonErrorKind::Syntax, "the text ends too early", line, column),
            Category::Syntax | Category::Io => JsonError::new(JsonErrorKind::Syntax, message, line, column),
        }
    }
}

const TOO_DEEP: &str = "nested too deeply";

/// How much of a duplicate name an error shows.
const NAME_CHARACTERS_MAX: usize = 64;

/// Builds a value that may hold `depth_left` more levels of objects and arrays.
#[derive(Clone, Copy)]
struct Nested {
    depth_left: usize,
}

impl Nested {
    fn deeper<E: serde::de::Error>(self) -> Result<Nested, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom(TOO_DEEP))?;
        Ok(Nested { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Nested {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // serde_json has refused what overflows; should it not, this does.
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let item = self.deeper()?;
        let mut array = Vec::new();
        while let Some(value) = items.next_element_seed(item)? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let member = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            match object.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(members.next_value_seed(member)?);
                }
                Entry::Occupied(known) => return Err(A::Error::custom(duplicate(known.key()))),
            }
        }
        Ok(Value::Object(object))
    }
}

struct Members;

impl<'de> DeserializeSeed<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de str)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de str)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut read: Self::Value = Vec::with_capacity(MEMBERS);
        let mut names = HashSet::new();
        while let Some(name) = members.next_key_seed(Name)? {
            // few names are compared sooner than hashed
            let is_known = match read.len() {
                0..NAMES_COMPARED => read.iter().any(|(known, _)| *known == name),
                NAMES_COMPARED => {
                    names.extend(read.iter().map(|(known, _)| known.clone()));
                    !names.insert(name.clone())
                }
                _ => !names.insert(name.clone()),
            };
            if is_known {
                return Err(A::Error::custom(duplicate(&name)));
            }
            read.push((name, members.next_value::<&'de RawValue>()?.get()));
        }
        Ok(read)
    }
}

const NAMES_COMPARED: usize = 16;
/// Most objects that are read so have fewer.
const MEMBERS: usize = 8;

/// A member's name, as it stands in the text where that is possible.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

struct Items;

impl<'de> DeserializeSeed<'de> for Items {
    type Value = Vec<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element::<&'de RawValue>()? {
            read.push(item.get());
        }
        Ok(read)
    }
}

fn duplicate(name: &str) -> String {
    let shown: String = name.chars().take(NAME_CHARACTERS_MAX).flat_map(char::escape_debug).collect();
    format!("the name `{shown}` stands twice in one object")
}

/// The property: what is accepted is what serde_json reads, no deeper than asked, and the same read part by part.
#[doc(hidden)]
pub fn holds(input: &[u8]) -> bool {
    const DEPTH: usize = 20;
    if !pieces::holds(input, input.len() / 2) {
        return false;
    }
    match parse(input, DEPTH) {
        Ok(value) => {
            serde_json::from_slice::<Value>(input).is_ok_and(|same| same == value)
                && depth(&value) <= DEPTH
                && is_read_by_parts(input, &value)
        }
        Err(error) => match error.kind {
            JsonErrorKind::Encoding | JsonErrorKind::Syntax => serde_json::from_slice::<Value>(input).is_err(),
            JsonErrorKind::TooDeep | JsonErrorKind::DuplicateName => true,
        },
    }
}

fn is_read_by_parts(input: &[u8], value: &Value) -> bool {
    let text = std::str::from_utf8(input).unwrap_or_default();
    let same = |text: &str, value: Option<&Value>| parse_str(text, DEPTH_CEILING).ok().as_ref() == value;
    match value {
        Value::Object(whole) => members(text).is_ok_and(|members| {
            members.len() == whole.len() && members.iter().all(|(name, text)| same(text, whole.get(name.as_ref())))
        }),
        Value::Array(whole) => items(text).is_ok_and(|items| {
            items.len() == whole.len() && items.iter().zip(whole).all(|(text, value)| same(text, Some(value)))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let is_itself = match (string(text.trim()), value.as_str()) {
                (Some(Ok(read)), Some(value)) => read == value,
                (None, None) => true,
                (_, _) => false,
            };
            members(text).is_err() && items(text).is_err() && is_itself
        }
    }
}

/// Bounded by the bound of `parse`, which made the value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(name: &str, input: &[u8], expected: Result<Value, &str>) {
        let found = parse(input, 3);
        match expected {
            Ok(value) => assert_eq!(found.as_ref().ok(), Some(&value), "{name}: {found:?}"),
            Err(message) => assert_eq!(found.map_err(|error| error.to_string()), Err(message.to_owned()), "{name}"),
        }
    }

    #[test]
    fn reads_what_is_json_and_nothing_else() {
        check("scalar", b" 1 ", Ok(json!(1)));
        check("every kind", br#"{"a":[null,true,-1,1.5,"\u00e9\n"]}"#, Ok(json!({"a": [null, true, -1, 1.5, "é\n"]})));
        check("empty object", b"{}", Ok(json!({})));
        check("a name again in another object", br#"[{"a":1},{"a":2}]"#, Ok(json!([{"a": 1}, {"a": 2}])));
        check("names that differ in case", br#"{"a":1,"A":2}"#, Ok(json!({"a": 1, "A": 2})));
        check("depth at the limit", b"[[[1]]]", Ok(json!([[[1]]])));
        check("largest integer", b"18446744073709551615", Ok(json!(u64::MAX)));

        check("duplicate", br#"{"a":1,"a":1}"#, Err("the name `a` stands twice in one object at 1:10"));
        check("duplicate by escape", br#"{"a":1,"\u0061":2}"#, Err("the name `a` stands twice in one object at 1:15"));
        check(
            "duplicate within",
            b"{\"x\":[\n{\"b\":1,\n \"b\":2}]}",
            Err("the name `b` stands twice in one object at 3:4"),
        );
        check("duplicate control", br#"{"\n":1,"\n":2}"#, Err(r"the name `\n` stands twice in one object at 1:12"));
        check(
            "duplicate that looks like a place",
            br#"{" at line 7 column 7":1," at line 7 column 7":2}"#,
            Err("the name ` at line 7 column 7` stands twice in one object at 1:46"),
        );
        check("too deep", b"[[[[1]]]]", Err("nested too deeply at 1:4"));
        check("too deep, mixed", br#"{"a":[{"b":[]}]}"#, Err("nested too deeply at 1:13"));
        check("trailing data", b"{} {}", Err("trailing characters at 1:4"));
        check("trailing comma", b"[1,]", Err("trailing comma at 1:4"));
        check("empty", b"", Err("the text ends too early at 1:0"));
        check("half", b"{\"a\":", Err("the text ends too early at 1:5"));
        check("not UTF-8", b"{\"a\":\n\"\xff\"}", Err("a byte that is not UTF-8 at 2:2"));
        check("UTF-8 of a surrogate", b"\"\xed\xa0\x80\"", Err("a byte that is not UTF-8 at 1:2"));
        check("byte order mark", b"\xef\xbb\xbf{}", Err("the text begins with a byte order mark at 1:1"));
        check("lone surrogate", br#""\ud800""#, Err("unexpected end of hex escape at 1:8"));
        check(
            "raw control",
            b"\"a\x00\"",
            Err("control character (\\u0000-\\u001F) found while parsing a string at 1:3"),
        );
        check("single quotes", b"{'a':1}", Err("key must be a string at 1:2"));
        check("comment", b"/* */1", Err("expected value at 1:1"));
        check("leading zero", b"01", Err("invalid number at 1:2"));
        check("NaN", b"NaN", Err("expected value at 1:1"));
        check("overflow", b"1e400", Err("number out of range at 1:5"));
    }

    #[test]
    fn a_flood_of_brackets_is_refused_before_the_stack_ends() {
        let flood = "[".repeat(4_000_000);
        assert_eq!(parse_str(&flood, usize::MAX).map_err(|error| error.kind), Err(JsonErrorKind::TooDeep));
        let flood = "{\"a\":".repeat(1_000_000);
        assert_eq!(parse_str(&flood, usize::MAX).map_err(|error| error.kind), Err(JsonErrorKind::TooDeep));
        let deepest = format!("{}{}", "[".repeat(DEPTH_CEILING), "]".repeat(DEPTH_CEILING));
        assert!(parse_str(&deepest, usize::MAX).is_ok());
    }

    #[test]
    fn an_error_shows_little_of_a_long_name() {
        let name = "n".repeat(10_000);
        let error = parse_str(&format!("{{\"{name}\":1,\"{name}\":2}}"), 3).unwrap_err();
        assert!(error.message.len() < 200);
    }

    proptest! {
        #[test]
        fn any_bytes(input in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(holds(&input));
        }

        #[test]
        fn nearly_json(input in r#"([\[\]{},:0-9.e-]|"[ab\\"]"|"a":|true|null| ){0,24}"#) {
            prop_assert!(holds(input.as_bytes()));
        }
    }
}
