//! Compact JWS → claims: form, algorithm, signature, times. Hides the order of the checks and the signing library.
//! INVARIANT: nothing of a token is believed before its signature, but what chooses the key; the times come after.
//! INVARIANT: the algorithm is the issuer's choice, the key is ours: `jwk`, `jku`, `x5u`, `x5c` are refused unread.
//! INVARIANT: one token has one text: base64url is canonical, JSON names no member twice.
//! INVARIANT: `Claims` that say they are verified are made by [`verify`] alone.
//! INVARIANT: no error holds any part of a token.
//! Source: RFC 7515 (JWS), RFC 7519 (JWT), RFC 7797 (`b64`), RFC 8725 (best practices), RFC 9068 (`at+jwt`).

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Map, Value};

use crate::json::{self, JsonError, JsonErrorKind};
use crate::token::issuers::{Algorithm, Choice, Issuer, IssuerError, Issuers, Keys, Wanted};

/// Verifies a token against the issuers that are trusted. `now` in seconds since 1970.
///
/// [`TokenError::KeyUnknown`] asks for newer keys of that issuer; whoever can bring them asks again.
pub fn verify(token: &str, issuers: &Issuers, limits: &Limits, now: i64) -> Result<Claims, TokenError> {
    verify_for_long(token, issuers, limits, now).map(|(claims, _)| claims)
}

/// As [`verify`], and how long the answer stays: whoever remembers it need not verify again.
pub fn verify_for_long(
    token: &str,
    issuers: &Issuers,
    limits: &Limits,
    now: i64,
) -> Result<(Claims, Validity), TokenError> {
    let parts = Parts::split(token, limits)?;
    let header = parts.header(limits)?;
    let (algorithm, kid) = judge_header(&header)?;
    let payload = parts.payload(limits)?;

    let iss = payload.get("iss").and_then(Value::as_str).ok_or(TokenError::IssuerMissing)?;
    let tenant = payload.get("tid").and_then(Value::as_str);
    let (issuer_index, issuer, keys) = issuers.find(iss, tenant).ok_or_else(|| unknown_issuer(iss, issuers))?;
    if issuer.pattern.is_template() && !issuer.tenants.is_empty() {
        let allowed = issuer.tenants.iter().any(|allowed| Some(allowed.as_str()) == tenant);
        allowed.then_some(()).ok_or(TokenError::TenantNotAllowed)?;
    }
    if !issuer.algorithms.contains(&algorithm) {
        return Err(TokenError::AlgorithmNotAllowed { algorithm });
    }

    let key = match keys.choose(&Wanted { kid, algorithm, issuer: iss, tenant }) {
        Choice::Key(key) => key,
        Choice::Unknown => return Err(TokenError::KeyUnknown { issuer_index }),
        Choice::Unfit => return Err(TokenError::KeyUnfit { algorithm }),
        Choice::Several => return Err(TokenError::KeyAmbiguous { algorithm }),
        Choice::SecretTooShort => return Err(TokenError::SecretTooShort { algorithm }),
    };
    let signed = jsonwebtoken::crypto::verify(parts.signature, parts.signed.as_bytes(), key, algorithm.library());
    if !signed.unwrap_or(false) {
        return Err(TokenError::Signature);
    }

    judge_times(&payload, issuer, now)?;
    judge_audience(&payload, issuer)?;
    judge_use(&payload)?;
    let validity = Validity::of(&payload, issuer_index, issuer, Arc::clone(keys))?;
    Ok((Claims { payload, verified: true }, validity))
}

/// Under which circumstances a token that was verified is valid still: by the same keys, between two moments.
#[derive(Clone)]
pub struct Validity {
    issuer_index: usize,
    keys: Arc<Keys>,
    /// seconds since 1970, leeway included
    from: f64,
    until: f64,
}

impl Validity {
    fn of(
        payload: &Map<String, Value>,
        issuer_index: usize,
        issuer: &Issuer,
        keys: Arc<Keys>,
    ) -> Result<Validity, TokenError> {
        let leeway = issuer.leeway_seconds as f64;
        let date = |claim| numeric_date(payload, claim);
        let from = date("nbf")?.unwrap_or(0.0).max(date("iat")?.unwrap_or(0.0)) - leeway;
        let until = date("exp")?.map_or(f64::INFINITY, |expiry| expiry + leeway);
        Ok(Validity { issuer_index, keys, from, until })
    }

