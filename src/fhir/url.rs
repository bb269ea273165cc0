//! A request's URL → path segments and parameters. Hides percent-encoding and all that two readers may read differently.
//! INVARIANT: an accepted URL has one reading: no segment holds `/`, `\`, `%`, `;`, a dot segment or a control character,
//! and what is accepted, written again and read again, is the same `Target`.
//! INVARIANT: an absolute URL counts only below a configured base, compared byte by byte and by whole segments.
//! Source: RFC 3986; FHIR http.html "Service Base URL" and "Resource Metadata and Versioning"; the URL living
//! standard's `application/x-www-form-urlencoded` for the query.

use std::fmt::{self, Write};

/// How much of a URL is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub url_bytes_max: usize,
    pub parameters_max: usize,
}

/// What a URL asks for, below the FHIR base: `/` has no segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Target {
    pub segments: Vec<String>,
    pub query: Vec<Parameter>,
}

/// One parameter of a query or a form, decoded. A name is ASCII without spaces and `%`; a value may hold anything but
/// control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parameter {
    pub name: String,
    pub value: String,
}

/// Why a URL, a query or a form has no single reading. `at` counts bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the URL is longer than {max} bytes")]
    TooLong { max: usize, at: usize },
    #[error("the URL does not begin with `/`")]
    NoLeadingSlash { at: usize },
    #[error("the URL begins with `//`, which names another host")]
    Authority { at: usize },
    #[error("the absolute URL is under none of the configured bases")]
    ForeignBase { at: usize },
    #[error("a fragment (`#`) has no meaning in a request, at byte {at}")]
    Fragment { at: usize },
    #[error("an encoded slash or backslash in the path, at byte {at}")]
    EncodedSlash { at: usize },
    #[error("a backslash, at byte {at}")]
    Backslash { at: usize },
    #[error("a dot segment or an encoded dot in the path, at byte {at}")]
    DotSegment { at: usize },
    #[error("an empty path segment, at byte {at}")]
    EmptySegment { at: usize },
    #[error("the path ends with a slash, at byte {at}")]
    TrailingSlash { at: usize },
    #[error("a semicolon, at byte {at}; in a value it is written `%3B`")]
    Semicolon { at: usize },
    #[error("a control character, at byte {at}")]
    Control { at: usize },
    #[error("a space, at byte {at}")]
    Space { at: usize },
    #[error("a character outside ASCII that is not percent-encoded, at byte {at}")]
    NonAscii { at: usize },
    #[error("a percent sign that is itself encoded, at byte {at}")]
    DoubleEncoding { at: usize },
    #[error("a percent sign without two hexadecimal digits, at byte {at}")]
    PercentEscape { at: usize },
    #[error("percent-encoding in the path, where FHIR needs none, at byte {at}")]
    EncodedPath { at: usize },
    #[error("a character that no FHIR path holds, at byte {at}")]
    Character { at: usize },
    #[error("percent-encoding that is not UTF-8, at byte {at}")]
    InvalidUtf8 { at: usize },
    #[error("more than {max} parameters")]
    TooManyParameters { max: usize, at: usize },
    #[error("a parameter without a name, at byte {at}")]
    EmptyName { at: usize },
    #[error("a parameter name holds a character that no FHIR name holds, at byte {at}")]
    NameCharacter { at: usize },
}

/// Reads a URL: the path below the FHIR base with its query, or an absolute URL under one of `bases`.
pub fn parse(url: &str, bases: &[String], limits: Limits) -> Result<Target, UrlError> {
    if url.len() > limits.url_bytes_max {
        return Err(UrlError::TooLong { max: limits.url_bytes_max, at: limits.url_bytes_max });
    }
    let below = below_base(url, bases)?;
    let at = url.len() - below.len();
    let (path, query) = match below.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (below, None),
    };
    let segments = segments(path, at)?;
    let query = match query {
        Some(text) => read_parameters(text, at + path.len() + 1, limits.parameters_max)?,
        None => Vec::new(),
    };
    Ok(Target { segments, query })
}

