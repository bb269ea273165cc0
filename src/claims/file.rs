//! claims.yaml → rules, or everything that is wrong with it. Hides the file's words.
//! INVARIANT: a file with any finding gives no rules; an unknown key, a value without use or two of one thing is one.
//! INVARIANT: who may sign is said in full: keys without algorithms, or without audiences, are a finding.
//! Source: shared/RULES "SMART"; docs/claims.md describes each key.

use std::collections::BTreeSet;

use super::condition::{ClaimPath, Condition, Template, the_one_of};
use super::nodes::{Entries, Node, Place, Reader, Value};
use super::rules::{ClaimNames, ClinicalScopes, Effect, Grant, Kind, Profile, Rule, Rules};
use super::scope::{Scope, parse};
use crate::fhir::definitions::{Definitions, FhirId};
use crate::finding::{Finding, nearest};
use crate::token::issuers::{Algorithm, Issuer, IssuerPattern, KeySource};

const LEEWAY_SECONDS: u64 = 60;
const LEEWAY_SECONDS_MAX: u64 = 600;

/// Reads the whole file. `file` is its name in findings.
pub fn read(file: &str, text: &str, definitions: &'static Definitions) -> Result<Rules, Vec<Finding>> {
    let (reader, root) = Reader::open(file, text).map_err(|finding| vec![finding])?;
    let rules = FileReader { reader: &reader, definitions }.rules(&root);
    let findings = reader.findings();
    rules.filter(|_| findings.is_empty()).ok_or(findings)
}

struct FileReader<'r> {
    reader: &'r Reader<'r>,
    definitions: &'static Definitions,
}