    /// Whether [`verify`] would still say yes to the same token.
    pub fn holds(&self, issuers: &Issuers, now: i64) -> bool {
        let keys = issuers.iter().nth(self.issuer_index).map(|(_, keys)| keys);
        keys.is_some_and(|keys| Arc::ptr_eq(keys, &self.keys)) && self.from <= now as f64 && (now as f64) < self.until
    }
}

/// Reads a token's form and verifies nothing: for showing it to the person who holds it.
pub fn decode(token: &str, limits: &Limits) -> Result<Decoded, TokenError> {
    let parts = Parts::split(token, limits)?;
    Ok(Decoded { header: parts.header(limits)?, payload: parts.payload(limits)? })
}

/// Signs a token, for development and tests; what it says is not judged.
pub fn mint(
    claims: &Map<String, Value>,
    algorithm: Algorithm,
    key: MintKey<'_>,
    kid: Option<&str>,
) -> Result<String, TokenError> {
    let key = key.encoding(algorithm).ok_or(TokenError::MintKey { algorithm })?;
    let mut header = Map::new();
    header.insert("alg".to_owned(), algorithm.as_str().into());
    header.insert("typ".to_owned(), "JWT".into());
    if let Some(kid) = kid {
        header.insert("kid".to_owned(), kid.into());
    }
    let part = |map: &Map<String, Value>| {
        let text = serde_json::to_vec(map).map_err(|_| TokenError::MintKey { algorithm })?;
        Ok(URL_SAFE_NO_PAD.encode(text))
    };
    let signed = format!("{}.{}", part(&header)?, part(claims)?);
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm.library());
    Ok(format!("{signed}.{}", signature.map_err(|_| TokenError::MintKey { algorithm })?))
}

/// What to sign with: a shared secret, or a private key in PEM (PKCS#8; for RSA PKCS#1 too).
#[derive(Clone, Copy)]
pub enum MintKey<'a> {
    Secret(&'a [u8]),
    PrivatePem(&'a [u8]),
}

impl MintKey<'_> {
    fn encoding(self, algorithm: Algorithm) -> Option<EncodingKey> {
        match (self, algorithm.secret_bytes_min()) {
            (MintKey::Secret(secret), Some(bytes_min)) => {
                (secret.len() >= bytes_min).then(|| EncodingKey::from_secret(secret))
            }
            (MintKey::PrivatePem(pem), None) => match algorithm {
                Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem).ok(),
                Algorithm::EdDSA => EncodingKey::from_ed_pem(pem).ok(),
                Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => EncodingKey::from_rsa_pem(pem).ok(),
                Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => EncodingKey::from_rsa_pem(pem).ok(),
                Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => None,
            },
            (MintKey::Secret(_), None) | (MintKey::PrivatePem(_), Some(_)) => None,
        }
    }
}

impl fmt::Debug for MintKey<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MintKey(…)")
    }
}

/// How much of a token is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub token_bytes_max: usize,
    /// Nesting of objects and arrays, in header and payload.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { token_bytes_max: 16 * 1024, depth_max: 64 }
    }
}

/// A token as it came, on its way to being verified; Debug does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(String);

impl Token {
    pub fn new(text: String) -> Token {
        Token(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// What a token says. Two doors lead here: [`verify`], and the word of a caller who has verified it.
#[derive(Clone, PartialEq)]
pub struct Claims {
    payload: Map<String, Value>,
    verified: bool,
}

impl Claims {
    /// Claims that the caller vouches for.
    pub fn vouched(payload: Map<String, Value>) -> Claims {
        Claims { payload, verified: false }
    }

    /// Whether `exp`, `nbf` and `iat` are NumericDates where they are there. A verifier that skips what it cannot read
    /// (CVE-2026-25537) vouches for tokens that have expired, so this much of its word is checked.
    pub fn judge_times_form(&self) -> Result<(), TokenError> {
        ["exp", "nbf", "iat"].into_iter().try_for_each(|claim| numeric_date(&self.payload, claim).map(|_| ()))
    }

    pub fn payload(&self) -> &Map<String, Value> {
        &self.payload
    }

    /// `iss`, where it is a string.
    pub fn issuer(&self) -> Option<&str> {
        self.payload.get("iss").and_then(Value::as_str)
    }

    /// Whether the signature was verified here.
    pub fn is_verified(&self) -> bool {
        self.verified
    }

    /// `exp` in whole seconds since 1970, rounded down: after it these claims may no longer be remembered.
    pub fn expires_at(&self) -> Option<i64> {
        numeric_date(&self.payload, "exp").ok().flatten().map(|exp| exp.floor() as i64)
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let door = if self.verified { "verified" } else { "vouched" };
        write!(formatter, "Claims({door}, {} claims)", self.payload.len())
    }
}

/// A token taken apart, unverified.
#[derive(Clone, PartialEq)]
pub struct Decoded {
    pub header: Map<String, Value>,
    pub payload: Map<String, Value>,
}

impl fmt::Debug for Decoded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Decoded(…)")
    }
}

/// The two parts of a token that are JSON, and the third.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Header,
    Payload,
    Signature,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Part::Header => "header",
            Part::Payload => "payload",
            Part::Signature => "signature",
        })
    }
}

