//! Strict HTTP/1 framing: bytes as they arrive → what the HTTP library may see of them, or the rule they broke.
//! Hides request lines, header lines, lengths and chunks. The library behind is more lenient (it drops a length beside
//! `chunked`, folds two equal lengths), and every leniency is a place where a proxy in front may see another request.
//! INVARIANT: a head is let through only when all of it has been judged; a chunk-size or trailer line only when it is
//! complete. INVARIANT: the verdict depends on the bytes alone, never on how they were cut into reads (`holds`).
//! Source: RFC 9112, sections 2 to 7 and 11.2; RULES "HTTP".

use thiserror::Error;

/// What breaks the framing. Each is answered once, in its turn, and ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("the request line is not a method, a target and `HTTP/1.1`, one space between them")]
    RequestLine,
    #[error(
        "the request target is neither a path nor an absolute `http` URL, or holds a character that must be encoded"
    )]
    Target,
    #[error("the request target is over the limit")]
    TargetTooLong,
    #[error("the header fields are over the limit")]
    HeadersTooLarge,
    #[error("a line ends without a carriage return before its line feed")]
    BareLineFeed,
    #[error("a header line has no colon, or a name that is no token")]
    FieldName,
    #[error("a header name is followed by white space")]
    SpaceBeforeColon,
    #[error("a header line is folded")]
    ObsFold,
    #[error("a header value holds a control character")]
    FieldValue,
    #[error("a header is named as `Content-Length` or `Transfer-Encoding` with an underscore")]
    Alias,
    #[error("there is no `Host`, or more than one")]
    Host,
    #[error("`Host` is no host")]
    HostValue,
    #[error("there is more than one `Content-Length`")]
    TwoLengths,
    #[error("`Content-Length` is no plain number")]
    LengthValue,
    #[error("there is a `Content-Length` beside a `Transfer-Encoding`")]
    LengthWithEncoding,
    #[error("`Transfer-Encoding` is not `chunked`, once, in HTTP/1.1")]
    TransferEncoding,
    #[error("a chunk's size line is no hexadecimal number, or its extension is over the limit")]
    ChunkSize,
    #[error("a chunk is longer than its size")]
    ChunkEnd,
    #[error("a trailer is malformed, or names a field that frames")]
    Trailer,
    #[error("the request's head did not arrive in time")]
    HeadTimeout,
}

/// Where the violation stands: its head never reached the library, or its body has begun to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Head(Violation),
    Body(Violation),
}

/// How much may go on, and whether what follows it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Judged {
    /// Bytes, from the first, that may go to the library.
    pub passed: usize,
    /// What follows them must never reach it.
    pub refusal: Option<Refusal>,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub struct Framing {
    target_bytes_max: usize,
    headers_bytes_max: usize,
    state: State,
}

/// As many as the library takes by default: what it would refuse, we refuse first, with our own words.
pub const FIELDS_MAX: usize = 100;
/// The library keeps the greatest numbers for meanings of its own.
const LENGTH_MAX: u64 = u64::MAX >> 1;
const METHOD_BYTES_MAX: usize = 32;
const VERSION_BYTES: usize = 8;
const CHUNK_LINE_BYTES_MAX: usize = 256;
const CHUNK_SIZE_DIGITS_MAX: usize = 16;
/// The library's own bound is 16 KiB.
const TRAILERS_BYTES_MAX: usize = 8 * 1024;
/// What an HTTP/2 client with prior knowledge says first (RFC 9113, 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
enum State {
    /// Nothing of the connection has been judged: HTTP/1 or HTTP/2.
    Fresh,
    Head(Head),
    Body {
        left: u64,
    },
    ChunkSize {
        scanned: usize,
    },
    ChunkData {
        left: u64,
    },
    ChunkEnd {
        scanned: usize,
    },
    Trailers {
        scanned: usize,
        bytes: usize,
        fields: usize,
    },
    /// HTTP/2: its frames are the library's.
    Opaque,
    Refused,
}