impl FileReader<'_> {
    fn rules(&self, root: &Node) -> Option<Rules> {
        let entries = self.reader.entries(root, "claims.yaml", &["profiles", "default", "issuers", "rules"])?;
        let profiles = self.wanted(&entries, "claims.yaml", "profiles").and_then(|node| self.profiles(node));
        let names: Vec<&str> = profiles.iter().flatten().map(|profile| profile.name.as_str()).collect();
        let default = self.wanted(&entries, "claims.yaml", "default");
        let default = default.and_then(|node| self.profile_index(node, "default", &names));
        let (issuers, issuer_profiles) =
            entries.get("issuers").map(|node| self.issuers(node, &names)).unwrap_or_default();
        let rules = entries.get("rules").map(|node| self.rule_list(node)).unwrap_or_default();
        self.judge_rule_names(&entries);
        Some(Rules {
            issuers,
            issuer_profiles,
            profiles: profiles?,
            default: default?,
            rules,
            definitions: self.definitions,
        })
    }

    fn profiles(&self, node: &Node) -> Option<Vec<Profile>> {
        let entries = self.reader.any_entries(node, "profiles")?;
        if entries.iter().next().is_none() {
            self.reader.problem(node.place, "profiles: at least one is wanted");
            return None;
        }
        let profiles: Vec<_> = entries.iter().map(|(name, _, node)| self.profile(name, node)).collect();
        profiles.into_iter().collect()
    }

    fn profile(&self, name: &str, node: &Node) -> Option<Profile> {
        const KEYS: &[&str] =
            &["issuers", "claims", "scopeSlash", "clinicalScopes", "launchPatientFromFhirUser", "rules"];
        let entries = self.reader.entries(node, "profile", KEYS)?;
        let claims = self.wanted(&entries, "the profile", "claims").and_then(|node| self.claim_names(node));
        let clinical = self.wanted(&entries, "the profile", "clinicalScopes").and_then(|node| self.clinical(node));
        let patterns = |node| self.each(node, "issuers", |node| self.issuer_pattern(node));
        let launch = |node| self.reader.bool(node, "launchPatientFromFhirUser");
        Some(Profile {
            name: name.to_owned(),
            issuers: entries.get("issuers").map(patterns).unwrap_or_default(),
            slashes: entries.get("scopeSlash").map(|node| self.slashes(node)).unwrap_or_default(),
            launch_patient_from_fhir_user: entries.get("launchPatientFromFhirUser").and_then(launch).unwrap_or(false),
            rules: entries.get("rules").map(|node| self.rule_list(node)).unwrap_or_default(),
            claims: claims?,
            clinical: clinical?,
        })
    }

    fn claim_names(&self, node: &Node) -> Option<ClaimNames> {
        const KEYS: &[&str] = &["id", "client", "tenant", "roles", "groups", "scopes", "patient", "fhirUser"];
        let entries = self.reader.entries(node, "claims", KEYS)?;
        let paths = |key: &str| {
            let read = |node| self.each(node, key, |node| ClaimPath::read(node, key, self.reader));
            entries.get(key).map(read).unwrap_or_default()
        };
        Some(ClaimNames {
            id: paths("id"),
            client: paths("client"),
            tenant: paths("tenant"),
            roles: paths("roles"),
            groups: paths("groups"),
            scopes: paths("scopes"),
            patient: paths("patient"),
            fhir_user: paths("fhirUser"),
        })
    }

    fn slashes(&self, node: &Node) -> Vec<String> {
        self.each(node, "scopeSlash", |node| {
            let text = self.reader.text(node, "scopeSlash")?;
            if text.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                self.reader
                    .problem(node.place, "scopeSlash: what stands for `/` begins with a sign, not with a letter");
                return None;
            }
            Some(text.to_owned())
        })
    }

    fn clinical(&self, node: &Node) -> Option<ClinicalScopes> {
        const HELP: &str = "write `replaceRoles`, or `withRole:` with the roles beside which clinical scopes count";
        match &node.value {
            Value::Text(text) if text == "replaceRoles" => Some(ClinicalScopes::ReplaceRoles),
            Value::Map(_) => {
                let entries = self.reader.entries(node, "clinicalScopes", &["withRole"])?;
                let roles = self.wanted(&entries, "clinicalScopes", "withRole")?;
                Some(ClinicalScopes::WithRole(self.texts(roles, "withRole").into_iter().collect()))
            }
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float | Value::Text(_) | Value::List(_) => {
                self.reader.problem_with_help(node.place, "unknown value of `clinicalScopes`", HELP);
                None
            }
        }
    }

    fn issuers(&self, node: &Node, profiles: &[&str]) -> (Vec<Issuer>, Vec<usize>) {
        let mut seen = BTreeSet::new();
        let read = self.each_of_list(node, "issuers", |node| {
            let (issuer, place, profile) = self.issuer(node, profiles)?;
            if !seen.insert(issuer.pattern.as_str().to_owned()) {
                self.reader.problem(place, format!("the issuer `{}` is there twice", issuer.pattern));
            }
            Some((issuer, profile?))
        });
        read.into_iter().unzip()
    }

    fn issuer(&self, node: &Node, profiles: &[&str]) -> Option<(Issuer, Place, Option<usize>)> {
        const KEYS: &[&str] =
            &["issuer", "profile", "audiences", "algorithms", "leewaySeconds", "tenants", "allow", "keys"];
        let entries = self.reader.entries(node, "issuer", KEYS)?;
        let profile = self.wanted(&entries, "the issuer", "profile");
        let profile = profile.and_then(|node| self.profile_index(node, "profile", profiles));
        let texts = |key: &str| entries.get(key).map(|node| self.texts(node, key)).unwrap_or_default();
        let allow = self.allowances(&entries);
        let algorithms = entries.get("algorithms").map(|node| self.algorithms(node)).unwrap_or_default();
        let named = self.wanted(&entries, "the issuer", "issuer");
        let pattern = named.and_then(|node| self.issuer_pattern(node));
        let keys = entries.get("keys");
        let key_source =
            keys.map_or(Some(KeySource::None), |node| self.key_source(node, pattern.as_ref(), &algorithms));
        self.judge_issuer(&entries, &allow);
        let (pattern, named) = (pattern?, named?);
        if let (false, Some((_, place, _))) = (pattern.is_template(), entry(&entries, "tenants")) {
            self.reader.problem(place, "`tenants` has a use only where the issuer has `{tid}`");
        }
        let issuer = Issuer {
            algorithms,
            audiences: texts("audiences"),
            leeway_seconds: entries.get("leewaySeconds").map_or(LEEWAY_SECONDS, |node| self.leeway(node)),
            tenants: texts("tenants"),
            without_exp: allow.contains(&MISSING_EXP),
            without_aud: allow.contains(&MISSING_AUD),
            key_source: key_source.unwrap_or(KeySource::None),
            pattern,
        };
        Some((issuer, named.place, profile))
    }

    /// Keys want algorithms and audiences; without keys nothing is verified, and what tells how has no use.
    fn judge_issuer(&self, entries: &Entries<'_>, allow: &[&str]) {
        if entries.get("keys").is_none() {
            for key in ["audiences", "algorithms", "leewaySeconds", "allow"] {
                if let Some((_, place, _)) = entry(entries, key) {
                    let message = format!("`{key}` has no use without `keys`");
                    self.reader.problem_with_help(place, message, "say where the keys of this issuer are");
                }
            }
            return;
        }
        if entries.get("algorithms").is_none() {
            let help = "name those that this issuer signs with, such as `[RS256]`";
            self.reader.problem_with_help(entries.place, "the issuer has keys and no `algorithms`", help);
        }
        if entries.get("audiences").is_none() && !allow.contains(&MISSING_AUD) {
            let help = "name what stands in `aud` of the tokens that are meant for this server";
            self.reader.problem_with_help(entries.place, "the issuer has keys and no `audiences`", help);
        }
    }

    fn issuer_pattern(&self, node: &Node) -> Option<IssuerPattern> {
        let text = self.reader.text(node, "issuer")?;
        IssuerPattern::parse(text).map_err(|error| self.reader.problem(node.place, error.to_string())).ok()
    }

    fn algorithms(&self, node: &Node) -> Vec<Algorithm> {
        self.each(node, "algorithms", |node| {
            let name = self.reader.text(node, "algorithms")?;
            name.parse()
                .map_err(|error: <Algorithm as std::str::FromStr>::Err| {
                    self.reader.problem(node.place, error.to_string());
                })
                .ok()
        })
    }

    fn allowances(&self, entries: &Entries<'_>) -> Vec<&'static str> {
        let Some(node) = entries.get("allow") else { return Vec::new() };
        self.each(node, "allow", |node| {
            let text = self.reader.text(node, "allow")?;
            let known = [MISSING_EXP, MISSING_AUD];
            let found = known.into_iter().find(|known| *known == text);
            if found.is_none() {
                self.unknown(node.place, "value of `allow`", text, &known);
            }
            found
        })
    }

    fn leeway(&self, node: &Node) -> u64 {
        let seconds = match node.value {
            Value::Integer(seconds) => u64::try_from(seconds).ok().filter(|seconds| *seconds <= LEEWAY_SECONDS_MAX),
            Value::Null | Value::Bool(_) | Value::Float | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
        };
        seconds.unwrap_or_else(|| {
            self.reader.problem(node.place, format!("leewaySeconds: 0 to {LEEWAY_SECONDS_MAX} is wanted here"));
            LEEWAY_SECONDS
        })
    }

    fn key_source(&self, node: &Node, pattern: Option<&IssuerPattern>, algorithms: &[Algorithm]) -> Option<KeySource> {
        const KEYS: &[&str] = &["jwksFile", "jwksUrl", "discovery", "secretFile", "secretEnvironment"];
        let entries = self.reader.entries(node, "keys", KEYS)?;
        let (key, value) = the_one_of(KEYS, &entries, self.reader)?;
        let is_secret = matches!(key, "secretFile" | "secretEnvironment");
        if let Some(algorithm) = algorithms.iter().find(|algorithm| algorithm.is_symmetric() != is_secret) {
            let (message, help) = if is_secret {
                (format!("`{algorithm}` wants public keys, not a secret"), "take `jwksFile`, `jwksUrl` or `discovery`")
            } else {
                (format!("`{algorithm}` wants a secret, not public keys"), "take `secretFile` or `secretEnvironment`")
            };
            self.reader.problem_with_help(value.place, message, help);
        }
        if key == "discovery" {
            return self.discovery(value, pattern);
        }
        let text = self.reader.text(value, key)?.to_owned();
        Some(match key {
            "jwksFile" => KeySource::JwksFile(text),
            "jwksUrl" => KeySource::JwksUrl(self.key_url(value, text)?),
            "secretFile" => KeySource::SecretFile(text),
            _ => KeySource::SecretEnvironment(text),
        })
    }

    /// `true`: below the issuer itself. A template is no URL, so it wants one written out.
    fn discovery(&self, node: &Node, pattern: Option<&IssuerPattern>) -> Option<KeySource> {
        let base = match &node.value {
            Value::Bool(true) if pattern?.is_template() => {
                let help = "write the URL below which `/.well-known/openid-configuration` is for all tenants, such as \
                            `discovery: https://login.microsoftonline.com/common/v2.0`";
                self.reader.problem_with_help(node.place, "discovery: an issuer with `{tid}` is no URL", help);
                return None;
            }
            Value::Bool(true) => pattern?.as_str(),
            Value::Text(url) => url,
            Value::Null | Value::Bool(false) | Value::Integer(_) | Value::Float | Value::List(_) | Value::Map(_) => {
                self.reader.problem(node.place, "discovery: `true` or a URL is wanted here");
                return None;
            }
        };
        let base = base.trim_end_matches('/').trim_end_matches("/.well-known/openid-configuration");
        self.key_url(node, base.to_owned()).map(KeySource::Discovery)
    }

    /// Keys come by https, or from this very machine: who can change them on the way can sign for the issuer.
    fn key_url(&self, node: &Node, url: String) -> Option<String> {
        let plain = url.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '\\' | '@' | '#'));
        let host = |rest: &str| rest.split('/').next().unwrap_or_default().to_owned();
        let is_loopback = |host: &str| {
            let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
            matches!(name.map_or(host, |(name, _)| name), "localhost" | "127.0.0.1" | "[::1]")
        };
        let message = match (url.strip_prefix("https://").map(host), url.strip_prefix("http://").map(host)) {
            (Some(host), _) | (_, Some(host)) if host.is_empty() || !plain => "this is no plain URL",
            (Some(_), _) => return Some(url),
            (None, Some(host)) if is_loopback(&host) => return Some(url),
            (None, Some(_)) => "keys are never fetched by plain http, but from this very machine",
            (None, None) => "a URL with https:// is wanted here",
        };
        self.reader.problem_with_help(node.place, message, "write the https:// URL of the issuer's keys");
        None
    }

    fn rule_list(&self, node: &Node) -> Vec<Rule> {
        self.each_of_list(node, "rules", |node| self.rule(node))
    }

    fn rule(&self, node: &Node) -> Option<Rule> {
        let entries = self.reader.entries(node, "rule", &["name", "issuer", "when", "grant", "refuse"])?;
        let name = self.wanted(&entries, "the rule", "name").and_then(|node| self.reader.text(node, "name"));
        let issuer = entries.get("issuer").map(|node| self.issuer_pattern(node));
        let when = entries.get("when").map(|node| Condition::read(node, self.reader));
        let (effect, node) = the_one_of(&["grant", "refuse"], &entries, self.reader)?;
        let effect = match effect {
            "grant" => Effect::Grant(self.grants(node, when.as_ref().and_then(Option::as_ref))),
            _ => Effect::Refuse(self.reader.text(node, "refuse")?.to_owned()),
        };
        // What is there and was not readable has its finding.
        Some(Rule {
            name: name?.to_owned(),
            issuer: issuer.map_or(Some(None), |issuer| issuer.map(Some))?,
            when: when.map_or(Some(None), |when| when.map(Some))?,
            effect,
        })
    }

    fn grants(&self, node: &Node, when: Option<&Condition>) -> Vec<Grant> {
        const KEYS: &[&str] = &["role", "group", "scope", "patient", "fhirUser", "attribute", "kind"];
        let mut grants = Vec::new();
        for item in self.reader.one_or_list(node, "grant") {
            let Some(entries) = self.reader.entries(item, "grant", KEYS) else { continue };
            if entries.iter().next().is_none() {
                self.reader.problem(item.place, "grant: it grants nothing");
            }
            for (key, _, value) in entries.iter() {
                match key {
                    "kind" => grants.extend(self.kind(value).map(Grant::Kind)),
                    "attribute" => grants.extend(self.attributes(value, when)),
                    _ => grants.extend(self.template(value, key, when).and_then(|made| self.granted(key, made, value))),
                }
            }
        }
        grants
    }

    /// The grant of `key`; what a rule writes out by itself is judged at once.
    fn granted(&self, key: &str, template: Template, node: &Node) -> Option<Grant> {
        let literal = template.literal().map(str::to_owned);
        match (key, literal) {
            ("patient", Some(id)) if FhirId::parse(&id).is_none() => {
                self.reader.problem_with_help(node.place, "patient: this is no FHIR id", "write the id alone");
            }
            ("scope", Some(scopes)) => {
                for scope in scopes.split(' ') {
                    if let Scope::Malformed { text, why } = parse(scope, self.definitions) {
                        self.reader.problem(node.place, format!("scope: `{text}` would grant nothing: {why}"));
                    }
                }
            }
            _ => {}
        }
        match key {
            "role" => Some(Grant::Role(template)),
            "group" => Some(Grant::Group(template)),
            "scope" => Some(Grant::Scope(template)),
            "patient" => Some(Grant::Patient(template)),
            "fhirUser" => Some(Grant::FhirUser(template)),
            _ => None,
        }
    }

    fn attributes(&self, node: &Node, when: Option<&Condition>) -> Vec<Grant> {
        let Some(entries) = self.reader.any_entries(node, "attribute") else { return Vec::new() };
        let grant = |(name, _, value): (&str, Place, &Node)| {
            Some(Grant::Attribute { name: name.to_owned(), value: self.template(value, name, when)? })
        };
        entries.iter().filter_map(grant).collect()
    }

    fn kind(&self, node: &Node) -> Option<Kind> {
        match self.reader.text(node, "kind")? {
            "User" => Some(Kind::User),
            "Client" => Some(Kind::Client),
            other => {
                self.unknown(node.place, "kind", other, &["User", "Client"]);
                None
            }
        }
    }

    /// A template whose groups are there: an unreadable `when` has its own finding.
    fn template(&self, node: &Node, what: &str, when: Option<&Condition>) -> Option<Template> {
        let template = Template::read(node, what, self.reader)?;
        let wanted = template.group_max();
        let there = when.and_then(Condition::captured).map(|(_, pattern)| pattern.groups());
        if wanted > there.unwrap_or(0) {
            let message = format!("{what}: there is no group `${{{wanted}}}`");
            let help = match there {
                Some(groups) => format!("`matches` has {groups} groups `(…)`"),
                None => "the rule's `when` has exactly one `matches`, and none of it under `any` or `not`".to_owned(),
            };
            self.reader.problem_with_help(node.place, message, help);
        }
        Some(template)
    }

    /// Rules are told by their names, so no two have one.
    fn judge_rule_names(&self, root: &Entries<'_>) {
        let mut lists: Vec<&Node> = root.get("rules").into_iter().collect();
        if let Some(Value::Map(profiles)) = root.get("profiles").map(|node| &node.value) {
            for (_, profile) in profiles {
                lists.extend(member(profile, "rules"));
            }
        }
        let mut seen = BTreeSet::new();
        for list in lists {
            let Value::List(rules) = &list.value else { continue };
            for name in rules.iter().filter_map(|rule| member(rule, "name")) {
                if let Value::Text(text) = &name.value
                    && !seen.insert(text)
                {
                    self.reader.problem(name.place, format!("two rules have the name `{text}`"));
                }
            }
        }
    }

    fn profile_index(&self, node: &Node, what: &str, profiles: &[&str]) -> Option<usize> {
        let name = self.reader.text(node, what)?;
        let index = profiles.iter().position(|profile| *profile == name);
        // Where the profiles themselves are unreadable, their findings are enough.
        if index.is_none() && !profiles.is_empty() {
            self.unknown(node.place, "profile", name, profiles);
        }
        index
    }

    fn wanted<'n>(&self, entries: &Entries<'n>, what: &str, key: &str) -> Option<&'n Node> {
        let found = entries.get(key);
        if found.is_none() {
            self.reader.problem(entries.place, format!("{what} has no `{key}`"));
        }
        found
    }

    fn unknown(&self, place: Place, what: &str, word: &str, known: &[&str]) {
        let message = format!("unknown {what} `{word}`");
        match nearest(word, known) {
            Some(meant) => self.reader.problem(place, format!("{message}; did you mean `{meant}`?")),
            None => {
                self.reader.problem_with_help(place, message, format!("known are {}", super::nodes::list(known)));
            }
        }
    }

    fn texts(&self, node: &Node, what: &str) -> Vec<String> {
        self.each(node, what, |node| self.reader.text(node, what).map(str::to_owned))
    }

    fn each<T>(&self, node: &Node, what: &str, read: impl FnMut(&Node) -> Option<T>) -> Vec<T> {
        self.reader.one_or_list(node, what).iter().filter_map(read).collect()
    }

    fn each_of_list<T>(&self, node: &Node, what: &str, read: impl FnMut(&Node) -> Option<T>) -> Vec<T> {
        // An empty list, or a key with nothing behind it, is where an operator begins.
        match &node.value {
            Value::Null => Vec::new(),
            Value::List(items) => items.iter().filter_map(read).collect(),
            Value::Bool(_) | Value::Integer(_) | Value::Float | Value::Text(_) | Value::Map(_) => {
                self.reader.problem(node.place, format!("{what}: a list (`- …`) is wanted here"));
                Vec::new()
            }
        }
    }
}

