//! Who may sign: issuers, what each is trusted with, and the keys to check it. Hides the JWK format and key rules.
//! INVARIANT: a key is used only for what it was published for: its type, curve, `alg`, `use`, `key_ops`, `issuer`.
//! INVARIANT: a shared secret is never taken from a published key set, and a public key never serves as a secret.
//! INVARIANT: an issuer is compared whole and exactly; a template's tenant is the token's own `tid`.
//! Source: RFC 7517 (JWK), RFC 7518 sections 3 and 6, RFC 8037 (EdDSA), RFC 8725 sections 3.1–3.9; Microsoft's
//! identity platform, "Access tokens", for `{tid}` and the `issuer` of a key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use crate::json::{self, JsonError};

/// The issuers that are trusted, each with its keys. Immutable; a clone shares everything.
#[derive(Debug, Clone, Default)]
pub struct Issuers {
    entries: Vec<(Arc<Issuer>, Arc<Keys>)>,
}

impl Issuers {
    /// All of them without keys: every token is refused as `KeyUnknown` until [`Issuers::with_keys`].
    pub fn new(issuers: Vec<Issuer>) -> Issuers {
        let nothing = Arc::new(Keys::empty());
        Issuers { entries: issuers.into_iter().map(|issuer| (Arc::new(issuer), Arc::clone(&nothing))).collect() }
    }

    /// The same issuers, the one at `index` with other keys; unchanged where there is none.
    #[must_use]
    pub fn with_keys(&self, index: usize, keys: Arc<Keys>) -> Issuers {
        let mut issuers = self.clone();
        if let Some((_, place)) = issuers.entries.get_mut(index) {
            *place = keys;
        }
        issuers
    }

    /// In the order they were given, which is that of their index.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Issuer, &Arc<Keys>)> {
        self.entries.iter().map(|(issuer, keys)| (&**issuer, keys))
    }

    /// The entry for a token's `iss` and `tid`: an exact one before a template, the first of each.
    pub fn find(&self, issuer: &str, tenant: Option<&str>) -> Option<(usize, &Issuer, &Arc<Keys>)> {
        let matching = |template: bool| {
            self.entries.iter().enumerate().find(move |(_, (entry, _))| {
                entry.pattern.is_template() == template && entry.pattern.matches(issuer, tenant)
            })
        };
        matching(false).or_else(|| matching(true)).map(|(index, (entry, keys))| (index, &**entry, keys))
    }
}

/// One trusted issuer: a token of it must fit all of this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    pub pattern: IssuerPattern,
    /// The only algorithms that are accepted, whatever a token or a key says.
    pub algorithms: Vec<Algorithm>,
    /// One of them must be in `aud`, byte for byte.
    pub audiences: Vec<String>,
    /// How far its clock may be off.
    pub leeway_seconds: u64,
    /// For a template: the tenants that are let in; empty for any.
    pub tenants: Vec<String>,
    /// A token without `exp` is accepted.
    pub without_exp: bool,
    /// A token without `aud` is accepted. One that has it must still fit `audiences`.
    pub without_aud: bool,
    pub key_source: KeySource,
}

/// Where an issuer's keys come from; files are relative to the policy folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    None,
    JwksFile(String),
    JwksUrl(String),
    /// The base below which `/.well-known/openid-configuration` is read.
    Discovery(String),
    SecretFile(String),
    SecretEnvironment(String),
}

/// The `iss` of tokens: an exact text, or one in which `{tid}` stands for the tenant, as a whole path segment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuerPattern {
    text: String,
    /// Where `{tid}` begins.
    tenant_at: Option<usize>,
}

const TENANT: &str = "{tid}";