/// A head so far; offsets count from its first byte.
#[derive(Debug, Default)]
struct Head {
    line_start: usize,
    scanned: usize,
    version: Option<Version>,
    headers_bytes: usize,
    fields: usize,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

impl Framing {
    /// Bounds: the request target, and all header lines of a head together, both in bytes.
    pub fn new(target_bytes_max: usize, headers_bytes_max: usize) -> Framing {
        Framing { target_bytes_max, headers_bytes_max, state: State::Fresh }
    }

    /// Judges `unread`: every byte of the connection that was not passed before, what is new at the end. The caller
    /// keeps what is not passed and brings it again, longer; it does so no more after a refusal.
    pub fn judge(&mut self, unread: &[u8]) -> Judged {
        let mut passed = 0;
        loop {
            let rest = unread.get(passed..).unwrap_or_default();
            match self.step(rest) {
                Ok(Step::More) => return Judged { passed, refusal: None },
                Ok(Step::Pass(bytes)) => passed += bytes,
                Err(violation) => {
                    let refusal = match self.state {
                        State::Fresh | State::Head(_) => Refusal::Head(violation),
                        State::Body { .. }
                        | State::ChunkSize { .. }
                        | State::ChunkData { .. }
                        | State::ChunkEnd { .. }
                        | State::Trailers { .. }
                        | State::Opaque
                        | State::Refused => Refusal::Body(violation),
                    };
                    self.state = State::Refused;
                    return Judged { passed, refusal: Some(refusal) };
                }
            }
        }
    }

    /// The connection stands before or within a head: what follows belongs to a request not yet seen by the library.
    pub fn before_body(&self) -> bool {
        matches!(self.state, State::Fresh | State::Head(_))
    }

    /// Nothing of the connection has been judged.
    pub fn is_fresh(&self) -> bool {
        matches!(self.state, State::Fresh)
    }

    /// The connection has turned out to be HTTP/2.
    pub fn is_opaque(&self) -> bool {
        matches!(self.state, State::Opaque)
    }

    fn step(&mut self, rest: &[u8]) -> Result<Step, Violation> {
        if rest.is_empty() {
            return Ok(Step::More);
        }
        let (step, next) = match &mut self.state {
            State::Fresh => fresh(rest),
            State::Head(head) => head.step(rest, self.target_bytes_max, self.headers_bytes_max)?,
            State::Body { left } => data(rest, left, State::Head(Head::default())),
            State::ChunkSize { scanned } => chunk_size(rest, scanned)?,
            State::ChunkData { left } => data(rest, left, State::ChunkEnd { scanned: 0 }),
            State::ChunkEnd { scanned } => chunk_end(rest, scanned)?,
            State::Trailers { scanned, bytes, fields } => trailer(rest, scanned, bytes, fields)?,
            State::Opaque => (Step::Pass(rest.len()), None),
            State::Refused => (Step::More, None),
        };
        if let Some(next) = next {
            self.state = next;
        }
        Ok(step)
    }
}

impl Violation {
    /// All of them: the server finds one again by its name.
    pub const ALL: [Violation; 20] = [
        Violation::RequestLine,
        Violation::Target,
        Violation::TargetTooLong,
        Violation::HeadersTooLarge,
        Violation::BareLineFeed,
        Violation::FieldName,
        Violation::SpaceBeforeColon,
        Violation::ObsFold,
        Violation::FieldValue,
        Violation::Alias,
        Violation::Host,
        Violation::HostValue,
        Violation::TwoLengths,
        Violation::LengthValue,
        Violation::LengthWithEncoding,
        Violation::TransferEncoding,
        Violation::ChunkSize,
        Violation::ChunkEnd,
        Violation::Trailer,
        Violation::HeadTimeout,
    ];

    /// The HTTP status that answers it, and the code of the API's error.
    pub fn answer(self) -> (u16, &'static str) {
        match self {
            Violation::TargetTooLong => (414, "url-too-long"),
            Violation::HeadersTooLarge => (431, "headers-too-large"),
            Violation::HeadTimeout => (408, "timeout"),
            Violation::RequestLine
            | Violation::Target
            | Violation::BareLineFeed
            | Violation::FieldName
            | Violation::SpaceBeforeColon
            | Violation::ObsFold
            | Violation::FieldValue
            | Violation::Alias
            | Violation::Host
            | Violation::HostValue
            | Violation::TwoLengths
            | Violation::LengthValue
            | Violation::LengthWithEncoding
            | Violation::TransferEncoding
            | Violation::ChunkSize
            | Violation::ChunkEnd
            | Violation::Trailer => (400, "bad-framing"),
        }
    }