const MISSING_EXP: &str = "missing-exp";
const MISSING_AUD: &str = "missing-aud";

fn entry<'n>(entries: &Entries<'n>, wanted: &str) -> Option<(&'n str, Place, &'n Node)> {
    entries.iter().find(|(key, ..)| *key == wanted)
}

fn member<'n>(node: &'n Node, wanted: &str) -> Option<&'n Node> {
    let Value::Map(pairs) = &node.value else { return None };
    let is_wanted = |key: &Node| matches!(&key.value, Value::Text(name) if name == wanted);
    pairs.iter().find(|(key, _)| is_wanted(key)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::definitions::FhirVersion;

    /// Judges a whole file.
    fn check_file(text: &str, expected: &[&str]) {
        let findings = match read("claims.yaml", text, Definitions::of(FhirVersion::R4)) {
            Ok(_) => Vec::new(),
            Err(findings) => findings.iter().map(ToString::to_string).collect(),
        };
        let expected: Vec<String> = expected.iter().map(|each| format!("claims.yaml:{each}")).collect();
        assert_eq!(findings, expected, "{text}");
    }

    /// Judges lines that follow two good ones.
    fn check(text: &str, expected: &[&str]) {
        let profiles = "profiles: {smart: {claims: {id: sub}, clinicalScopes: replaceRoles}}\ndefault: smart";
        check_file(&format!("{profiles}\n{text}"), expected);
    }

    #[test]
    fn the_frame() {
        check("", &[]);
        check("issuers: []\nrules:", &[]);
        check_file("", &["1:1: claims.yaml: a map (`key: value`) is wanted here"]);
        check_file("- a", &["1:1: claims.yaml: a map (`key: value`) is wanted here"]);
        check_file("{}", &["1:1: claims.yaml has no `profiles`", "1:1: claims.yaml has no `default`"]);
        check_file("profiles: {}\ndefault: smart", &["1:11: profiles: at least one is wanted"]);
        check_file(
            "profiles: {a: {}}\ndefault: a",
            &["1:15: the profile has no `claims`", "1:15: the profile has no `clinicalScopes`"],
        );
        check("isuers: []", &["3:1: unknown claims.yaml key `isuers`; did you mean `issuers`?"]);
        check(
            "x: 1",
            &["3:1: unknown claims.yaml key `x`\n  help: known are `profiles`, `default`, `issuers`, `rules`"],
        );
        check("default: smart", &["3:1: the key `default` is there twice"]);
        check("1: a", &["3:1: a key is a text; put it in quotes"]);
        check("rules: {}", &["3:8: rules: a list (`- …`) is wanted here"]);
    }

    #[test]
    fn profiles() {
        let check = |profile: &str, expected: &[&str]| {
            check_file(&format!("profiles:\n  a: {{{profile}}}\ndefault: a"), expected);
        };
        check("claims: {}, clinicalScopes: replaceRoles", &[]);
        check("claims: {id: [sub, oid]}, clinicalScopes: {withRole: [a]}", &[]);
        check(
            "claims: {sub: id}, clinicalScopes: replaceroles",
            &[
                "2:16: unknown claims key `sub`\n  help: known are `id`, `client`, `tenant`, `roles`, `groups`, `scopes`, `patient`, `fhirUser`",
                "2:42: unknown value of `clinicalScopes`\n  help: write `replaceRoles`, or `withRole:` with the roles beside which clinical scopes count",
            ],
        );
        check(
            "claims: {fhiruser: x}, clinicalScopes: {withRole: []}",
            &["2:16: unknown claims key `fhiruser`; did you mean `fhirUser`?", "2:57: withRole: the list is empty"],
        );
        check(
            "claims: {id: 5, roles: [a, 'b c', true]}, clinicalScopes: {}",
            &[
                "2:20: id: a text is wanted here; put it in quotes",
                "2:34: roles: a claim's name with other signs than letters, digits, `_`, `-` and `:` is written as a JSON Pointer\n  help: write `/b c` if this is the name of one claim",
                "2:41: roles: a text is wanted here; put it in quotes",
                "2:65: clinicalScopes has no `withRole`",
            ],
        );
        check(
            "claims: {}, clinicalScopes: replaceRoles, scopeSlash: [s, ':'], launchPatientFromFhirUser: maybe",
            &[
                "2:62: scopeSlash: what stands for `/` begins with a sign, not with a letter",
                "2:98: launchPatientFromFhirUser: `true` or `false` is wanted here",
            ],
        );
        check(
            "claims: {}, clinicalScopes: replaceRoles, issuers: ['https://x/{tenant}/']",
            &["2:59: the issuer `https://x/{tenant}/` holds a brace that is not of `{tid}`, the only placeholder"],
        );
    }

    #[test]
    fn issuers() {
        let check = |issuer: &str, expected: &[&str]| check(&format!("issuers:\n  - {{{issuer}}}"), expected);
        let good = "issuer: https://x, profile: smart, audiences: a, algorithms: RS256";
        check("issuer: https://x, profile: smart", &[]);
        check(&format!("{good}, keys: {{discovery: true}}, leewaySeconds: 0"), &[]);
        check(&format!("{good}, keys: {{jwksUrl: 'http://localhost:8080/jwks'}}"), &[]);
        check(&format!("{good}, keys: {{jwksUrl: 'http://[::1]/jwks'}}"), &[]);
        check("profile: smart", &["4:5: the issuer has no `issuer`"]);
        check("issuer: https://x, profile: smrt", &["4:34: unknown profile `smrt`; did you mean `smart`?"]);
        check(
            "issuer: https://x}\n  - {profile: smart, issuer: https://x",
            &["4:5: the issuer has no `profile`", "5:30: the issuer `https://x` is there twice"],
        );
        check(
            "issuer: https://x, profile: smart, algorithms: [RS256], leewaySeconds: 9, tenants: [a]",
            &[
                "4:41: `algorithms` has no use without `keys`\n  help: say where the keys of this issuer are",
                "4:62: `leewaySeconds` has no use without `keys`\n  help: say where the keys of this issuer are",
                "4:80: `tenants` has a use only where the issuer has `{tid}`",
            ],
        );
        check(
            "issuer: https://x, profile: smart, keys: {discovery: true}",
            &[
                "4:5: the issuer has keys and no `algorithms`\n  help: name those that this issuer signs with, such as `[RS256]`",
                "4:5: the issuer has keys and no `audiences`\n  help: name what stands in `aud` of the tokens that are meant for this server",
            ],
        );
        check("issuer: https://x, profile: smart, algorithms: HS256, allow: missing-aud, keys: {secretFile: f}", &[]);
        check(
            "issuer: https://x, profile: smart, audiences: [], algorithms: [none, RS257], keys: {jwksFile: f}",
            &[
                "4:52: audiences: the list is empty",
                "4:69: `none` is no algorithm: a token that nobody signed is never accepted; name one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA",
                "4:75: unknown algorithm `RS257`; name one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, in this case",
            ],
        );
        let keys = |keys: &str, expected: &[&str]| check(&format!("{good}, keys: {{{keys}}}"), expected);
        let https = "\n  help: write the https:// URL of the issuer's keys";
        keys("", &["4:80: one of `jwksFile`, `jwksUrl`, `discovery`, `secretFile`, `secretEnvironment` is missing"]);
        keys("jwksFile: a, jwksUrl: 'https://x'", &["4:94: `jwksFile` and `jwksUrl` exclude each other; take one"]);
        keys(
            "secretFile: f",
            &["4:93: `RS256` wants public keys, not a secret\n  help: take `jwksFile`, `jwksUrl` or `discovery`"],
        );
        for plain in
            ["http://x/jwks", "http://localhost.example.org/", "http://127.0.0.1.example.org/", "http://10.0.0.1"]
        {
            let finding = format!("4:90: keys are never fetched by plain http, but from this very machine{https}");
            keys(&format!("jwksUrl: '{plain}'"), &[&finding]);
        }
        for odd in ["https://", "https:///x", "https://a@x/", "https://x y", "http://localhost@x/", "https://x#a"] {
            keys(&format!("jwksUrl: '{odd}'"), &[&format!("4:90: this is no plain URL{https}")]);
        }
        keys("jwksUrl: 'ftp://x'", &[&format!("4:90: a URL with https:// is wanted here{https}")]);
        keys("discovery: false", &["4:92: discovery: `true` or a URL is wanted here"]);
        check(
            "issuer: https://x, profile: smart, audiences: a, algorithms: [HS256], keys: {jwksFile: f}",
            &["4:93: `HS256` wants a secret, not public keys\n  help: take `secretFile` or `secretEnvironment`"],
        );
        check(
            "issuer: https://x, profile: smart, audiences: a, algorithms: RS256, allow: [missing-iss], leewaySeconds: 601, keys: {jwksFile: f}",
            &[
                "4:82: unknown value of `allow` `missing-iss`; did you mean `missing-exp`?",
                "4:111: leewaySeconds: 0 to 600 is wanted here",
            ],
        );
        let template = "issuer: 'https://x/{tid}/', profile: smart, audiences: a, algorithms: RS256";
        check(
            &format!("{template}, keys: {{discovery: true}}"),
            &[
                "4:101: discovery: an issuer with `{tid}` is no URL\n  help: write the URL below which `/.well-known/openid-configuration` is for all tenants, such as `discovery: https://login.microsoftonline.com/common/v2.0`",
            ],
        );
    }

    #[test]
    fn where_keys_come_from() {
        let check = |keys: &str, algorithm: &str, expected: KeySource| {
            let text = format!(
                "profiles: {{a: {{claims: {{}}, clinicalScopes: replaceRoles}}}}\ndefault: a\nissuers:\n\
                 - {{issuer: https://x/, profile: a, audiences: [b], algorithms: {algorithm}, keys: {{{keys}}}}}"
            );
            let rules = read("claims.yaml", &text, Definitions::of(FhirVersion::R4)).unwrap();
            assert_eq!(rules.issuers()[0].key_source, expected, "{keys}");
            assert_eq!(rules.issuers()[0].leeway_seconds, LEEWAY_SECONDS);
            assert!(!rules.issuers()[0].without_exp && !rules.issuers()[0].without_aud);
        };
        check("discovery: true", "RS256", KeySource::Discovery("https://x".to_owned()));
        check("discovery: https://y/v2.0/", "RS256", KeySource::Discovery("https://y/v2.0".to_owned()));
        check(
            "discovery: https://y/.well-known/openid-configuration",
            "RS256",
            KeySource::Discovery("https://y".to_owned()),
        );
        check("jwksUrl: https://y/keys", "ES256", KeySource::JwksUrl("https://y/keys".to_owned()));
        check("jwksFile: keys.json", "EdDSA", KeySource::JwksFile("keys.json".to_owned()));
        check("secretFile: secret", "HS512", KeySource::SecretFile("secret".to_owned()));
        check("secretEnvironment: SECRET", "HS256", KeySource::SecretEnvironment("SECRET".to_owned()));
    }

    #[test]
    fn rules() {
        let check = |rule: &str, expected: &[&str]| check(&format!("rules:\n  - {{{rule}}}"), expected);
        check("name: a, grant: {role: r}", &[]);
        check(
            "name: a, grnat: {role: r}",
            &["4:5: one of `grant`, `refuse` is missing", "4:15: unknown rule key `grnat`; did you mean `grant`?"],
        );
        check(
            "grant: {role: r}, refuse: no",
            &["4:5: the rule has no `name`", "4:24: `grant` and `refuse` exclude each other; take one"],
        );
        check("name: a, grant: {}", &["4:22: grant: it grants nothing"]);
        check("name: a, grant: []", &["4:22: grant: the list is empty"]);
        check("name: a, grant: {rule: r}", &["4:23: unknown grant key `rule`; did you mean `role`?"]);
        check("name: a, grant: {kind: user}", &["4:29: unknown kind `user`; did you mean `User`?"]);
        check("name: a, grant: {role: ''}", &["4:29: role: the text is empty"]);
        check(
            "name: a, grant: {patient: Patient/1}",
            &["4:32: patient: this is no FHIR id\n  help: write the id alone"],
        );
        check(
            "name: a, grant: {scope: 'openid patient.Observation.read'}",
            &[
                "4:30: scope: `patient.Observation.read` would grant nothing: a clinical scope begins exactly with `patient/`, `user/` or `system/`",
            ],
        );
        check(
            "name: a, grant: {role: '${a b}'}",
            &[
                "4:29: role: a claim's name with other signs than letters, digits, `_`, `-` and `:` is written as a JSON Pointer\n  help: write `/a b` if this is the name of one claim",
            ],
        );
        check(
            "name: a, when: {claim: x, matches: '(a)'}, grant: {role: '${1}', attribute: {b: '${2}'}}",
            &["4:86: b: there is no group `${2}`\n  help: `matches` has 1 groups `(…)`"],
        );
        check(
            "name: a, grant: {role: '${1}'}",
            &[
                "4:29: role: there is no group `${1}`\n  help: the rule's `when` has exactly one `matches`, and none of it under `any` or `not`",
            ],
        );
        check(
            "name: a, when: {claim: x, matches: '('}, refuse: 5",
            &[
                "4:41: `matches` is no regular expression: unclosed group\n  help: the syntax is that of the Rust crate `regex`",
                "4:55: refuse: a text is wanted here; put it in quotes",
            ],
        );
        check("name: a, issuer: '', grant: {role: r}", &["4:23: issuer: the text is empty"]);
        check("name: a, grant: {role: r}}\n  - {name: a, refuse: x", &["5:12: two rules have the name `a`"]);
        let many = "name: a, refuse: x, x: y}\n  - {".repeat(60) + "name: b, refuse: x";
        let findings = read("f", &format!("rules:\n  - {{{many}}}"), Definitions::of(FhirVersion::R4)).unwrap_err();
        let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!((told.len(), told[50].as_str()), (51, "f:0:0: 71 more findings are not shown"));
    }
}
