//! The description of the API against the service: requests made from its schemas, its examples, its paths.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedarward::cache::BYTES_MAX_DEFAULT;
use cedarward::http::api;
use cedarward::http::proxy::Settings;
use cedarward::http::server::{Answer, Ask};
use cedarward::http::service::{OPENAPI, PATHS, Service};
use cedarward::sources::serving::{Origin, Serving};
use hyper::body::Bytes;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::tables::settings;

struct Described {
    document: Value,
    service: Arc<Service>,
}

fn described() -> Described {
    let serving = Serving::start(Origin::default(), settings(), BYTES_MAX_DEFAULT)
        .unwrap_or_else(|findings| panic!("{findings:#?}"));
    let service = Service::new(Arc::new(serving), api::Limits::default(), Settings::default(), None, None);
    Described { document: serde_json::from_str(OPENAPI).unwrap(), service }
}

impl Described {
    fn sent(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let ask = Ask {
            method: method.parse().unwrap(),
            path: path.replace("{path}", "Patient"),
            query: None,
            headers: headers.into_iter().collect(),
            body: Bytes::from(body.to_string()),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(Arc::clone(&self.service).respond(ask))
    }

    /// What a schema is, its reference followed.
    fn at<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.document.pointer(reference.trim_start_matches('#')).unwrap(),
            None => schema,
        }
    }

    /// What is described of an operation's answer with this status.
    fn response(&self, method: &str, path: &str, status: u16) -> Option<&Value> {
        let operation = &self.document["paths"][path][method.to_lowercase()];
        let response = operation["responses"].get(status.to_string())?;
        Some(self.at(response))
    }

    /// Where a value is not as the schema says.
    fn wrong(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.at(schema);
        let object = schema.as_object().unwrap();
        let fails = |message: &str| Some(format!("{at}: {message}: {value}"));
        let fit = |schemas: &Value| {
            let schemas = schemas.as_array().unwrap();
            schemas.iter().filter(|schema| self.wrong(schema, value, at).is_none()).count()
        };
        for (name, said) in object {
            let wrong = match name.as_str() {
                "type" => {
                    let types = said.as_array().cloned().unwrap_or_else(|| vec![said.clone()]);
                    let is = match value {
                        Value::Null => "null",
                        Value::Bool(_) => "boolean",
                        Value::Number(_) => "integer",
                        Value::String(_) => "string",
                        Value::Array(_) => "array",
                        Value::Object(_) => "object",
                    };
                    if types.iter().any(|one| one == is) { None } else { fails("another type") }
                }
                "enum" if !said.as_array().unwrap().contains(value) => fails("none of these"),
                "const" if said != value => fails("not this"),
                "oneOf" if fit(said) != 1 => fails("not one of these"),
                "anyOf" if fit(said) == 0 => fails("none of these"),
                "allOf" if fit(said) != said.as_array().unwrap().len() => fails("not all of these"),
                "required" => {
                    let lacks =
                        said.as_array().unwrap().iter().find(|name| value.get(name.as_str().unwrap()).is_none());
                    if value.is_object() && lacks.is_some() { fails("lacks a member") } else { None }
                }
                "maxProperties" => {
                    let many = value.as_object().is_some_and(|members| members.len() as u64 > said.as_u64().unwrap());
                    if many { fails("too many members") } else { None }
                }
                "minItems" if value.as_array().is_some_and(Vec::is_empty) => fails("too few items"),
                "items" => value.as_array().and_then(|items| {
                    items.iter().enumerate().find_map(|(index, item)| self.wrong(said, item, &format!("{at}/{index}")))
                }),
                "properties" => value.as_object().and_then(|members| {
                    members.iter().find_map(|(name, value)| self.wrong(said.get(name)?, value, &format!("{at}/{name}")))
                }),
                "additionalProperties" if said == &json!(false) => value.as_object().and_then(|members| {
                    let known = schema["properties"].as_object().cloned().unwrap_or_default();
                    members.keys().find(|name| !known.contains_key(*name)).and_then(|_| fails("an unknown member"))
                }),
                _ => None,
            };
            if wrong.is_some() {
                return wrong;
            }
        }
        None
    }

    /// Values that are as the schema says.
    fn values(&self, schema: &Value) -> BoxedStrategy<Value> {
        let schema = self.at(schema);
        if let Some(examples) = schema["examples"].as_array() {
            return select(examples.clone()).boxed();
        }
        if let Some(values) = schema["enum"].as_array() {
            return select(values.clone()).boxed();
        }
        if let (Some(ways), None) = (schema["oneOf"].as_array(), schema.get("properties")) {
            let ways: Vec<_> = ways.iter().map(|way| self.values(way)).collect();
            return proptest::strategy::Union::new(ways).boxed();
        }
        match schema["type"].as_str().unwrap_or_default() {
            "null" => Just(Value::Null).boxed(),
            "boolean" => any::<bool>().prop_map(Value::from).boxed(),
            "integer" => (1..9).prop_map(Value::from).boxed(),
            "string" => "[a-z]{0,4}".prop_map(Value::from).boxed(),
            "array" => {
                prop::collection::vec(self.values(&schema["items"]), usize::from(schema.get("minItems").is_some())..3)
                    .prop_map(Value::from)
                    .boxed()
            }
            _ => self.objects(schema),
        }
    }

    fn objects(&self, schema: &Value) -> BoxedStrategy<Value> {
        let required: BTreeSet<String> = texts(&schema["required"]);
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        let mut members = Just(Map::new()).boxed();
        for (name, property) in properties {
            let (name, is_required) = (name.clone(), required.contains(name));
            let member = (self.values(property), any::<bool>());
            members = (members, member)
                .prop_map(move |(mut members, (value, is_there))| {
                    if is_required || is_there {
                        members.insert(name.clone(), value);
                    }
                    members
                })
                .boxed();
        }
        // of what excludes each other, one; of what is needed in one way or another, one at least
        let parts = || [schema].into_iter().chain(schema["allOf"].as_array().into_iter().flatten());
        let ways = |name: &str| {
            let ways = |ways: &Vec<Value>| ways.iter().map(|way| texts(&way["required"])).collect::<Vec<_>>();
            parts().filter_map(|part| part[name].as_array()).map(ways).collect::<Vec<_>>()
        };
        let choices: Vec<(bool, Vec<BTreeSet<String>>)> = ways("oneOf")
            .into_iter()
            .map(|ways| (true, ways))
            .chain(ways("anyOf").into_iter().map(|ways| (false, ways)))
            .collect();
        let made: Vec<(String, BoxedStrategy<Value>)> =
            properties.iter().map(|(name, property)| (name.clone(), self.values(property))).collect();
        let mut values = (members, any::<prop::sample::Index>(), Just(choices)).boxed();
        for (name, strategy) in made {
            values = (values, strategy)
                .prop_map(move |((mut members, index, choices), value)| {
                    for (is_exclusive, ways) in &choices {
                        let chosen = &ways[index.index(ways.len())];
                        if chosen.contains(&name) {
                            members.insert(name.clone(), value.clone());
                        } else if *is_exclusive && ways.iter().any(|way| way.contains(&name)) {
                            members.remove(&name);
                        }
                    }
                    (members, index, choices)
                })
                .boxed();
        }
        let most = schema["maxProperties"].as_u64().unwrap_or(u64::MAX);
        values
            .prop_map(move |(members, _, _)| {
                Value::Object(members.into_iter().take(usize::try_from(most).unwrap_or(usize::MAX)).collect())
            })
            .boxed()
    }

    /// The value with one thing wrong in it: a member that nobody knows, one of another type, one that is missing.
    fn bent(&self, value: &Value, schema: &Value, how: &[prop::sample::Index]) -> Value {
        let schema = self.at(schema);
        let (Some(members), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
            return json!([[]]);
        };
        let (Some(first), deeper) = (how.first(), how.get(1..).unwrap_or_default()) else { return json!(7) };
        let mut bent = members.clone();
        let inner: Vec<&String> = properties
            .iter()
            .filter(|(name, property)| {
                members.contains_key(*name) && self.at(property)["additionalProperties"] == json!(false)
            })
            .map(|(name, _)| name)
            .collect();
        match first.index(3 + inner.len()) {
            0 => drop(bent.insert("unknown".to_owned(), json!(1))),
            1 => drop(bent.insert(properties.keys().next().unwrap().clone(), json!(7))),
            2 => match texts(&schema["required"]).first() {
                Some(name) => drop(bent.remove(name)),
                None => drop(bent.insert("misspelt".to_owned(), json!({}))),
            },
            index => {
                let name = inner[index - 3];
                bent.insert(name.clone(), self.bent(&members[name], &properties[name], deeper));
            }
        }
        Value::Object(bent)
    }

    /// The status, after a look at whether the answer is as described.
    fn judged(&self, path: &str, body: &Value) -> u16 {
        let answer = self.sent("POST", path, body);
        let told: Value = serde_json::from_slice(&answer.body).unwrap();
        let response = self.response("POST", path, answer.status);
        let response = response.unwrap_or_else(|| panic!("{path}: {} is not described: {told}", answer.status));
        let schema = &response["content"]["application/json"]["schema"];
        assert_eq!(self.wrong(schema, &told, ""), None, "{path}: {body}");
        answer.status
    }

    fn asking(&self) -> Vec<(String, Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let schema = |path: &Value| path["post"]["requestBody"]["content"]["application/json"].get("schema").cloned();
        paths.iter().filter_map(|(name, path)| Some((name.clone(), schema(path)?))).collect()
    }
}