    /// A well-formed head that takes the refused one's place, so that the answer comes in its turn. Its method begins
    /// with `!`: none that a client sends gets through with that, as `judge` takes letters and `-` alone.
    pub fn stand_in(self) -> Vec<u8> {
        format!("!{self:?} / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n").into_bytes()
    }

    /// The violation that a request with this method stands in for.
    pub fn of_stand_in(method: &str) -> Option<Violation> {
        let name = method.strip_prefix('!')?;
        Violation::ALL.into_iter().find(|violation| format!("{violation:?}") == name)
    }
}

enum Step {
    /// So many bytes may go on.
    Pass(usize),
    /// Nothing more can be said of these bytes alone.
    More,
}

/// A step, and the state after it where it is another.
type Moved = (Step, Option<State>);

fn fresh(rest: &[u8]) -> Moved {
    if H2_PREFACE.starts_with(rest) && rest.len() < H2_PREFACE.len() {
        (Step::More, None)
    } else if rest.starts_with(H2_PREFACE) {
        (Step::Pass(H2_PREFACE.len()), Some(State::Opaque))
    } else {
        (Step::Pass(0), Some(State::Head(Head::default())))
    }
}

/// `left` bytes that nobody looks into; then comes `after`.
fn data(rest: &[u8], left: &mut u64, after: State) -> Moved {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
    *left -= here as u64;
    (Step::Pass(here), (*left == 0).then_some(after))
}

fn chunk_size(rest: &[u8], scanned: &mut usize) -> Result<Moved, Violation> {
    let Some((line, end)) = line(rest, scanned, CHUNK_LINE_BYTES_MAX, Violation::ChunkSize)? else {
        return Ok((Step::More, None));
    };
    let (digits, extension) = match line.iter().position(|byte| *byte == b';') {
        Some(at) => line.split_at(at),
        None => (line, &[] as &[u8]),
    };
    if !extension.iter().all(|byte| is_value(*byte)) || digits.len() > CHUNK_SIZE_DIGITS_MAX {
        return Err(Violation::ChunkSize);
    }
    let next = match number(digits, 16).ok_or(Violation::ChunkSize)? {
        0 => State::Trailers { scanned: 0, bytes: 0, fields: 0 },
        left => State::ChunkData { left },
    };
    Ok((Step::Pass(end), Some(next)))
}

fn chunk_end(rest: &[u8], scanned: &mut usize) -> Result<Moved, Violation> {
    // Nothing stands between the data and its line end, so that the first byte already tells.
    match line(rest, scanned, 1, Violation::ChunkEnd).map_err(|_| Violation::ChunkEnd)? {
        None if rest != b"\r" => Err(Violation::ChunkEnd),
        None => Ok((Step::More, None)),
        Some((_, end)) => Ok((Step::Pass(end), Some(State::ChunkSize { scanned: 0 }))),
    }
}

fn trailer(rest: &[u8], scanned: &mut usize, bytes: &mut usize, fields: &mut usize) -> Result<Moved, Violation> {
    let Some((line, end)) = line(rest, scanned, TRAILERS_BYTES_MAX - *bytes, Violation::HeadersTooLarge)? else {
        return Ok((Step::More, None));
    };
    if line.is_empty() {
        return Ok((Step::Pass(end), Some(State::Head(Head::default()))));
    }
    *scanned = 0;
    *bytes = (*bytes + end).min(TRAILERS_BYTES_MAX);
    *fields += 1;
    if *fields > FIELDS_MAX {
        return Err(Violation::HeadersTooLarge);
    }
    match field(line).map_err(|_| Violation::Trailer)? {
        (Name::Other, _) => Ok((Step::Pass(end), None)),
        (Name::Host | Name::ContentLength | Name::TransferEncoding, _) => Err(Violation::Trailer),
    }
}

impl Head {
    fn step(&mut self, rest: &[u8], target_max: usize, headers_max: usize) -> Result<Moved, Violation> {
        if !rest.first().is_some_and(u8::is_ascii_alphabetic) {
            return Err(Violation::RequestLine);
        }
        loop {
            let here = rest.get(self.line_start..).unwrap_or_default();
            let (bytes_max, too_long) = match self.version {
                None => (METHOD_BYTES_MAX + 1 + target_max + 1 + VERSION_BYTES + 1, Violation::TargetTooLong),
                Some(_) => (headers_max.saturating_sub(self.headers_bytes), Violation::HeadersTooLarge),
            };
            let Some((line, end)) = line(here, &mut self.scanned, bytes_max, too_long)? else {
                return Ok((Step::More, None));
            };
            self.line_start += end;
            self.scanned = 0;
            let Some(version) = self.version else {
                self.version = Some(request_line(line, target_max)?);
                continue;
            };
            if line.is_empty() {
                return Ok((Step::Pass(self.line_start), Some(self.end()?)));
            }
            self.headers_bytes += end;
            self.header(line, version)?;
        }
    }

