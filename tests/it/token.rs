//! Tokens as identity providers, careless clients and attackers write them: what verifies, and why the rest does not.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cedarward::cache::BYTES_MAX_DEFAULT;
use cedarward::engine::standing::Standings;
use cedarward::http::api::{self, Desk};
use cedarward::http::proxy::Settings;
use cedarward::token::issuers::{Algorithm, Issuer, IssuerPattern, Issuers, KeySource, Keys, KeysError};
use cedarward::token::jws::{Claims, Limits, MintKey, TokenError, decode, mint, verify};
use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::proxy::{NOW as FRONT_NOW, front};

const NOW: i64 = 1_800_000_000;
const SECRET: &[u8] = b"sixty-four bytes of a secret that is published with these tests.";
const JWKS: &[u8] = include_bytes!("../keys/public.jwks.json");
/// The example of Microsoft's documentation of access tokens for FHIR; its secret is not published.
const EXAMPLE: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJvaWQiOiIxMjMiLCAiaXNzIjoiaHR0cHM6Ly9pc3N1ZXJ1cmwiLCJpYXQiOjE0MjI3Nzk2MzgsInJvbGVzIjpbImFkbWluIl19.gzSraSYS8EXBxLN_oWnFSRgCzcmJmMjLiuyu5CSpyHI";

fn issuer(pattern: &str) -> Issuer {
    Issuer {
        pattern: IssuerPattern::parse(pattern).unwrap(),
        algorithms: Algorithm::ALL.to_vec(),
        audiences: vec!["api://fhir".to_owned()],
        leeway_seconds: 60,
        tenants: Vec::new(),
        without_exp: false,
        without_aud: false,
        key_source: KeySource::None,
    }
}

fn trusting(issuer: Issuer, keys: Keys) -> Issuers {
    Issuers::new(vec![issuer]).with_keys(0, Arc::new(keys))
}

fn with_secret(issuer: Issuer) -> Issuers {
    trusting(issuer, Keys::from_secret(SECRET).unwrap())
}

fn judged(token: &str, issuers: &Issuers) -> Result<Claims, TokenError> {
    verify(token, issuers, &Limits::default(), NOW)
}

/// Header and payload as they are written, signed with the secret: nothing but their content is wrong.
fn signed(header: &str, payload: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{text}.{signature}")
}

fn good() -> Map<String, Value> {
    let claims = json!({ "iss": "https://issuer.example", "aud": "api://fhir", "exp": NOW + 300, "sub": "123" });
    claims.as_object().unwrap().clone()
}

fn good_with(claim: &str, value: Value) -> String {
    let mut claims = good();
    claims.insert(claim.to_owned(), value);
    Value::Object(claims).to_string()
}

fn good_without(claim: &str) -> String {
    let mut claims = good();
    claims.remove(claim);
    Value::Object(claims).to_string()
}

fn refused(name: &str, token: &str, expected: &str) {
    refused_by(&with_secret(issuer("https://issuer.example")), name, token, expected);
}

fn refused_by(issuers: &Issuers, name: &str, token: &str, expected: &str) {
    match judged(token, issuers) {
        Err(error) => assert_eq!(error.to_string(), expected, "{name}"),
        Ok(_) => panic!("{name}: accepted"),
    }
}

const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[test]
fn a_good_token_verifies_and_the_test_of_the_others_is_worth_something() {
    let issuers = with_secret(issuer("https://issuer.example"));
    let good = Value::Object(good()).to_string();
    for header in [HS256, r#"{"alg":"HS256"}"#, r#"{"alg":"HS256","typ":"at+jwt","kid":"any","x5t":"a"}"#] {
        let claims = judged(&signed(header, &good), &issuers).unwrap();
        assert!(claims.is_verified() && claims.issuer() == Some("https://issuer.example"));
        assert_eq!(claims.expires_at(), Some(NOW + 300));
    }
}