/// Reads a query without its `?`, or a form body: the same grammar, so that GET and POST `_search` are read alike.
pub fn parameters(text: &str, parameters_max: usize) -> Result<Vec<Parameter>, UrlError> {
    read_parameters(text, 0, parameters_max)
}

/// Writes parameters as a query without its `?`.
pub fn write_parameters<'p>(parameters: impl IntoIterator<Item = &'p Parameter>) -> String {
    let mut text = String::with_capacity(WRITTEN_BYTES);
    push_parameters(&mut text, parameters);
    text
}

/// Writes the path of these segments below the base, and a query, as [`parse`] reads them.
pub fn write_target<'p>(
    segments: impl IntoIterator<Item = &'p str>,
    query: impl IntoIterator<Item = &'p Parameter>,
) -> String {
    let mut text = String::with_capacity(WRITTEN_BYTES);
    for segment in segments {
        text.push('/');
        text.push_str(segment);
    }
    if text.is_empty() {
        text.push('/');
    }
    let path = text.len();
    text.push('?');
    push_parameters(&mut text, query);
    if text.len() == path + 1 {
        text.truncate(path);
    }
    text
}

/// Most URLs and queries are shorter.
const WRITTEN_BYTES: usize = 128;

/// The part of `url` below the FHIR base: a path is already below it, of an absolute URL the longest base is taken off.
fn below_base<'a>(url: &'a str, bases: &[String]) -> Result<&'a str, UrlError> {
    if url.starts_with("//") {
        return Err(UrlError::Authority { at: 0 });
    }
    if url.starts_with('/') {
        return Ok(url);
    }
    let foreign =
        if url.contains("://") { UrlError::ForeignBase { at: 0 } } else { UrlError::NoLeadingSlash { at: 0 } };
    bases
        .iter()
        .map(|base| base.trim_end_matches('/'))
        .filter(|base| !base.is_empty())
        .filter_map(|base| url.strip_prefix(base))
        .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        .min_by_key(|rest| rest.len())
        .ok_or(foreign)
}

fn segments(path: &str, at: usize) -> Result<Vec<String>, UrlError> {
    refuse_raw(path, at)?;
    let Some(relative) = path.strip_prefix('/').filter(|relative| !relative.is_empty()) else {
        return Ok(Vec::new());
    };
    let mut start = at + 1;
    let end = at + path.len();
    let mut read = Vec::new();
    for text in relative.split('/') {
        if text.is_empty() {
            let trailing = start == end;
            return Err(if trailing {
                UrlError::TrailingSlash { at: start - 1 }
            } else {
                UrlError::EmptySegment { at: start }
            });
        }
        read.push(segment(text, start)?);
        start += text.len() + 1;
    }
    Ok(read)
}

/// FHIR's types, ids, versions and operation names need no escape. `%24` is the one that clients send all the same.
fn segment(text: &str, start: usize) -> Result<String, UrlError> {
    let mut read = String::with_capacity(text.len());
    let mut bytes = text.bytes().enumerate();
    while let Some((offset, byte)) = bytes.next() {
        let at = start + offset;
        match byte {
            b'%' => match escape(&mut bytes).ok_or(UrlError::PercentEscape { at })? {
                b'$' => read.push('$'),
                b'/' | b'\\' => return Err(UrlError::EncodedSlash { at }),
                b'.' => return Err(UrlError::DotSegment { at }),
                b'%' => return Err(UrlError::DoubleEncoding { at }),
                0..0x20 | 0x7f => return Err(UrlError::Control { at }),
                0x20..=0x7e | 0x80..=0xff => return Err(UrlError::EncodedPath { at }),
            },
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'$' | b'*' => read.push(char::from(byte)),
            _ => return Err(UrlError::Character { at }),
        }
    }
    if read == "." || read == ".." {
        return Err(UrlError::DotSegment { at: start });
    }
    Ok(read)
}

fn read_parameters(text: &str, at: usize, parameters_max: usize) -> Result<Vec<Parameter>, UrlError> {
    refuse_raw(text, at)?;
    let mut read = Vec::new();
    if text.is_empty() {
        return Ok(read);
    }
    let mut start = at;
    for piece in text.split('&') {
        if read.len() == parameters_max {
            return Err(UrlError::TooManyParameters { max: parameters_max, at: start });
        }
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        read.push(Parameter { name: parameter_name(name, start)?, value: decoded(value, start + name.len() + 1)? });
        start += piece.len() + 1;
    }
    Ok(read)
}