/// Why a token is refused. Display is for people and tells nothing of the token's content; `hint` is the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("the token does not have three parts with a dot between them")]
    Parts,
    #[error("the token is encrypted (JWE)")]
    Encrypted,
    #[error("the token's {part} is not base64url in its canonical form")]
    Base64 { part: Part },
    #[error("the token's {part} is no strict JSON: {kind}, at {line}:{column}")]
    Json { part: Part, kind: JsonErrorKind, line: usize, column: usize },
    #[error("the token's {part} is no JSON object")]
    NoObject { part: Part },
    #[error("the token's header has no `alg`")]
    AlgorithmMissing,
    #[error("the token's `alg` is `none`: nobody signed it")]
    AlgorithmNone,
    #[error("the token's `alg` is none that is known here")]
    AlgorithmUnknown,
    #[error("the token's header has `{member}`, which is not accepted")]
    HeaderMember { member: &'static str },
    #[error("the token's `typ` is neither `JWT` nor `at+jwt`")]
    Type,
    #[error("the token's `kid` is no string")]
    KidMalformed,
    #[error("the token has no `iss`, or one that is no string")]
    IssuerMissing,
    #[error("the token's issuer is not configured")]
    IssuerUnknown,
    #[error("the token's `iss` is of a multi-tenant issuer, and its `tid` does not name the same tenant")]
    TenantMismatch,
    #[error("the token's tenant is not one that this issuer's entry lists")]
    TenantNotAllowed,
    #[error("the token is signed with {algorithm}, which its issuer's entry does not list")]
    AlgorithmNotAllowed { algorithm: Algorithm },
    #[error("the key that signed the token is not among its issuer's keys")]
    KeyUnknown { issuer_index: usize },
    #[error("the key that the token's `kid` names is not for {algorithm} or not for its issuer")]
    KeyUnfit { algorithm: Algorithm },
    #[error("the token has no `kid`, and several of its issuer's keys fit {algorithm}")]
    KeyAmbiguous { algorithm: Algorithm },
    #[error("the issuer's secret is too short for {algorithm}")]
    SecretTooShort { algorithm: Algorithm },
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token's `{claim}` is no NumericDate")]
    NoNumericDate { claim: &'static str },
    #[error("the token has no `exp`")]
    ExpiryMissing,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet (`nbf`)")]
    NotYetValid,
    #[error("the token was issued in the future (`iat`)")]
    IssuedInFuture,
    #[error("the token has no `aud`")]
    AudienceMissing,
    #[error("the token's `aud` is neither a string nor a list of strings")]
    AudienceMalformed,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has `{claim}`: it is an ID token, not an access token")]
    IdToken { claim: &'static str },
    #[error("this key cannot sign with {algorithm}")]
    MintKey { algorithm: Algorithm },
}

impl TokenError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            TokenError::TooLong { .. } => "ask for fewer claims, or raise the limit",
            TokenError::Parts => "send the token alone, whole, without `Bearer` and line breaks",
            TokenError::Encrypted => "have the issuer sign the access token (JWS) and not encrypt it",
            TokenError::Base64 { .. } => "send the token as it was issued: it has been cut, padded or re-encoded",
            TokenError::Json { .. } | TokenError::NoObject { .. } => "send the token as it was issued",
            TokenError::AlgorithmMissing | TokenError::AlgorithmUnknown => {
                "have the issuer sign with one of RS, PS, ES or HS with 256, 384 or 512, ES256, ES384 or EdDSA"
            }
            TokenError::AlgorithmNone => "have the issuer sign it",
            TokenError::HeaderMember { .. } => "have the issuer leave it out: keys come from its entry alone",
            TokenError::Type => "send the access token, not another one of the same issuer",
            TokenError::KidMalformed => "have the issuer write it as a string",
            TokenError::IssuerMissing => "have the issuer name itself in `iss`",
            TokenError::IssuerUnknown => "add its `iss`, exactly as written, to the issuers in `claims.yaml`",
            TokenError::TenantMismatch => "check that `tid` is the tenant in `iss`",
            TokenError::TenantNotAllowed => "add the tenant to the issuer's `tenants`, if it is to be let in",
            TokenError::AlgorithmNotAllowed { .. } => "add it to the issuer's `algorithms`, if the issuer uses it",
            TokenError::KeyUnknown { .. } => "check that the issuer's keys can be fetched and are its current ones",
            TokenError::KeyUnfit { .. } => "check the key's `kty`, `crv`, `alg` and `issuer` in the key set",
            TokenError::KeyAmbiguous { .. } => "have the issuer write `kid`, or give it one key",
            TokenError::SecretTooShort { .. } => "give it a secret of 32, 48 or 64 random bytes for HS256, 384 or 512",
            TokenError::Signature => "check that the token comes from this issuer and was not altered on the way",
            TokenError::NoNumericDate { .. } => "have the issuer write it as a number of seconds since 1970",
            TokenError::ExpiryMissing => "have the issuer write `exp`, or allow its absence in the issuer's entry",
            TokenError::Expired => "get a new token; if it is new, compare the clocks",
            TokenError::NotYetValid | TokenError::IssuedInFuture => "compare the clocks of issuer and server",
            TokenError::AudienceMissing => "have the issuer write `aud`, or allow its absence in the issuer's entry",
            TokenError::AudienceMalformed => "have the issuer write it as a string or a list of strings",
            TokenError::Audience => "ask for a token for this API, or add its `aud` to the issuer's `audiences`",
            TokenError::IdToken { .. } => "send the access token, not the ID token",
            TokenError::MintKey { .. } => {
                "HS takes a secret of 32, 48 or 64 bytes; RS, PS, ES and EdDSA a private key in PEM (PKCS#8) of that kind"
            }
        }
    }

    fn json(part: Part, error: &JsonError) -> TokenError {
        // Not the message: it may hold a name out of the token.
        TokenError::Json { part, kind: error.kind, line: error.line, column: error.column }
    }
}

struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// The first two with the dot: what the signature is over.
    signed: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str, limits: &Limits) -> Result<Parts<'a>, TokenError> {
        if token.len() > limits.token_bytes_max {
            return Err(TokenError::TooLong { bytes_max: limits.token_bytes_max });
        }
        match token.bytes().filter(|byte| *byte == b'.').count() {
            2 => {}
            4 => return Err(TokenError::Encrypted),
            _ => return Err(TokenError::Parts),
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Parts)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Parts)?;
        base64(signature, Part::Signature)?;
        Ok(Parts { header, payload, signature, signed })
    }

    fn header(&self, limits: &Limits) -> Result<Map<String, Value>, TokenError> {
        object(self.header, Part::Header, limits)
    }

    fn payload(&self, limits: &Limits) -> Result<Map<String, Value>, TokenError> {
        object(self.payload, Part::Payload, limits)
    }
}

/// The engine refuses padding, other alphabets, spaces, and trailing bits that are not zero.
fn base64(text: &str, part: Part) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Base64 { part })
}

fn object(text: &str, part: Part, limits: &Limits) -> Result<Map<String, Value>, TokenError> {
    let bytes = base64(text, part)?;
    match json::parse(&bytes, limits.depth_max) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(TokenError::NoObject { part }),
        Err(error) => Err(TokenError::json(part, &error)),
    }
}

/// Header members that would change what is verified or by which key, here or in a reader that knows them.
const HEADER_REFUSED: [&str; 8] = ["crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"];

fn judge_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<&str>), TokenError> {
    let algorithm = match header.get("alg") {
        None => return Err(TokenError::AlgorithmMissing),
        Some(Value::String(name)) => name.parse::<Algorithm>().map_err(|error| match error {
            IssuerError::AlgorithmNone => TokenError::AlgorithmNone,
            _ => TokenError::AlgorithmUnknown,
        })?,
        Some(_) => return Err(TokenError::AlgorithmUnknown),
    };
    if let Some(member) = HEADER_REFUSED.into_iter().find(|member| header.contains_key(*member)) {
        return Err(TokenError::HeaderMember { member });
    }
    if header.get("typ").is_some_and(|typ| typ != "JWT" && typ != "at+jwt") {
        return Err(TokenError::Type);
    }
    match header.get("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(kid)) => Ok((algorithm, Some(kid))),
        Some(_) => Err(TokenError::KidMalformed),
    }
}