    fn header(&mut self, line: &[u8], version: Version) -> Result<(), Violation> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(Violation::HeadersTooLarge);
        }
        match field(line)? {
            (Name::Other, _) => Ok(()),
            (Name::Host, value) if self.host || value.is_empty() => Err(Violation::Host),
            (Name::Host, value) if !is_authority(value) => Err(Violation::HostValue),
            (Name::Host, _) => {
                self.host = true;
                Ok(())
            }
            (Name::ContentLength, _) if self.chunked => Err(Violation::LengthWithEncoding),
            (Name::ContentLength, _) if self.length.is_some() => Err(Violation::TwoLengths),
            // `5, 5` is two lengths that someone has joined.
            (Name::ContentLength, value) if value.contains(&b',') => Err(Violation::TwoLengths),
            (Name::ContentLength, value) => {
                let length = number(value, 10).filter(|length| *length <= LENGTH_MAX);
                self.length = Some(length.ok_or(Violation::LengthValue)?);
                Ok(())
            }
            (Name::TransferEncoding, _) if self.length.is_some() => Err(Violation::LengthWithEncoding),
            (Name::TransferEncoding, value) => {
                if self.chunked || version == Version::Http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation::TransferEncoding);
                }
                self.chunked = true;
                Ok(())
            }
        }
    }

    fn end(&self) -> Result<State, Violation> {
        match (self.host, self.chunked, self.length) {
            (false, _, _) => Err(Violation::Host),
            (true, true, _) => Ok(State::ChunkSize { scanned: 0 }),
            (true, false, None | Some(0)) => Ok(State::Head(Head::default())),
            (true, false, Some(left)) => Ok(State::Body { left }),
        }
    }
}

/// The first line of `rest` without its CRLF, and where the next begins; none while it has no end. `scanned` bytes are
/// known to hold no line feed. More than `bytes_max` before the line feed is `too_long`, however they arrive.
fn line<'a>(
    rest: &'a [u8],
    scanned: &mut usize,
    bytes_max: usize,
    too_long: Violation,
) -> Result<Option<(&'a [u8], usize)>, Violation> {
    let unseen = rest.get(*scanned..).unwrap_or_default();
    let feed = unseen.iter().position(|byte| *byte == b'\n').map(|at| at + *scanned);
    if feed.unwrap_or(rest.len()) > bytes_max {
        return Err(too_long);
    }
    let Some(feed) = feed else {
        *scanned = rest.len();
        return Ok(None);
    };
    match rest.get(..feed).and_then(|line| line.strip_suffix(b"\r")) {
        Some(line) => Ok(Some((line, feed + 1))),
        None => Err(Violation::BareLineFeed),
    }
}

fn request_line(line: &[u8], target_bytes_max: usize) -> Result<Version, Violation> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Violation::RequestLine);
    };
    let is_method = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'-';
    if method.is_empty() || method.len() > METHOD_BYTES_MAX || !method.iter().all(is_method) {
        return Err(Violation::RequestLine);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Violation::RequestLine),
    };
    if target.len() > target_bytes_max {
        return Err(Violation::TargetTooLong);
    }
    if is_target(target) || (target == b"*" && method == b"OPTIONS") { Ok(version) } else { Err(Violation::Target) }
}