/// A name is decoded first, then judged: `%5Finclude` is `_include`, and `%255F` is nothing.
fn parameter_name(text: &str, at: usize) -> Result<String, UrlError> {
    let name = decoded(text, at)?;
    if name.is_empty() {
        return Err(UrlError::EmptyName { at });
    }
    if name.contains('%') {
        return Err(UrlError::DoubleEncoding { at });
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'*' | b'$');
    if !name.bytes().all(known) {
        return Err(UrlError::NameCharacter { at });
    }
    Ok(name)
}

fn decoded(text: &str, start: usize) -> Result<String, UrlError> {
    let mut read = Vec::with_capacity(text.len());
    let mut bytes = text.bytes().enumerate();
    while let Some((offset, byte)) = bytes.next() {
        read.push(match byte {
            b'+' => b' ',
            b'%' => escape(&mut bytes).ok_or(UrlError::PercentEscape { at: start + offset })?,
            other => other,
        });
    }
    let text = String::from_utf8(read).map_err(|_| UrlError::InvalidUtf8 { at: start })?;
    if text.chars().any(char::is_control) {
        return Err(UrlError::Control { at: start });
    }
    Ok(text)
}

/// The byte that the two hexadecimal digits after a `%` stand for.
fn escape(bytes: &mut impl Iterator<Item = (usize, u8)>) -> Option<u8> {
    let mut digit = || {
        let (_, byte) = bytes.next()?;
        char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
    };
    Some(digit()? << 4 | digit()?)
}

/// What may stand nowhere unescaped. `|`, `<` and the like are not RFC 3986's either, but FHIR clients send them and no
/// two readers differ on them; `;` separates parameters for some readers.
fn refuse_raw(text: &str, start: usize) -> Result<(), UrlError> {
    for (offset, byte) in text.bytes().enumerate() {
        let at = start + offset;
        match byte {
            b' ' => return Err(UrlError::Space { at }),
            0..0x20 | 0x7f => return Err(UrlError::Control { at }),
            b'#' => return Err(UrlError::Fragment { at }),
            b';' => return Err(UrlError::Semicolon { at }),
            b'\\' => return Err(UrlError::Backslash { at }),
            0x80..=0xff => return Err(UrlError::NonAscii { at }),
            _ => {}
        }
    }
    Ok(())
}

impl UrlError {
    /// Where, in bytes from the beginning of the text that was read.
    pub fn at(self) -> usize {
        match self {
            UrlError::TooLong { at, .. }
            | UrlError::NoLeadingSlash { at }
            | UrlError::Authority { at }
            | UrlError::ForeignBase { at }
            | UrlError::Fragment { at }
            | UrlError::EncodedSlash { at }
            | UrlError::Backslash { at }
            | UrlError::DotSegment { at }
            | UrlError::EmptySegment { at }
            | UrlError::TrailingSlash { at }
            | UrlError::Semicolon { at }
            | UrlError::Control { at }
            | UrlError::Space { at }
            | UrlError::NonAscii { at }
            | UrlError::DoubleEncoding { at }
            | UrlError::PercentEscape { at }
            | UrlError::EncodedPath { at }
            | UrlError::Character { at }
            | UrlError::InvalidUtf8 { at }
            | UrlError::TooManyParameters { at, .. }
            | UrlError::EmptyName { at }
            | UrlError::NameCharacter { at } => at,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&write_target(self.segments.iter().map(String::as_str), &self.query))
    }
}

fn push_parameters<'p>(text: &mut String, parameters: impl IntoIterator<Item = &'p Parameter>) {
    for (index, Parameter { name, value }) in parameters.into_iter().enumerate() {
        if index > 0 {
            text.push('&');
        }
        push_encoded(text, name);
        text.push('=');
        push_encoded(text, value);
    }
}

