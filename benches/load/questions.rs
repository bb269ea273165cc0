//! What is asked, and the policies that it is asked of.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cedarward::token::issuers::Algorithm;
use cedarward::token::jws::{self, MintKey};
use serde_json::json;

use crate::driver::Bodies;

pub struct Question {
    pub name: &'static str,
    pub bodies: Bodies,
}

/// A role, and a type that it may read.
pub struct Pair {
    pub role: String,
    pub of: &'static str,
}

const TYPES: [&str; 40] = [
    "Observation",
    "Patient",
    "Condition",
    "Encounter",
    "MedicationRequest",
    "Procedure",
    "DiagnosticReport",
    "Immunization",
    "AllergyIntolerance",
    "CarePlan",
    "CareTeam",
    "Claim",
    "Coverage",
    "Device",
    "DocumentReference",
    "Goal",
    "Location",
    "Medication",
    "Organization",
    "Practitioner",
    "PractitionerRole",
    "Provenance",
    "QuestionnaireResponse",
    "RelatedPerson",
    "ServiceRequest",
    "Specimen",
    "Task",
    "Appointment",
    "Schedule",
    "Slot",
    "Account",
    "Binary",
    "ImagingStudy",
    "Media",
    "MedicationAdministration",
    "MedicationDispense",
    "MedicationStatement",
    "NutritionOrder",
    "RiskAssessment",
    "Communication",
];

/// Distinct pairs of role and type, as a large hospital's roles have them.
pub fn pairs(count: usize) -> Vec<Pair> {
    let pair = |number: usize| Pair { role: format!("ward-{}", number / TYPES.len()), of: TYPES[number % TYPES.len()] };
    (0..count).map(pair).collect()
}

/// A folder with a policy for each pair, and the default claim rules.
pub fn write_policies(dir: &Path, pairs: &[Pair]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::copy("policies/claims.yaml", dir.join("claims.yaml")).unwrap();
    let policy = |Pair { role, of }: &Pair| {
        format!(
            "@id(\"{role}-{of}\")\npermit (principal in Role::\"{role}\", action in Action::\"r\", resource is {of});\n"
        )
    };
    std::fs::write(dir.join("wards.cedar"), pairs.iter().map(policy).collect::<String>()).unwrap();
}

pub fn of_pair(Pair { role, of }: &Pair) -> Bodies {
    let claims = format!(r#"{{"iss":"https://issuerurl","oid":"123","roles":["{role}"]}}"#);
    authorize(&claims, &format!(r#""request":{{"method":"GET","url":"/{of}/55"}}"#))
}

fn authorize(claims: &str, rest: &str) -> Bodies {
    Bodies { path: "/v1/authorize", bodies: vec![format!(r#"{{"claims":{claims},{rest}}}"#)] }
}

const READ: &str = r#""request":{"method":"GET","url":"/Observation/55"}"#;
const READER: &str = r#"{"iss":"https://issuerurl","oid":"123","roles":["FHIR Data Reader"]}"#;
const PATIENT: &str = r#"{"iss":"https://idp","sub":"u","patient":"123","scope":"patient/*.cruds"}"#;

pub fn reader() -> Bodies {
    authorize(READER, READ)
}

/// The default policies with a key of our own, and tokens that it signs.
pub struct Keys {
    pub policies: PathBuf,
    tokens: Vec<String>,
}

/// More than are remembered, so that each is new whenever its turn comes.
const TOKENS: usize = 4_000;

impl Keys {
    pub fn write(folder: &Path) -> Keys {
        let policies = folder.join("default");
        run(Command::new(env!("CARGO_BIN_EXE_cedarward")).arg("init").arg(&policies));
        let key = folder.join("key.pem");
        run(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"));
        let modulus = run(Command::new("openssl").args(["rsa", "-noout", "-modulus", "-in"]).arg(&key));
        let modulus = modulus.trim().strip_prefix("Modulus=").unwrap();
        let bytes: Vec<u8> = (0..modulus.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(modulus.get(at..at + 2).unwrap(), 16).unwrap())
            .collect();
        let jwks =
            json!({ "keys": [{ "kty": "RSA", "alg": "RS256", "n": URL_SAFE_NO_PAD.encode(bytes), "e": "AQAB" }] });
        std::fs::write(policies.join("jwks.json"), jwks.to_string()).unwrap();
        let rules = std::fs::read_to_string(policies.join("claims.yaml")).unwrap();
        let issuer = "issuers:\n  - issuer: https://idp.example\n    profile: entra\n    audiences: [fhir]\n    algorithms: [RS256]\n    keys: { jwksFile: jwks.json }\n";
        assert!(rules.contains("issuers: []\n"), "the default rules have an issuer");
        std::fs::write(policies.join("claims.yaml"), rules.replacen("issuers: []\n", issuer, 1)).unwrap();
        let pem = std::fs::read(&key).unwrap();
        let token = |number: usize| {
            let claims = json!({
                "iss": "https://idp.example", "aud": "fhir", "oid": number.to_string(), "exp": 4_102_444_800_u64,
                "roles": ["FHIR Data Reader"],
            });
            jws::mint(claims.as_object().unwrap(), Algorithm::RS256, MintKey::PrivatePem(&pem), None).unwrap()
        };
        Keys { policies, tokens: (0..TOKENS).map(token).collect() }
    }
}

/// What it prints.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn all(keys: &Keys) -> Vec<Question> {
    let laboratory = r#"{"resourceType":"Observation","id":"55","status":"final","subject":{"reference":"Patient/123"},"category":[{"coding":[{"code":"laboratory"}]}]}"#;
    let with_token = |token: &String| format!(r#"{{"token":"{token}",{READ}}}"#);
    let entry = r#"{"request":{"method":"POST","url":"Observation"},"resource":{"resourceType":"Observation","status":"final","subject":{"reference":"Patient/123"}}}"#;
    let transaction = format!(
        r#""request":{{"method":"POST","url":"/","body":{{"resourceType":"Bundle","type":"transaction","entry":[{}]}}}}"#,
        vec![entry; 50].join(",")
    );
    let tokens = |tokens: &[String]| Bodies { path: "/v1/authorize", bodies: tokens.iter().map(with_token).collect() };
    let question = |name, bodies| Question { name, bodies };
    vec![
        question("a reader reads, claims", reader()),
        question("RS256, the same token again", tokens(&keys.tokens[..1])),
        question("RS256, each token for the first time", tokens(&keys.tokens)),
        question(
            "a reader searches, with an include",
            authorize(
                READER,
                r#""request":{"method":"GET","url":"/Observation?code=1234-5&_include=Observation:subject"}"#,
            ),
        ),
        question(
            "a patient's app searches, narrowed",
            authorize(PATIENT, r#""enforces":["filter"],"request":{"method":"GET","url":"/Observation?code=1234-5"}"#),
        ),
        question(
            "a patient's app reads, resource at hand",
            authorize(PATIENT, &format!(r#"{READ},"resource":{laboratory}"#)),
        ),
        question("a patient's app writes, transaction of 50", authorize(PATIENT, &transaction)),
    ]
}