/// A path with its query, or an absolute `http` URL. No fragment, which the library would drop without a word, and no
/// character that it would refuse in its own way.
pub fn is_target(target: &[u8]) -> bool {
    let path = match strip_scheme(target) {
        None if target.starts_with(b"/") => target,
        None => return false,
        Some(rest) => {
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if !is_authority(authority) {
                return false;
            }
            path
        }
    };
    path.iter().all(|byte| matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'~'))
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// A host and perhaps a port, without user information (RFC 9110, 7.2).
fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, port) = rest.split_at(end);
            if !address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
                return false;
            }
            (address, port.get(1..).unwrap_or_default())
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            let (name, port) = value.split_at(end);
            if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')) {
                return false;
            }
            (name, port)
        }
    };
    !host.is_empty()
        && match port.split_first() {
            None => true,
            Some((colon, digits)) => {
                *colon == b':' && (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
            }
        }
}

/// The names that frame.
#[derive(Clone, Copy)]
enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Other,
}

/// A header or trailer line: its name and its value without the white space around it.
fn field(line: &[u8]) -> Result<(Name, &[u8]), Violation> {
    if line.first().is_some_and(|byte| is_blank(*byte)) {
        return Err(Violation::ObsFold);
    }
    let colon = line.iter().position(|byte| !is_token(*byte)).ok_or(Violation::FieldName)?;
    let (name, rest) = line.split_at(colon);
    let value = match rest.split_first() {
        Some((b':', value)) if !name.is_empty() => value,
        Some((byte, _)) if is_blank(*byte) => return Err(Violation::SpaceBeforeColon),
        Some(_) | None => return Err(Violation::FieldName),
    };
    if !value.iter().all(|byte| is_value(*byte)) {
        return Err(Violation::FieldValue);
    }
    Ok((name_of(name)?, trim(value)))
}

fn name_of(name: &[u8]) -> Result<Name, Violation> {
    // By length first: hardly any header gets past it.
    let (known, meant) = match name.len() {
        4 => (b"host".as_slice(), Name::Host),
        14 => (b"content-length".as_slice(), Name::ContentLength),
        17 => (b"transfer-encoding".as_slice(), Name::TransferEncoding),
        _ => return Ok(Name::Other),
    };
    if name.eq_ignore_ascii_case(known) {
        return Ok(meant);
    }
    // A gateway that maps names to variables, as CGI does, takes one for the other.
    let dashed = name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
    if dashed.eq(known.iter().copied()) { Err(Violation::Alias) } else { Ok(Name::Other) }
}

/// Digits and nothing else, at least one.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = char::from(*byte).to_digit(radix)?;
        number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