impl IssuerPattern {
    /// Reads a pattern as written in `claims.yaml`.
    pub fn parse(text: &str) -> Result<IssuerPattern, IssuerError> {
        if text.is_empty() {
            return Err(IssuerError::Empty);
        }
        if text.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return Err(IssuerError::Space { pattern: text.escape_debug().to_string() });
        }
        let tenant_at = match text.split_once(TENANT) {
            None => None,
            Some((before, after)) => {
                check_template(text, before, after)?;
                Some(before.len())
            }
        };
        match text.replacen(TENANT, "", 1).contains(['{', '}']) {
            true => Err(IssuerError::Placeholder { pattern: text.to_owned() }),
            false => Ok(IssuerPattern { text: text.to_owned(), tenant_at }),
        }
    }

    /// Whether a token with this `iss` and `tid` is of this issuer. A template fits only where both name one tenant.
    pub fn matches(&self, issuer: &str, tenant: Option<&str>) -> bool {
        match self.tenant_at {
            None => issuer == self.text,
            Some(_) => tenant.is_some() && self.tenant_of(issuer) == tenant,
        }
    }

    /// Whether `iss` alone is of this shape, whatever the token's `tid`: for choosing how to read claims, not for trust.
    pub fn names(&self, issuer: &str) -> bool {
        match self.tenant_at {
            None => issuer == self.text,
            Some(_) => self.tenant_of(issuer).is_some(),
        }
    }

    pub fn is_template(&self) -> bool {
        self.tenant_at.is_some()
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn tenant_of<'a>(&self, issuer: &'a str) -> Option<&'a str> {
        let (before, rest) = self.text.split_at_checked(self.tenant_at?)?;
        let tenant = issuer.strip_prefix(before)?.strip_suffix(rest.strip_prefix(TENANT)?)?;
        is_guid(tenant).then_some(tenant)
    }
}

impl fmt::Display for IssuerPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// A tenant chosen by the token must not choose the host, nor share a segment with what is fixed.
fn check_template(text: &str, before: &str, after: &str) -> Result<(), IssuerError> {
    let pattern = || text.to_owned();
    if after.contains(TENANT) {
        return Err(IssuerError::Twice { pattern: pattern() });
    }
    let host = before.strip_prefix("https://").and_then(|rest| rest.split_once('/')).map_or("", |(host, _)| host);
    if host.is_empty() {
        return Err(IssuerError::NoHost { pattern: pattern() });
    }
    match before.ends_with('/') && (after.is_empty() || after.starts_with('/')) {
        true => Ok(()),
        false => Err(IssuerError::PartOfSegment { pattern: pattern() }),
    }
}

/// 8-4-4-4-12 hexadecimal digits, of either case.
fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Why an issuer entry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    #[error("an issuer may not be empty; write the `iss` of its tokens")]
    Empty,
    #[error("the issuer `{pattern}` holds a space or a control character; write the `iss` of its tokens exactly")]
    Space { pattern: String },
    #[error("the issuer `{pattern}` has `{{tid}}` twice; one is compared with the token's `tid`")]
    Twice { pattern: String },
    #[error("the issuer `{pattern}` has `{{tid}}` outside the path of an https URL; write `https://host/{{tid}}/…`")]
    NoHost { pattern: String },
    #[error("the issuer `{pattern}` has `{{tid}}` as a part of a segment; it must stand alone between slashes")]
    PartOfSegment { pattern: String },
    #[error("the issuer `{pattern}` holds a brace that is not of `{{tid}}`, the only placeholder")]
    Placeholder { pattern: String },
    #[error("`none` is no algorithm: a token that nobody signed is never accepted; name one of {ALGORITHMS}")]
    AlgorithmNone,
    #[error("unknown algorithm `{name}`; name one of {ALGORITHMS}, in this case")]
    AlgorithmUnknown { name: String },
}

const ALGORITHMS: &str = "HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