#[test]
fn the_form_is_strict() {
    let good = Value::Object(good()).to_string();
    let token = signed(HS256, &good);
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    for (name, token, expected) in [
        ("empty", String::new(), "the token does not have three parts with a dot between them"),
        ("two parts", format!("{header}.{payload}"), "the token does not have three parts with a dot between them"),
        ("four parts", format!("{token}.x"), "the token does not have three parts with a dot between them"),
        ("JWE", format!("{header}.a.b.c.d"), "the token is encrypted (JWE)"),
        ("with Bearer", format!("Bearer {token}"), "the token's header is not base64url in its canonical form"),
        ("padded", format!("{token}="), "the token's signature is not base64url in its canonical form"),
        ("a line break", format!("{token}\n"), "the token's signature is not base64url in its canonical form"),
        (
            "a space",
            format!("{header}.{payload} .{signature}"),
            "the token's payload is not base64url in its canonical form",
        ),
        (
            "base64's alphabet",
            format!("{header}.{payload}.ab+/"),
            "the token's signature is not base64url in its canonical form",
        ),
        // HMAC-SHA-256 is 43 letters, of which the last holds four bits: the other two must be zero
        (
            "stray bits",
            format!("{header}.{payload}.{}B", "A".repeat(42)),
            "the token's signature is not base64url in its canonical form",
        ),
        ("no signature", format!("{header}.{payload}."), "the token's signature is wrong"),
        (
            "a signature cut short",
            format!("{header}.{payload}.{}", signature.split_at(40).0),
            "the token's signature is wrong",
        ),
        (
            "too long",
            signed(HS256, &good_with("x", "x".repeat(16 * 1024).into())),
            "the token is longer than 16384 bytes",
        ),
    ] {
        refused(name, &token, expected);
    }
}