fn unknown_issuer(iss: &str, issuers: &Issuers) -> TokenError {
    match issuers.iter().any(|(issuer, _)| issuer.pattern.names(iss)) {
        true => TokenError::TenantMismatch,
        false => TokenError::IssuerUnknown,
    }
}

/// Each time is judged wherever it is there: a reader who skips what it cannot read lets an expired token in.
fn judge_times(payload: &Map<String, Value>, issuer: &Issuer, now: i64) -> Result<(), TokenError> {
    let (now, leeway) = (now as f64, issuer.leeway_seconds as f64);
    let expiry = numeric_date(payload, "exp")?;
    let not_before = numeric_date(payload, "nbf")?;
    let issued = numeric_date(payload, "iat")?;
    if expiry.is_none() && !issuer.without_exp {
        return Err(TokenError::ExpiryMissing);
    }
    if expiry.is_some_and(|expiry| expiry + leeway <= now) {
        return Err(TokenError::Expired);
    }
    if not_before.is_some_and(|not_before| not_before - leeway > now) {
        return Err(TokenError::NotYetValid);
    }
    match issued.is_some_and(|issued| issued - leeway > now) {
        true => Err(TokenError::IssuedInFuture),
        false => Ok(()),
    }
}

/// Seconds since 1970, fractions allowed; None where the claim is absent.
fn numeric_date(payload: &Map<String, Value>, claim: &'static str) -> Result<Option<f64>, TokenError> {
    let Some(value) = payload.get(claim) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(Some(seconds)),
        Some(_) | None => Err(TokenError::NoNumericDate { claim }),
    }
}

/// RFC 7519 4.1.3: an `aud` that is there and names nobody here refuses the token, also where its absence is allowed.
fn judge_audience(payload: &Map<String, Value>, issuer: &Issuer) -> Result<(), TokenError> {
    let audiences: Vec<&str> = match payload.get("aud") {
        None if issuer.without_aud => return Ok(()),
        None => return Err(TokenError::AudienceMissing),
        Some(Value::String(audience)) => vec![audience],
        Some(Value::Array(list)) => {
            let strings: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            strings.ok_or(TokenError::AudienceMalformed)?
        }
        Some(_) => return Err(TokenError::AudienceMalformed),
    };
    match issuer.audiences.iter().any(|own| audiences.contains(&own.as_str())) {
        true => Ok(()),
        false => Err(TokenError::Audience),
    }
}

/// An ID token tells a client who signed in; it is no permission to call an API.
fn judge_use(payload: &Map<String, Value>) -> Result<(), TokenError> {
    match ["at_hash", "c_hash", "nonce"].into_iter().find(|claim| payload.contains_key(*claim)) {
        Some(claim) => Err(TokenError::IdToken { claim }),
        None => Ok(()),
    }
}

/// The property: no text panics, and what verifies with the property's key was signed with it, by HS256, byte for byte.
#[doc(hidden)]
pub fn holds(token: &str) -> bool {
    use crate::token::issuers::{IssuerPattern, KeySource, Keys};

    let (Ok(pattern), Ok(keys)) = (IssuerPattern::parse("https://issuerurl"), Keys::from_secret(HOLDS_SECRET)) else {
        return false;
    };
    let issuer = Issuer {
        pattern,
        algorithms: vec![Algorithm::HS256, Algorithm::RS256, Algorithm::ES256],
        audiences: Vec::new(),
        leeway_seconds: 0,
        tenants: Vec::new(),
        without_exp: true,
        without_aud: true,
        key_source: KeySource::None,
    };
    let issuers = Issuers::new(vec![issuer]).with_keys(0, std::sync::Arc::new(keys));
    let limits = Limits::default();
    match verify(token, &issuers, &limits, 2_000_000_000) {
        Err(_) => true,
        Ok(_) => decode(token, &limits).is_ok() && is_signed_by_holds_secret(token),
    }
}

/// The key of the property [`holds`]; it signs nothing else.
#[doc(hidden)]
pub const HOLDS_SECRET: &[u8] = b"a key for a property, and for it alone";

fn is_signed_by_holds_secret(token: &str) -> bool {
    let Some((signed, signature)) = token.rsplit_once('.') else { return false };
    let key = EncodingKey::from_secret(HOLDS_SECRET);
    jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256.library()).is_ok_and(|own| own == signature)
}