/// Leaves what RFC 3986 allows in a query and no reader of FHIR takes for a separator, so that people can read it.
fn push_encoded(text: &mut String, plain: &str) {
    for byte in plain.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(char::from(byte)),
            b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' | b'$' | b'*' | b'!' | b'@' | b'(' | b')' => {
                text.push(char::from(byte));
            }
            // INVARIANT: writing to a String cannot fail
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
}

/// The property of this file: no panic, one reading, and no segment that another reader could take apart.
#[doc(hidden)]
pub fn holds(text: &str) -> bool {
    const ANY: Limits = Limits { url_bytes_max: usize::MAX, parameters_max: usize::MAX };
    let Ok(target) = parse(text, &["https://fhir.example/r4".to_owned()], ANY) else {
        return true;
    };
    let plain = |segment: &String| {
        !matches!(segment.as_str(), "" | "." | "..")
            && !segment.chars().any(|letter| matches!(letter, '/' | '\\' | '%' | ';') || letter.is_control())
    };
    target.segments.iter().all(plain)
        && target.query.iter().all(|parameter| !parameter.name.is_empty())
        && parse(&target.to_string(), &[], ANY).as_ref() == Ok(&target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { url_bytes_max: 200, parameters_max: 4 };

    fn read(url: &str) -> Result<Target, UrlError> {
        let bases = ["https://fhir.example", "https://fhir.example/r4/", "http://[::1]:8080/fhir"].map(str::to_owned);
        parse(url, &bases, LIMITS)
    }

    #[test]
    fn what_is_accepted() {
        let check = |url: &str, segments: &[&str], query: &[(&str, &str)]| {
            let target = read(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            let names: Vec<_> = target.query.iter().map(|given| (given.name.as_str(), given.value.as_str())).collect();
            assert_eq!(
                (target.segments.as_slice(), names.as_slice()),
                (&*segments.iter().map(|s| s.to_string()).collect::<Vec<_>>(), query),
                "{url}"
            );
        };
        check("/", &[], &[]);
        check("/?", &[], &[]);
        check("/?_type=Patient", &[], &[("_type", "Patient")]);
        check("/Patient/123", &["Patient", "123"], &[]);
        check("/Patient/1.2-3.A", &["Patient", "1.2-3.A"], &[]);
        check("/Patient/...", &["Patient", "..."], &[]);
        check("/.well-known/smart-configuration", &[".well-known", "smart-configuration"], &[]);
        check("/Patient/123/$everything", &["Patient", "123", "$everything"], &[]);
        check("/Patient/123/%24everything", &["Patient", "123", "$everything"], &[]);
        check("/Patient/123/*", &["Patient", "123", "*"], &[]);
        check("/Patient/1/_history/2", &["Patient", "1", "_history", "2"], &[]);
        check("https://fhir.example", &[], &[]);
        check("https://fhir.example/", &[], &[]);
        check("https://fhir.example?_id=1", &[], &[("_id", "1")]);
        check("https://fhir.example/Patient", &["Patient"], &[]);
        check("https://fhir.example/r4/Patient", &["Patient"], &[]);
        check("https://fhir.example/r44/Patient", &["r44", "Patient"], &[]);
        check("http://[::1]:8080/fhir/Patient", &["Patient"], &[]);
        check("/Patient?name=a+b%20c", &["Patient"], &[("name", "a b c")]);
        check("/Patient?name=a%2Bb", &["Patient"], &[("name", "a+b")]);
        check("/Patient?%6Eame=%C3%A9", &["Patient"], &[("name", "é")]);
        check("/P?a=x%2Fy", &["P"], &[("a", "x/y")]);
        check("/P?a=x/../y", &["P"], &[("a", "x/../y")]);
        check("/P?a=%252F", &["P"], &[("a", "%2F")]);
        check("/P?a=http://s|c,d|e$f", &["P"], &[("a", "http://s|c,d|e$f")]);
        check("/P?a", &["P"], &[("a", "")]);
        check("/P?a=", &["P"], &[("a", "")]);
        check("/P?a=b=c?d", &["P"], &[("a", "b=c?d")]);
        check("/P?a=%3B%26%3D%23", &["P"], &[("a", ";&=#")]);
        check("/P?a=1&a=2&b:c.d=3", &["P"], &[("a", "1"), ("a", "2"), ("b:c.d", "3")]);
        check("/P?_has%3AObservation%3Apatient%3Acode=1", &["P"], &[("_has:Observation:patient:code", "1")]);
    }

    #[test]
    fn what_is_refused() {
        let check = |url: &str, expected: UrlError| assert_eq!(read(url), Err(expected), "{url}");
        let long = format!("/{}", "a".repeat(200));
        check(&long, UrlError::TooLong { max: 200, at: 200 });
        check("", UrlError::NoLeadingSlash { at: 0 });
        check("Patient", UrlError::NoLeadingSlash { at: 0 });
        check("?name=x", UrlError::NoLeadingSlash { at: 0 });
        check("//evil.example/Patient", UrlError::Authority { at: 0 });
        check("//Patient/1", UrlError::Authority { at: 0 });
        check("https://evil.example/Patient", UrlError::ForeignBase { at: 0 });
        check("https://fhir.example.evil/Patient", UrlError::ForeignBase { at: 0 });
        check("https://fhir.example@evil/Patient", UrlError::ForeignBase { at: 0 });
        check("https://fhir.example:443/Patient", UrlError::ForeignBase { at: 0 });
        check("HTTPS://fhir.example/Patient", UrlError::ForeignBase { at: 0 });
        check("http://fhir.example/Patient", UrlError::ForeignBase { at: 0 });
        check("https://FHIR.example/Patient", UrlError::ForeignBase { at: 0 });
        check("http://[::1]:8080/fhirx/Patient", UrlError::ForeignBase { at: 0 });
        check("http://[::1]:8080/Patient", UrlError::ForeignBase { at: 0 });
        check("https://fhir.example//Patient", UrlError::EmptySegment { at: 21 });
        check("/Patient#x", UrlError::Fragment { at: 8 });
        check("/Patient?a=b#x", UrlError::Fragment { at: 12 });
        check("/Patient%2F123", UrlError::EncodedSlash { at: 8 });
        check("/Patient%2f123", UrlError::EncodedSlash { at: 8 });
        check("/Patient%5C123", UrlError::EncodedSlash { at: 8 });
        check("/Patient\\123", UrlError::Backslash { at: 8 });
        check("/Patient?a=\\", UrlError::Backslash { at: 11 });
        check("/Patient/../Observation", UrlError::DotSegment { at: 9 });
        check("/./Patient", UrlError::DotSegment { at: 1 });
        check("/Patient/..", UrlError::DotSegment { at: 9 });
        check("/Patient/%2e%2e", UrlError::DotSegment { at: 9 });
        check("/Patient/.%2E", UrlError::DotSegment { at: 10 });
        check("/Patient/1%2e2", UrlError::DotSegment { at: 10 });
        check("/Patient//123", UrlError::EmptySegment { at: 9 });
        check("/Patient/", UrlError::TrailingSlash { at: 8 });
        check("/Patient/?name=x", UrlError::TrailingSlash { at: 8 });
        check("/Patient/1/$everything/", UrlError::TrailingSlash { at: 22 });
        check("/Patient;a=b/1", UrlError::Semicolon { at: 8 });
        check("/Patient?a=b;c=d", UrlError::Semicolon { at: 12 });
        check("/Patient/1\n", UrlError::Control { at: 10 });
        check("/Patient/1%00", UrlError::Control { at: 10 });
        check("/Patient/1%0a", UrlError::Control { at: 10 });
        check("/Patient/%7F", UrlError::Control { at: 9 });
        check("/Patient?a=%00", UrlError::Control { at: 11 });
        check("/Patient?a%0d=1", UrlError::Control { at: 9 });
        check("/Patient?a=%C2%85", UrlError::Control { at: 11 });
        check("/Patient/1 2", UrlError::Space { at: 10 });
        check("/Patient?a=1 2", UrlError::Space { at: 12 });
        check("/Patient/1%20", UrlError::EncodedPath { at: 10 });
        check("/Pat\u{131}ent", UrlError::NonAscii { at: 4 });
        check("/Patient?a=é", UrlError::NonAscii { at: 11 });
        check("/Patient/%252e", UrlError::DoubleEncoding { at: 9 });
        check("/Patient?a%2562=1", UrlError::DoubleEncoding { at: 9 });
        check("/Patient/%", UrlError::PercentEscape { at: 9 });
        check("/Patient/%2", UrlError::PercentEscape { at: 9 });
        check("/Patient/%+1", UrlError::PercentEscape { at: 9 });
        check("/Patient?a=%zz", UrlError::PercentEscape { at: 11 });
        check("/Patient?a=1%4", UrlError::PercentEscape { at: 12 });
        check("/%50atient", UrlError::EncodedPath { at: 1 });
        check("/Patient/%C3%A9", UrlError::EncodedPath { at: 9 });
        check("/Patient/1%3Fname=x", UrlError::EncodedPath { at: 10 });
        check("/Patient:1", UrlError::Character { at: 8 });
        check("/Patient@1", UrlError::Character { at: 8 });
        check("/Patient|1", UrlError::Character { at: 8 });
        check("/Patient&a=1", UrlError::Character { at: 8 });
        check("/Patient?a=%C3", UrlError::InvalidUtf8 { at: 11 });
        check("/Patient?a=%C0%AF", UrlError::InvalidUtf8 { at: 11 });
        check("/Patient?a=%ED%A0%80", UrlError::InvalidUtf8 { at: 11 });
        check("/P?a=1&b=2&c=3&d=4&e=5", UrlError::TooManyParameters { max: 4, at: 19 });
        check("/P?=1", UrlError::EmptyName { at: 3 });
        check("/P?&a=1", UrlError::EmptyName { at: 3 });
        check("/P?a=1&", UrlError::EmptyName { at: 7 });
        check("/P?a+=1", UrlError::NameCharacter { at: 3 });
        check("/P?%20a=1", UrlError::NameCharacter { at: 3 });
        check("/P?a[]=1", UrlError::NameCharacter { at: 3 });
        check("/P?a%C3%A9=1", UrlError::NameCharacter { at: 3 });
        check("/P?a%26b=1", UrlError::NameCharacter { at: 3 });
        check("/P?a?b=1", UrlError::NameCharacter { at: 3 });
    }

    #[test]
    fn an_empty_base_opens_nothing() {
        for base in ["", "/"] {
            assert_eq!(parse("?a=1", &[base.to_owned()], LIMITS), Err(UrlError::NoLeadingSlash { at: 0 }));
        }
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let check = |url: &str, written: &str| assert_eq!(read(url).unwrap().to_string(), written);
        check("/", "/");
        check("/Patient/1/%24everything?", "/Patient/1/$everything");
        check("/P?a=x%2fy|z+%C3%A9&b", "/P?a=x/y%7Cz%20%C3%A9&b=");
        check("https://fhir.example/r4/P?a=%2B%26%25", "/P?a=%2B%26%25");
    }

    #[test]
    fn a_form_is_read_as_a_query() {
        assert_eq!(parameters("", 4), Ok(Vec::new()));
        assert_eq!(parameters("name=a%2Fb+c", 4), Ok(vec![Parameter { name: "name".into(), value: "a/b c".into() }]));
        assert_eq!(parameters("a=1\r\nb=2", 4), Err(UrlError::Control { at: 3 }));
        assert_eq!(parameters("a=1;b=2", 4), Err(UrlError::Semicolon { at: 3 }));
        assert_eq!(parameters("?a=1", 4), Err(UrlError::NameCharacter { at: 0 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_text(text in any::<String>()) {
            prop_assert!(holds(&text));
        }

        #[test]
        fn bent_urls(pieces in prop::collection::vec(prop::sample::select(vec![
            "/", "Patient", "123", "?", "&", "=", "a", "%", "%2", "2F", "%24", "%25", "%C3%A9", ".", "..", "+", ";", "\\", "#",
            "$", "*", "|", "é", " ", "\n", "https://fhir.example/r4", "_include", ":", "%00", "%20", "%3D",
        ]), 0..12)) {
            let text = pieces.concat();
            let rooted = ["/", text.as_str()].concat();
            prop_assert!(holds(&rooted) && holds(&text));
        }
    }
}