fn texts(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn what_is_described_is_served_and_the_other_way_round() {
    let described = described();
    let paths: BTreeSet<&str> = described.document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(paths, PATHS.iter().copied().collect());
    for (path, methods) in described.document["paths"].as_object().unwrap() {
        for method in ["get", "head", "post"] {
            let answer = described.sent(&method.to_uppercase(), path, &json!({}));
            let is_described = methods.get(method).is_some();
            assert_eq!(answer.status != 405, is_described, "{method} {path}: {}", answer.status);
            if is_described {
                assert!(
                    described.response(method, path, answer.status).is_some(),
                    "{method} {path}: {}",
                    answer.status
                );
            }
        }
    }
}

#[test]
fn every_example_is_answered_as_it_says() {
    let described = described();
    let mut seen = 0;
    for (path, _) in described.asking() {
        let operation = &described.document["paths"][&path]["post"];
        let examples = operation["requestBody"]["content"]["application/json"]["examples"].as_object();
        for (name, example) in examples.into_iter().flatten() {
            assert_eq!(described.judged(&path, &example["value"]), 200, "{path}: {name}");
            let told = described.sent("POST", &path, &example["value"]);
            let told: Value = serde_json::from_slice(&told.body).unwrap();
            let said = &operation["responses"]["200"]["content"]["application/json"]["examples"][name]["value"];
            assert!(holds(said, &told), "{path}: {name}: {told}");
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen}");
}

/// Whether an answer says what the example says, and maybe more.
fn holds(said: &Value, told: &Value) -> bool {
    match (said, told) {
        (Value::Object(said), Value::Object(told)) => {
            said.iter().all(|(name, said)| told.get(name).is_some_and(|told| holds(said, told)))
        }
        (Value::Array(said), Value::Array(told)) => {
            said.len() == told.len() && said.iter().zip(told).all(|(said, told)| holds(said, told))
        }
        (said, told) => said == told,
    }
}

/// Made from the schemas, and bent against them.
#[test]
fn requests_that_are_as_described_are_answered_and_others_refused() {
    let described = described();
    let several = ["/v1/authorize/batch", "/access/v1/evaluations"];
    for (path, schema) in described.asking() {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(48)
        });
        let how = prop::collection::vec(any::<prop::sample::Index>(), 3);
        let strategy = (described.values(&schema), how);
        let run = runner.run(&strategy, |(value, how)| {
            prop_assert_eq!(described.wrong(&schema, &value, ""), None);
            let status = described.judged(&path, &value);
            let is_offered = !path.ends_with("search/subject") && !path.ends_with("search/resource");
            prop_assert_eq!(status, if is_offered { 200 } else { 404 }, "{}: {}", path, value);
            let bent = described.bent(&value, &schema, &how);
            if described.wrong(&schema, &bent, "").is_some() {
                let status = described.judged(&path, &bent);
                // of several what is wrong with one is said in its place
                let told = String::from_utf8(described.sent("POST", &path, &bent).body).unwrap();
                let is_said = told.contains(r#""decision":false"#) || told.contains(r#""decision":"deny""#);
                let is_refused =
                    (400..500).contains(&status) || (status == 200 && several.contains(&path.as_str()) && is_said);
                prop_assert!(is_refused, "{}: {}: {}", path, status, bent);
            }
            Ok(())
        });
        run.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}