/// The signature algorithms of RFC 7518 and RFC 8037 that are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Algorithm {
    pub const ALL: [Algorithm; 12] = [
        Algorithm::HS256,
        Algorithm::HS384,
        Algorithm::HS512,
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];

    /// The name in a token's `alg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::HS256 => "HS256",
            Algorithm::HS384 => "HS384",
            Algorithm::HS512 => "HS512",
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::PS256 => "PS256",
            Algorithm::PS384 => "PS384",
            Algorithm::PS512 => "PS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::EdDSA => "EdDSA",
        }
    }

    /// Whether it works with a shared secret, not with a public key.
    pub fn is_symmetric(self) -> bool {
        self.secret_bytes_min().is_some()
    }

    /// The shortest secret: as long as the hash (RFC 7518 section 3.2). None for public keys.
    pub fn secret_bytes_min(self) -> Option<usize> {
        match self {
            Algorithm::HS256 => Some(SECRET_BYTES_MIN),
            Algorithm::HS384 => Some(48),
            Algorithm::HS512 => Some(64),
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => None,
            Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => None,
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA => None,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Kind::Secret,
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => Kind::Rsa,
            Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => Kind::Rsa,
            Algorithm::ES256 => Kind::P256,
            Algorithm::ES384 => Kind::P384,
            Algorithm::EdDSA => Kind::Ed25519,
        }
    }

    /// The same in the words of the library that verifies.
    pub(crate) fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::HS384 => jsonwebtoken::Algorithm::HS384,
            Algorithm::HS512 => jsonwebtoken::Algorithm::HS512,
            Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
            Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
            Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
            Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
            Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl FromStr for Algorithm {
    type Err = IssuerError;

    fn from_str(name: &str) -> Result<Algorithm, IssuerError> {
        if name.eq_ignore_ascii_case("none") {
            return Err(IssuerError::AlgorithmNone);
        }
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.as_str() == name);
        known.ok_or_else(|| IssuerError::AlgorithmUnknown { name: name.escape_debug().take(32).collect() })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Bytes that only a key holder knows; Debug does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// An immutable set of keys to verify with.
#[derive(Clone, Default)]
pub struct Keys {
    keys: Vec<Key>,
    /// A secret from a file or the environment has no name, so that it answers to any `kid`.
    nameless_secret: bool,
}

/// The shortest secret that any algorithm takes.
const SECRET_BYTES_MIN: usize = 32;

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;
/// RFC 8017 knows larger ones; none is in use, and each makes verifying slower.
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// Nesting in a key set: the set, its list, a key, its `x5c` or `key_ops`; and room for members we do not know.
const KEY_SET_DEPTH_MAX: usize = 16;

impl Keys {
    /// No keys: what an issuer has before they are fetched.
    pub fn empty() -> Keys {
        Keys::default()
    }

    /// Reads a JWK Set of one's own, which may hold shared secrets (`oct`).
    pub fn from_jwks(bytes: &[u8]) -> Result<Keys, KeysError> {
        read_set(bytes, true)
    }

    /// Reads a JWK Set from the network. What everybody can read is no secret: `oct` keys are skipped.
    pub fn from_published_jwks(bytes: &[u8]) -> Result<Keys, KeysError> {
        read_set(bytes, false)
    }

    /// One shared secret, at least as long as the shortest hash.
    pub fn from_secret(bytes: &[u8]) -> Result<Keys, KeysError> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(KeysError::ShortSecret { bytes: bytes.len() });
        }
        Ok(Keys { keys: vec![Key::secret(bytes)], nameless_secret: true })
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether any key could verify this algorithm.
    pub fn serve(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.fits(algorithm) && key.is_long_enough(algorithm))
    }

    /// The one key for a token: by `kid` where it has one, or else the only one that fits.
    pub(crate) fn choose(&self, wanted: &Wanted<'_>) -> Choice<'_> {
        match wanted.kid {
            Some(kid) if !self.nameless_secret => match self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)) {
                None => Choice::Unknown,
                Some(key) if !wanted.fits(key) => Choice::Unfit,
                Some(key) => Choice::of(key, wanted.algorithm),
            },
            Some(_) | None => {
                let mut fitting = self.keys.iter().filter(|key| wanted.fits(key));
                match (fitting.next(), fitting.next()) {
                    (None, _) => Choice::Unknown,
                    (Some(key), None) => Choice::of(key, wanted.algorithm),
                    (Some(_), Some(_)) => Choice::Several,
                }
            }
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Keys({})", self.keys.len())
    }
}

/// What a token asks of a key set.
pub(crate) struct Wanted<'a> {
    pub kid: Option<&'a str>,
    pub algorithm: Algorithm,
    pub issuer: &'a str,
    pub tenant: Option<&'a str>,
}

impl Wanted<'_> {
    fn fits(&self, key: &Key) -> bool {
        key.fits(self.algorithm) && key.speaks_for(self.issuer, self.tenant)
    }
}

pub(crate) enum Choice<'a> {
    Key(&'a DecodingKey),
    Unknown,
    Unfit,
    Several,
    SecretTooShort,
}