fn trim(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|byte| !is_blank(*byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(*byte)).map_or(start, |at| at + 1);
    value.get(start..end).unwrap_or_default()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Property: cut anywhere, the same bytes are passed and the same refusal is given, and no more than there are.
#[doc(hidden)]
pub fn holds(input: &[u8]) -> bool {
    let whole = follow([input].into_iter());
    let chunk = input.first().map_or(1, |byte| usize::from(*byte) % 7 + 2);
    let (left, right) = input.split_at_checked(input.len() / 2).unwrap_or((input, &[]));
    whole.0 <= input.len()
        && whole == follow(input.chunks(1))
        && whole == follow(input.chunks(chunk))
        && whole == follow([left, right].into_iter())
}

/// Feeds the parts as a connection does: the bytes passed in all, and the refusal that ended it.
fn follow<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (usize, Option<Refusal>) {
    // Small bounds, so that a short input meets them.
    let mut framing = Framing::new(64, 256);
    let mut held = Vec::new();
    let mut passed = 0;
    for part in parts {
        held.extend_from_slice(part);
        let judged = framing.judge(&held);
        passed += judged.passed;
        if judged.refusal.is_some() {
            return (passed, judged.refusal);
        }
        held.drain(..judged.passed);
    }
    (passed, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything passes, or so many bytes and then the refusal.
    fn check(name: &str, input: &[u8], expected: Result<(), (usize, Refusal)>) {
        let expected = expected.map_or_else(|(passed, refusal)| (passed, Some(refusal)), |()| (input.len(), None));
        assert_eq!(follow([input].into_iter()), expected, "{name}");
        assert!(holds(input), "{name}: cut into parts");
    }

    fn head(violation: Violation) -> Result<(), (usize, Refusal)> {
        Err((0, Refusal::Head(violation)))
    }

    #[test]
    fn well_formed_requests_pass() {
        let cases: &[(&str, &[u8])] = &[
            ("no body", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
            ("a port", b"GET / HTTP/1.1\r\nhOST:a.example:8180 \r\n\r\n"),
            ("an IPv6 host", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
            ("absolute form", b"GET http://a/b?c=|{} HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /"),
            ("a length of nothing", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("chunks", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\na\r\nb\n\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n"),
            ("trailers", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\nZ: \r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("pipelined", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            ("UTF-8 in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n".as_bytes()),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
            ("nothing", b""),
        ];
        for (name, input) in cases {
            check(name, input, Ok(()));
        }
    }

    #[test]
    fn request_lines_that_break_the_framing() {
        let cases: &[(&str, &str, Violation)] = &[
            ("two spaces", "GET  / HTTP/1.1", Violation::RequestLine),
            ("a tab between", "GET\t/ HTTP/1.1", Violation::RequestLine),
            ("a space at the end", "GET / HTTP/1.1 ", Violation::RequestLine),
            ("no version", "GET /", Violation::RequestLine),
            ("HTTP/1.2", "GET / HTTP/1.2", Violation::RequestLine),
            ("http/1.1", "GET / http/1.1", Violation::RequestLine),
            ("our own stand-in", "!Host / HTTP/1.1", Violation::RequestLine),
            ("CONNECT", "CONNECT a:80 HTTP/1.1", Violation::Target),
            ("an asterisk for GET", "GET * HTTP/1.1", Violation::Target),
            ("a fragment", "GET /a#b HTTP/1.1", Violation::Target),
            ("no leading slash", "GET a HTTP/1.1", Violation::Target),
            ("another scheme", "GET file:///a HTTP/1.1", Violation::Target),
            ("a user in the URL", "GET http://u@a/ HTTP/1.1", Violation::Target),
            ("raw UTF-8 in the target", "GET /\u{e9} HTTP/1.1", Violation::Target),
        ];
        for (name, line, violation) in cases {
            check(name, format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), head(*violation));
        }
    }

    #[test]
    fn fields_that_break_the_framing() {
        let cases: &[(&str, &str, Violation)] = &[
            ("two hosts", "Host: a", Violation::Host),
            ("length beside chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5", Violation::LengthWithEncoding),
            ("chunked beside length", "Content-Length: 5\r\nTransfer-Encoding: chunked", Violation::LengthWithEncoding),
            (
                "an unknown encoding beside length",
                "Content-Length: 5\r\nTransfer-Encoding: x",
                Violation::LengthWithEncoding,
            ),
            ("two lengths", "Content-Length: 5\r\nContent-Length: 6", Violation::TwoLengths),
            ("two equal lengths", "Content-Length: 5\r\nContent-Length: 5", Violation::TwoLengths),
            ("two lengths in a line", "Content-Length: 5, 5", Violation::TwoLengths),
            ("a signed length", "Content-Length: +5", Violation::LengthValue),
            ("a negative length", "Content-Length: -1", Violation::LengthValue),
            ("an empty length", "Content-Length:", Violation::LengthValue),
            ("a hexadecimal length", "Content-Length: 0x5", Violation::LengthValue),
            ("a length with a space within", "Content-Length: 5 5", Violation::LengthValue),
            ("a length over 64 bits", "Content-Length: 18446744073709551616", Violation::LengthValue),
            ("a length over 63 bits", "Content-Length: 9223372036854775808", Violation::LengthValue),
            ("gzip, chunked", "Transfer-Encoding: gzip, chunked", Violation::TransferEncoding),
            ("chunked, identity", "Transfer-Encoding: chunked, identity", Violation::TransferEncoding),
            ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Violation::TransferEncoding),
            ("xchunked", "Transfer-Encoding: xchunked", Violation::TransferEncoding),
            ("quoted chunked", "Transfer-Encoding: \"chunked\"", Violation::TransferEncoding),
            ("chunked with a vertical tab", "Transfer-Encoding:\x0bchunked", Violation::FieldValue),
            ("an underscore in the length's name", "Content_Length: 5", Violation::Alias),
            ("an underscore in the encoding's name", "transfer_encoding: chunked", Violation::Alias),
            ("a fold", "X: y\r\n z", Violation::ObsFold),
            ("a fold with a tab", "\tb", Violation::ObsFold),
            ("a tab before the colon", "Content-Length\t: 5", Violation::SpaceBeforeColon),
            ("a slash in a name", "X/Y: a", Violation::FieldName),
            ("a NUL in a value", "X: a\0b", Violation::FieldValue),
            ("a bare CR in a value", "X: a\rY: b", Violation::FieldValue),
        ];
        for (name, fields, violation) in cases {
            check(name, format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes(), head(*violation));
        }
    }

    #[test]
    fn heads_that_break_the_framing() {
        let cases: &[(&str, &str, Violation)] = &[
            ("no host", "GET / HTTP/1.1\r\n\r\n", Violation::Host),
            ("no host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", Violation::Host),
            ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", Violation::Host),
            ("hosts joined", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Violation::HostValue),
            ("a user in the host", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Violation::HostValue),
            ("a path in the host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Violation::HostValue),
            ("a host in brackets left open", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Violation::HostValue),
            (
                "chunked in HTTP/1.0",
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
                Violation::TransferEncoding,
            ),
            ("a fold after the request line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", Violation::ObsFold),
            ("a space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", Violation::SpaceBeforeColon),
            ("no name", "GET / HTTP/1.1\r\n: a\r\n\r\n", Violation::FieldName),
            ("no colon", "GET / HTTP/1.1\r\nHost\r\n\r\n", Violation::FieldName),
            ("a NUL in a name", "GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n", Violation::FieldName),
            ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n", Violation::BareLineFeed),
            ("one bare line feed", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Violation::BareLineFeed),
            ("a bare line feed at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", Violation::BareLineFeed),
            ("a preface that goes wrong", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Violation::RequestLine),
            ("an empty line first", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::RequestLine),
            ("TLS", "\x16\x03\x01\x02\x00\x01", Violation::RequestLine),
        ];
        for (name, input, violation) in cases {
            check(name, input.as_bytes(), head(*violation));
        }
    }

    #[test]
    fn bodies_that_break_the_framing() {
        // What stands before the refused line passes, the line never does.
        let cases: &[(&str, &str, &str, Violation)] = &[
            ("a size that is no number", "", "x\r\n", Violation::ChunkSize),
            ("an empty size", "", "\r\n", Violation::ChunkSize),
            ("a size with 0x", "", "0x5\r\n", Violation::ChunkSize),
            ("a signed size", "", "+5\r\n", Violation::ChunkSize),
            ("a space before the size", "", " 5\r\n", Violation::ChunkSize),
            ("a space after the size", "", "5 \r\n", Violation::ChunkSize),
            ("a size over 64 bits", "", "10000000000000000\r\n", Violation::ChunkSize),
            ("a NUL in the extension", "", "5;\0\r\n", Violation::ChunkSize),
            ("a bare CR in the extension", "", "5;a\rb\r\n", Violation::ChunkSize),
            ("a bare line feed after the size", "", "5\n", Violation::BareLineFeed),
            ("a chunk longer than its size", "2\r\nab", "c\r\n", Violation::ChunkEnd),
            ("a bare line feed after the data", "2\r\nab", "\n0\r\n\r\n", Violation::ChunkEnd),
            ("a bare CR after the data", "2\r\nab", "\r0\r\n\r\n", Violation::ChunkEnd),
            ("a length among the trailers", "0\r\n", "Content-Length: 5\r\n\r\n", Violation::Trailer),
            (
                "an encoding among the trailers",
                "0\r\nX: y\r\n",
                "Transfer-Encoding: chunked\r\n\r\n",
                Violation::Trailer,
            ),
            ("a host among the trailers", "0\r\n", "Host: b\r\n\r\n", Violation::Trailer),
            ("a request in the place of trailers", "0\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", Violation::Trailer),
            ("a folded trailer", "0\r\nX: y\r\n", " z\r\n\r\n", Violation::Trailer),
            ("a bare line feed among the trailers", "0\r\n", "X: y\n\n", Violation::BareLineFeed),
        ];
        for (name, good, bad, violation) in cases {
            let good = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{good}");
            let expected = Err((good.len(), Refusal::Body(*violation)));
            check(name, format!("{good}{bad}").as_bytes(), expected);
        }
        let long = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;{}", "x".repeat(400));
        check("a long extension", long.as_bytes(), Err((56, Refusal::Body(Violation::ChunkSize))));
    }

    #[test]
    fn limits() {
        let head_of = |target: usize, value: usize| {
            format!("GET /{} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "t".repeat(target - 1), "v".repeat(value))
        };
        // `follow` bounds the target to 64 bytes and the header lines to 256, of which `Host` and `X` take 14.
        check("both just within", head_of(64, 241).as_bytes(), Ok(()));
        check("a target too long", head_of(65, 1).as_bytes(), head(Violation::TargetTooLong));
        check(
            "a target without an end",
            format!("GET /{}", "t".repeat(400)).as_bytes(),
            head(Violation::TargetTooLong),
        );
        check("headers too long", head_of(64, 243).as_bytes(), head(Violation::HeadersTooLarge));
        check("a header without an end", &head_of(64, 400).as_bytes()[..400], head(Violation::HeadersTooLarge));
        let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X:\r\n".repeat(count - 1));
        let mut framing = Framing::new(64, 4096);
        assert_eq!(framing.judge(many(100).as_bytes()).refusal, None, "a hundred headers");
        let refusal = framing.judge(many(101).as_bytes()).refusal;
        assert_eq!(refusal, Some(Refusal::Head(Violation::HeadersTooLarge)), "a hundred and one");
    }

    #[test]
    fn the_first_request_passes_and_the_second_is_refused() {
        let good = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let both = format!("{good}GET / HTTP/1.1\r\n\r\n");
        check("pipelined", both.as_bytes(), Err((good.len(), Refusal::Head(Violation::Host))));
    }

    #[test]
    fn a_stand_in_is_found_again_and_is_well_formed_but_for_its_method() {
        for violation in Violation::ALL {
            let bytes = violation.stand_in();
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert_eq!(Violation::of_stand_in(text.split(' ').next().unwrap()), Some(violation));
            check("from a client", &bytes, head(Violation::RequestLine));
            check("but for its method", &bytes[1..], Ok(()));
        }
        assert_eq!(Violation::of_stand_in("Host"), None);
        assert_eq!(Violation::of_stand_in("!Nothing"), None);
    }

    /// Pieces that make well-formed requests when they come in order, and every kind of confusion when they do not.
    const PIECES: &[&str] = &[
        "GET / HTTP/1.1\r\n",
        "POST /a?b=c HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 5\r\n",
        "content_length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "X: y\r\n",
        " folded\r\n",
        "\r\n",
        "\r\n",
        "5\r\n",
        "hello",
        "0\r\n",
        "a;x=y\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\n",
        "\r",
    ];

    proptest! {
        #[test]
        fn cut_anywhere(input in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(holds(&input));
        }

        #[test]
        fn pieces_cut_anywhere(
            start in 0..4usize,
            pieces in proptest::collection::vec(0..PIECES.len(), 0..12),
            bend in any::<prop::sample::Index>(),
            byte in proptest::option::of(any::<u8>()),
        ) {
            const STARTS: [&str; 4] = [
                "",
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            ];
            let mut input = STARTS[start].as_bytes().to_vec();
            input.extend(pieces.iter().flat_map(|piece| PIECES[*piece].bytes()));
            if let Some(byte) = byte && !input.is_empty() {
                let at = bend.index(input.len());
                input[at] = byte;
            }
            prop_assert!(holds(&input));
        }
    }
}