#[test]
fn the_json_is_strict() {
    let deep = format!(r#"{{"iss":"https://issuer.example","x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    for (name, payload, kind) in [
        ("a member twice", r#"{"iss":"https://issuer.example","iss":"https://other.example"}"#, "no strict JSON"),
        ("a member twice within", r#"{"iss":"https://issuer.example","x":{"a":1,"\u0061":2}}"#, "no strict JSON"),
        ("too deep", &deep, "no strict JSON"),
        ("something after", r#"{"iss":"https://issuer.example"} {}"#, "no strict JSON"),
        ("a comment", r#"{"iss":"https://issuer.example" /**/}"#, "no strict JSON"),
        ("a list", r#"[{"iss":"https://issuer.example"}]"#, "no JSON object"),
        ("a string", r#""https://issuer.example""#, "no JSON object"),
        ("null", "null", "no JSON object"),
        ("nothing", "", "no strict JSON"),
    ] {
        let error = judged(&signed(HS256, payload), &with_secret(issuer("https://issuer.example"))).unwrap_err();
        assert!(error.to_string().contains(kind), "{name}: {error}");
    }
    let twice = signed(r#"{"alg":"HS256","alg":"none"}"#, "{}");
    assert!(judged(&twice, &with_secret(issuer("https://issuer.example"))).unwrap_err().to_string().contains("header"));
}

#[test]
fn what_a_header_may_not_say() {
    let good = Value::Object(good()).to_string();
    for (header, expected) in [
        (r#"{}"#, "the token's header has no `alg`"),
        (r#"{"alg":"none"}"#, "the token's `alg` is `none`: nobody signed it"),
        (r#"{"alg":"None"}"#, "the token's `alg` is `none`: nobody signed it"),
        (r#"{"alg":"nOnE"}"#, "the token's `alg` is `none`: nobody signed it"),
        (r#"{"alg":""}"#, "the token's `alg` is none that is known here"),
        (r#"{"alg":"hs256"}"#, "the token's `alg` is none that is known here"),
        (r#"{"alg":"HS256 "}"#, "the token's `alg` is none that is known here"),
        (r#"{"alg":["HS256"]}"#, "the token's `alg` is none that is known here"),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "the token's header has `crit`, which is not accepted"),
        (r#"{"alg":"HS256","b64":false}"#, "the token's header has `b64`, which is not accepted"),
        (r#"{"alg":"HS256","b64":true}"#, "the token's header has `b64`, which is not accepted"),
        (r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#, "the token's header has `jwk`, which is not accepted"),
        (r#"{"alg":"HS256","jku":"https://evil.example/"}"#, "the token's header has `jku`, which is not accepted"),
        (r#"{"alg":"HS256","x5u":"https://evil.example/"}"#, "the token's header has `x5u`, which is not accepted"),
        (r#"{"alg":"HS256","x5c":[]}"#, "the token's header has `x5c`, which is not accepted"),
        (r#"{"alg":"HS256","zip":"DEF"}"#, "the token's header has `zip`, which is not accepted"),
        (r#"{"alg":"HS256","enc":"A128GCM"}"#, "the token's header has `enc`, which is not accepted"),
        (r#"{"alg":"HS256","typ":"JWS"}"#, "the token's `typ` is neither `JWT` nor `at+jwt`"),
        (r#"{"alg":"HS256","typ":"jwt"}"#, "the token's `typ` is neither `JWT` nor `at+jwt`"),
        (r#"{"alg":"HS256","typ":null}"#, "the token's `typ` is neither `JWT` nor `at+jwt`"),
        (r#"{"alg":"HS256","kid":1}"#, "the token's `kid` is no string"),
    ] {
        refused(header, &signed(header, &good), expected);
    }
}

#[test]
fn what_a_payload_may_not_say() {
    for (payload, expected) in [
        (good_without("iss"), "the token has no `iss`, or one that is no string"),
        (good_with("iss", json!(["https://issuer.example"])), "the token has no `iss`, or one that is no string"),
        (good_with("iss", "https://issuer.example/".into()), "the token's issuer is not configured"),
        (good_with("iss", "https://ISSUER.example".into()), "the token's issuer is not configured"),
        (good_with("iss", "https://issuer.example.evil".into()), "the token's issuer is not configured"),
        (good_without("exp"), "the token has no `exp`"),
        (good_with("exp", json!(NOW - 60)), "the token has expired"),
        (good_with("exp", json!(0)), "the token has expired"),
        // X1: a time that was skipped for its JSON type
        (good_with("exp", (NOW + 300).to_string().into()), "the token's `exp` is no NumericDate"),
        (good_with("exp", Value::Null), "the token's `exp` is no NumericDate"),
        (good_with("exp", json!(true)), "the token's `exp` is no NumericDate"),
        (good_with("exp", json!([NOW + 300])), "the token's `exp` is no NumericDate"),
        (good_with("exp", json!(-1)), "the token's `exp` is no NumericDate"),
        (good_with("nbf", (NOW - 1).to_string().into()), "the token's `nbf` is no NumericDate"),
        (good_with("nbf", json!({})), "the token's `nbf` is no NumericDate"),
        (good_with("iat", "today".into()), "the token's `iat` is no NumericDate"),
        (good_with("nbf", json!(NOW + 61)), "the token is not valid yet (`nbf`)"),
        (good_with("iat", json!(NOW + 61)), "the token was issued in the future (`iat`)"),
        (good_without("aud"), "the token has no `aud`"),
        (good_with("aud", Value::Null), "the token's `aud` is neither a string nor a list of strings"),
        (good_with("aud", json!(["api://fhir", 1])), "the token's `aud` is neither a string nor a list of strings"),
        (good_with("aud", json!([])), "the token is for another audience"),
        (good_with("aud", "api://fhir/".into()), "the token is for another audience"),
        (good_with("aud", "API://fhir".into()), "the token is for another audience"),
        (good_with("aud", "api://fhir2".into()), "the token is for another audience"),
        // F22: an ID token taken for an access token
        (good_with("at_hash", "x".into()), "the token has `at_hash`: it is an ID token, not an access token"),
        (good_with("nonce", "x".into()), "the token has `nonce`: it is an ID token, not an access token"),
    ] {
        refused(&payload, &signed(HS256, &payload), expected);
    }
    let issuers = with_secret(issuer("https://issuer.example"));
    for payload in [
        good_with("exp", json!(NOW - 59)),
        good_with("exp", json!(NOW as f64 + 0.5)),
        good_with("nbf", json!(NOW + 60)),
        good_with("iat", json!(NOW + 60)),
        good_with("aud", json!(["other", "api://fhir"])),
    ] {
        assert!(judged(&signed(HS256, &payload), &issuers).is_ok(), "{payload}");
    }
}

#[test]
fn the_example_of_microsofts_page() {
    let allowing = Issuer {
        audiences: Vec::new(),
        algorithms: vec![Algorithm::HS256],
        without_exp: true,
        without_aud: true,
        ..issuer("https://issuerurl")
    };
    let decoded = decode(EXAMPLE, &Limits::default()).unwrap();
    assert_eq!(decoded.payload.get("roles"), Some(&json!(["admin"])));
    refused_by(&with_secret(allowing.clone()), "its secret is not known", EXAMPLE, "the token's signature is wrong");
    refused_by(
        &with_secret(issuer("https://other.example")),
        "not configured",
        EXAMPLE,
        "the token's issuer is not configured",
    );

    let payload = Value::Object(decoded.payload.clone()).to_string();
    let own = signed(HS256, &payload);
    assert_eq!(judged(&own, &with_secret(allowing.clone())).unwrap().payload(), &decoded.payload);
    // each allowance stands for itself
    let with_exp = Issuer { without_exp: false, ..allowing.clone() };
    refused_by(&with_secret(with_exp), "exp", &own, "the token has no `exp`");
    let with_aud = Issuer { without_aud: false, ..allowing.clone() };
    refused_by(&with_secret(with_aud), "aud", &own, "the token has no `aud`");
    // P3: an audience that is there is for somebody, though nobody is configured
    let for_another = payload.replacen('{', r#"{"aud":"api://other","#, 1);
    refused_by(&with_secret(allowing), "aud", &signed(HS256, &for_another), "the token is for another audience");
}

fn key(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/keys/{name}.test-key.pem", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Key file and `kid` that go with an algorithm.
fn key_of(algorithm: Algorithm) -> (&'static str, &'static str) {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => ("", "secret"),
        Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => ("rsa-2048", "rsa"),
        Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512 => ("rsa-2048", "rsa"),
        Algorithm::ES256 => ("p256", "p256"),
        Algorithm::ES384 => ("p384", "p384"),
        Algorithm::EdDSA => ("ed25519", "ed25519"),
    }
}

fn minted(algorithm: Algorithm, kid: Option<&str>) -> String {
    let (file, _) = key_of(algorithm);
    if file.is_empty() {
        return mint(&good(), algorithm, MintKey::Secret(SECRET), kid).unwrap();
    }
    mint(&good(), algorithm, MintKey::PrivatePem(&key(file)), kid).unwrap()
}

/// The public keys, each with an `alg` that allows this algorithm where it is RSA-PSS, and the shared secret.
fn all_keys(rsa_algorithm: Option<&str>) -> Keys {
    let mut set: Value = serde_json::from_slice(JWKS).unwrap();
    let keys = set["keys"].as_array_mut().unwrap();
    keys.push(json!({ "kty": "oct", "kid": "secret", "k": URL_SAFE_NO_PAD.encode(SECRET) }));
    if let Some(algorithm) = rsa_algorithm {
        keys[0]["alg"] = algorithm.into();
    }
    Keys::from_jwks(set.to_string().as_bytes()).unwrap()
}

#[test]
fn each_algorithm_verifies_with_its_own_key_and_with_no_other() {
    for algorithm in Algorithm::ALL {
        let (_, kid) = key_of(algorithm);
        let named = algorithm.as_str();
        let keys = all_keys(named.starts_with("PS").then_some(named));
        let issuers = trusting(issuer("https://issuer.example"), keys);
        assert!(judged(&minted(algorithm, Some(kid)), &issuers).is_ok(), "{named}");
        for other in ["rsa", "rsa-other", "p256", "p384", "ed25519", "secret", "unknown", "RSA"] {
            if other != kid {
                assert!(judged(&minted(algorithm, Some(other)), &issuers).is_err(), "{named} by {other}");
            }
        }
        let others: Vec<_> = Algorithm::ALL.into_iter().filter(|other| *other != algorithm).collect();
        let narrow = trusting(
            Issuer { algorithms: others, ..issuer("https://issuer.example") },
            all_keys(named.starts_with("PS").then_some(named)),
        );
        let expected = TokenError::AlgorithmNotAllowed { algorithm };
        assert_eq!(judged(&minted(algorithm, Some(kid)), &narrow).unwrap_err(), expected);
    }
}

#[test]
fn a_public_key_is_no_secret_and_a_key_signs_as_it_says() {
    let issuers = trusting(issuer("https://issuer.example"), all_keys(None));
    // the classic: HS256 signed with the text of the public key
    let set: Value = serde_json::from_slice(JWKS).unwrap();
    let modulus = set["keys"][0]["n"].as_str().unwrap();
    for secret in [modulus.as_bytes(), JWKS, &URL_SAFE_NO_PAD.decode(modulus).unwrap()] {
        let forged = mint(&good(), Algorithm::HS256, MintKey::Secret(secret), Some("rsa")).unwrap();
        assert_eq!(judged(&forged, &issuers).unwrap_err(), TokenError::KeyUnfit { algorithm: Algorithm::HS256 });
    }
    let pss = minted(Algorithm::PS256, Some("rsa"));
    assert!(judged(&pss, &issuers).is_ok(), "a key that does not say serves what the issuer's entry lists");
    let issuers = trusting(issuer("https://issuer.example"), all_keys(Some("RS256")));
    assert_eq!(judged(&pss, &issuers).unwrap_err(), TokenError::KeyUnfit { algorithm: Algorithm::PS256 });
    // a key that says PS256 verifies no RS256
    let issuers = trusting(issuer("https://issuer.example"), all_keys(Some("PS256")));
    let pkcs1 = minted(Algorithm::RS256, Some("rsa"));
    assert_eq!(judged(&pkcs1, &issuers).unwrap_err(), TokenError::KeyUnfit { algorithm: Algorithm::RS256 });
    // what everybody can read holds no secret
    let published = json!({ "keys": [{ "kty": "oct", "kid": "secret", "k": URL_SAFE_NO_PAD.encode(SECRET) }] });
    assert!(Keys::from_jwks(published.to_string().as_bytes()).is_ok());
    assert!(Keys::from_published_jwks(published.to_string().as_bytes()).is_err());
}

#[test]
fn without_a_kid_one_key_must_fit() {
    let issuers = trusting(issuer("https://issuer.example"), all_keys(None));
    for algorithm in [Algorithm::HS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA] {
        assert!(judged(&minted(algorithm, None), &issuers).is_ok(), "{algorithm}");
    }
    let ambiguous = judged(&minted(Algorithm::RS256, None), &issuers).unwrap_err();
    assert_eq!(ambiguous, TokenError::KeyAmbiguous { algorithm: Algorithm::RS256 });
    let none = trusting(issuer("https://issuer.example"), Keys::empty());
    let unknown = judged(&minted(Algorithm::RS256, None), &none).unwrap_err();
    assert_eq!(unknown, TokenError::KeyUnknown { issuer_index: 0 });
}

#[test]
fn keys_that_are_too_short() {
    let weak = include_bytes!("../keys/rsa-1024.jwks.json");
    assert_eq!(Keys::from_jwks(weak).unwrap_err(), KeysError::RsaSize { at: 0, bits: 1024 });
    assert_eq!(Keys::from_secret(&[7; 31]).unwrap_err(), KeysError::ShortSecret { bytes: 31 });
    let short = trusting(issuer("https://issuer.example"), Keys::from_secret(&SECRET[..32]).unwrap());
    let algorithm = Algorithm::HS512;
    assert_eq!(judged(&minted(algorithm, None), &short).unwrap_err(), TokenError::SecretTooShort { algorithm });
    assert!(mint(&good(), Algorithm::HS384, MintKey::Secret(&SECRET[..47]), None).is_err());
}

#[test]
fn a_multi_tenant_issuer_speaks_for_the_tenant_that_the_token_names() {
    let entra = "https://login.microsoftonline.com/{tid}/v2.0";
    let token = |iss: &str, tid: Value| {
        let mut claims = good();
        claims.insert("iss".to_owned(), iss.into());
        claims.insert("tid".to_owned(), tid);
        signed(HS256, &Value::Object(claims).to_string())
    };
    let any = with_secret(issuer(entra));
    let good = token(
        "https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/v2.0",
        "a11ce000-0000-4000-8000-000000000001".into(),
    );
    assert!(judged(&good, &any).is_ok());
    for (iss, tid) in [
        (
            "https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/v2.0",
            json!("b0b00000-0000-4000-8000-000000000002"),
        ),
        (
            "https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/v2.0",
            json!("A11CE000-0000-4000-8000-000000000001"),
        ),
        ("https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/v2.0", json!(1)),
        ("https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/v2.0", Value::Null),
        ("https://login.microsoftonline.com//v2.0", json!("")),
        (
            "https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/../b0b00000-0000-4000-8000-000000000002/v2.0",
            json!("a11ce000-0000-4000-8000-000000000001/../b0b00000-0000-4000-8000-000000000002"),
        ),
        (
            "https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/x/v2.0",
            json!("a11ce000-0000-4000-8000-000000000001/x"),
        ),
        ("https://login.microsoftonline.com/{tid}/v2.0", json!("{tid}")),
        (
            "https://login.microsoftonline.com.evil.example/a11ce000-0000-4000-8000-000000000001/v2.0",
            json!("a11ce000-0000-4000-8000-000000000001"),
        ),
        (
            "https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001/v2.0/",
            json!("a11ce000-0000-4000-8000-000000000001"),
        ),
        (
            "https://login.microsoftonline.com/a11ce000-0000-4000-8000-000000000001",
            json!("a11ce000-0000-4000-8000-000000000001"),
        ),
    ] {
        assert!(judged(&token(iss, tid.clone()), &any).is_err(), "{iss} {tid}");
    }
    let some =
        with_secret(Issuer { tenants: vec!["b0b00000-0000-4000-8000-000000000002".to_owned()], ..issuer(entra) });
    assert_eq!(judged(&good, &some).unwrap_err(), TokenError::TenantNotAllowed);
}

#[test]
fn no_error_tells_of_the_token() {
    let secret = "secretvalue";
    for token in [
        signed(HS256, &good_with("iss", secret.into())),
        signed(HS256, &good_with("aud", secret.into())),
        signed(HS256, &good_with("exp", secret.into())),
        signed(&format!(r#"{{"alg":"{secret}"}}"#), "{}"),
        signed(HS256, &format!(r#"{{"{secret}":1,"{secret}":2}}"#)),
        secret.to_owned(),
    ] {
        let error = judged(&token, &with_secret(issuer("https://issuer.example"))).unwrap_err();
        let told = format!("{error} {error:?} {}", error.hint());
        assert!(!told.contains(secret), "{told}");
    }
}

proptest! {
    /// F19, P6: of a token that verifies, no other text does, whichever letter is changed, added or taken away.
    #[test]
    fn one_token_has_one_text(algorithm in 0..12usize, at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.=-]?") {
        let algorithm = Algorithm::ALL[algorithm];
        let token = minted(algorithm, Some(key_of(algorithm).1));
        let pss = algorithm.as_str().starts_with("PS").then_some(algorithm.as_str());
        let issuers = trusting(issuer("https://issuer.example"), all_keys(pss));
        let at = at.index(token.len());
        for end in [at, at + 1] {
            let bent = format!("{}{with}{}", token.split_at(at).0, token.split_at(end).1);
            prop_assert_eq!(judged(&bent, &issuers).is_ok(), bent == token);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// P5: whatever was asked before, with which keys and when, a token is taken as if it were seen for the first time.
    #[test]
    fn remembered_tokens_are_judged_as_new_ones(
        asked in prop::collection::vec((0..5usize, 0..3usize, 0..6i64), 2..40)
    ) {
        let front = front(Settings::default());
        let sign = |claims: Value| {
            let key = EncodingKey::from_secret(SECRET);
            jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &claims, &key).unwrap()
        };
        let claims = |more: Value| {
            let mut claims = json!({ "iss": "https://issuer.example", "aud": "api://fhir", "exp": FRONT_NOW + 300, "sub": "u" });
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            claims
        };
        let reader = sign(claims(json!({ "roles": ["FHIR Data Reader"] })));
        let (body, _) = reader.rsplit_once('.').unwrap();
        let tokens = [
            reader.clone(),
            sign(claims(json!({ "roles": ["FHIR Data Reader"], "nbf": FRONT_NOW + 100 }))),
            sign(claims(json!({ "roles": ["FHIR Data Reader"], "iat": FRONT_NOW + 200 }))),
            sign(claims(json!({ "patient": "123", "scope": "patient/*.rs" }))),
            format!("{body}.{}", "A".repeat(43)),
        ];
        let other = Keys::from_secret(b"another secret of sixty-four bytes, which nobody uses for anything").unwrap();
        let issuers = [
            front.issuers.clone(),
            front.issuers.with_keys(0, Arc::new(other)),
            front.issuers.with_keys(0, Arc::new(Keys::empty())),
        ];
        let limits = api::Limits::default();
        let standings = Standings::new(BYTES_MAX_DEFAULT);
        for (token, keys, later) in asked {
            let question = json!({ "token": tokens[token], "request": { "method": "GET", "url": "/Patient" } }).to_string();
            // the leeway is 60 seconds
            let alone = Desk::alone(&front.snapshot, &issuers[keys], &limits, FRONT_NOW + 90 * later);
            let fresh = api::authorize(&alone, question.as_bytes()).unwrap().unwrap().body;
            let desk = Desk { standings: Some(&standings), ..alone };
            prop_assert_eq!(api::authorize(&desk, question.as_bytes()).unwrap().unwrap().body, fresh);
        }
    }
}