impl<'a> Choice<'a> {
    fn of(key: &'a Key, algorithm: Algorithm) -> Choice<'a> {
        match key.is_long_enough(algorithm) {
            true => Choice::Key(&key.decoding),
            false => Choice::SecretTooShort,
        }
    }
}

/// Why a key set cannot be used. `at` counts its keys from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("the key set is no strict JSON: {0}")]
    Json(JsonError),
    #[error("the key set is no JSON object with a list `keys`")]
    NotASet,
    #[error("`keys[{at}]` is no key: its `{member}` is missing or malformed")]
    Member { at: usize, member: &'static str },
    #[error("`keys[{at}]` is an RSA key of {bits} bits; 2048 to 8192 are accepted")]
    RsaSize { at: usize, bits: usize },
    #[error("`keys[{at}]` has an `alg` that does not go with its `kty` and `crv`")]
    AlgorithmUnfit { at: usize },
    #[error("`keys[{at}]` has the `kid` of a key before it; each key needs its own")]
    DuplicateKid { at: usize },
    #[error("the key set holds no key that can verify a signature")]
    NothingUsable,
    #[error("the secret has {bytes} bytes; HS256 needs at least 32, HS384 48, HS512 64")]
    ShortSecret { bytes: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

#[derive(Clone)]
struct Key {
    kid: Option<String>,
    kind: Kind,
    /// The only algorithm that it is for, where it says so.
    algorithm: Option<Algorithm>,
    /// The only issuer that it is for, where it says so; `{tenantid}` in it for any tenant (Entra's key sets).
    issuer: Option<String>,
    secret_bytes: usize,
    decoding: DecodingKey,
}

impl Key {
    fn new(kind: Kind, decoding: DecodingKey) -> Key {
        Key { kid: None, kind, algorithm: None, issuer: None, secret_bytes: 0, decoding }
    }

    fn secret(bytes: &[u8]) -> Key {
        Key { secret_bytes: bytes.len(), ..Key::new(Kind::Secret, DecodingKey::from_secret(bytes)) }
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind == algorithm.kind() && self.algorithm.is_none_or(|only| only == algorithm)
    }

    fn is_long_enough(&self, algorithm: Algorithm) -> bool {
        algorithm.secret_bytes_min().is_none_or(|bytes_min| self.secret_bytes >= bytes_min)
    }

    /// Entra signs for many tenants with one set; a key may be for one of them, or for one kind of account.
    fn speaks_for(&self, issuer: &str, tenant: Option<&str>) -> bool {
        let Some(own) = self.issuer.as_deref() else { return true };
        let for_tenant = |tenant: &str| own.split('/').any(|segment| segment == "{tenantid}" || segment == tenant);
        own == issuer || tenant.is_some_and(for_tenant)
    }
}

fn read_set(bytes: &[u8], with_secrets: bool) -> Result<Keys, KeysError> {
    let set = json::parse(bytes, KEY_SET_DEPTH_MAX).map_err(KeysError::Json)?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or(KeysError::NotASet)?;
    let mut keys: Vec<Key> = Vec::with_capacity(listed.len());
    for (at, jwk) in listed.iter().enumerate() {
        let jwk = jwk.as_object().ok_or(KeysError::NotASet)?;
        let Some(key) = read_key(at, jwk, with_secrets)? else { continue };
        if key.kid.is_some() && keys.iter().any(|before| before.kid == key.kid) {
            return Err(KeysError::DuplicateKid { at });
        }
        keys.push(key);
    }
    match keys.is_empty() {
        true => Err(KeysError::NothingUsable),
        false => Ok(Keys { keys, nameless_secret: false }),
    }
}

/// None for a key that is not ours to use: for encryption, of an unknown type, curve or algorithm.
fn read_key(at: usize, jwk: &Map<String, Value>, with_secrets: bool) -> Result<Option<Key>, KeysError> {
    let text = |member| text(at, jwk, member);
    let kty = text("kty")?.ok_or(KeysError::Member { at, member: "kty" })?;
    if text("use")?.is_some_and(|purpose| purpose != "sig") || !may_verify(at, jwk)? {
        return Ok(None);
    }
    let algorithm = match text("alg")? {
        None => None,
        Some(name) => match name.parse::<Algorithm>() {
            Ok(algorithm) => Some(algorithm),
            Err(_) => return Ok(None),
        },
    };
    let key = match (kty, text("crv")?) {
        ("oct", _) if with_secrets => secret_key(at, jwk)?,
        ("RSA", _) => rsa_key(at, jwk)?,
        ("EC", Some("P-256")) => ec_key(at, jwk, Kind::P256, &ECDSA_P256_SHA256_FIXED, 32)?,
        ("EC", Some("P-384")) => ec_key(at, jwk, Kind::P384, &ECDSA_P384_SHA384_FIXED, 48)?,
        ("OKP", Some("Ed25519")) => ed_key(at, jwk)?,
        _ => return Ok(None),
    };
    if algorithm.is_some_and(|algorithm| algorithm.kind() != key.kind) {
        return Err(KeysError::AlgorithmUnfit { at });
    }
    if algorithm.is_some_and(|algorithm| !key.is_long_enough(algorithm)) {
        return Err(KeysError::ShortSecret { bytes: key.secret_bytes });
    }
    let owned = |member| Ok(text(member)?.map(str::to_owned));
    Ok(Some(Key { kid: owned("kid")?, issuer: owned("issuer")?, algorithm, ..key }))
}

fn may_verify(at: usize, jwk: &Map<String, Value>) -> Result<bool, KeysError> {
    match jwk.get("key_ops") {
        None => Ok(true),
        Some(Value::Array(operations)) => Ok(operations.iter().any(|operation| operation == "verify")),
        Some(_) => Err(KeysError::Member { at, member: "key_ops" }),
    }
}

fn secret_key(at: usize, jwk: &Map<String, Value>) -> Result<Key, KeysError> {
    let secret = bytes(at, jwk, "k")?;
    match secret.len() < SECRET_BYTES_MIN {
        true => Err(KeysError::ShortSecret { bytes: secret.len() }),
        false => Ok(Key::secret(&secret)),
    }
}

fn rsa_key(at: usize, jwk: &Map<String, Value>) -> Result<Key, KeysError> {
    let (n, e) = (bytes(at, jwk, "n")?, bytes(at, jwk, "e")?);
    let (n, e) = (without_leading_zeros(&n), without_leading_zeros(&e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeysError::RsaSize { at, bits });
    }
    // With the exponent 1 a signature is the message itself: anybody could write one.
    let odd = e.last().is_some_and(|last| last % 2 == 1);
    if !odd || e == [1] || e.len() > RSA_EXPONENT_BYTES_MAX {
        return Err(KeysError::Member { at, member: "e" });
    }
    if n.last().is_some_and(|last| last % 2 == 0) {
        return Err(KeysError::Member { at, member: "n" });
    }
    Ok(Key::new(Kind::Rsa, DecodingKey::from_rsa_raw_components(n, e)))
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

fn ec_key(
    at: usize,
    jwk: &Map<String, Value>,
    kind: Kind,
    curve: &'static dyn VerificationAlgorithm,
    coordinate_bytes: usize,
) -> Result<Key, KeysError> {
    let mut point = vec![4];
    for member in ["x", "y"] {
        let coordinate = bytes(at, jwk, member)?;
        if coordinate.len() != coordinate_bytes {
            return Err(KeysError::Member { at, member });
        }
        point.extend_from_slice(&coordinate);
    }
    // A point that is not on the curve is found now, not by the first token.
    ParsedPublicKey::new(curve, &point).map_err(|_| KeysError::Member { at, member: "y" })?;
    Ok(Key::new(kind, DecodingKey::from_ec_der(&point)))
}

fn ed_key(at: usize, jwk: &Map<String, Value>) -> Result<Key, KeysError> {
    let point = bytes(at, jwk, "x")?;
    match point.len() == 32 && ParsedPublicKey::new(&ED25519, &point).is_ok() {
        true => Ok(Key::new(Kind::Ed25519, DecodingKey::from_ed_der(&point))),
        false => Err(KeysError::Member { at, member: "x" }),
    }
}

fn text<'a>(at: usize, jwk: &'a Map<String, Value>, member: &'static str) -> Result<Option<&'a str>, KeysError> {
    match jwk.get(member) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(KeysError::Member { at, member }),
    }
}

fn bytes(at: usize, jwk: &Map<String, Value>, member: &'static str) -> Result<Vec<u8>, KeysError> {
    let malformed = KeysError::Member { at, member };
    match text(at, jwk, member)?.map(|text| URL_SAFE_NO_PAD.decode(text)) {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(_)) | None => Err(malformed),
    }
}

/// The property: reading a key set never panics, and what it holds serves an algorithm.
#[doc(hidden)]
pub fn holds(input: &[u8]) -> bool {
    let serves = |keys: Keys| Algorithm::ALL.into_iter().any(|algorithm| keys.serve(algorithm));
    let published = Keys::from_published_jwks(input).ok();
    Keys::from_jwks(input).map_or(true, serves)
        && published.is_none_or(|keys| keys.keys.iter().all(|key| key.kind != Kind::Secret))
}
