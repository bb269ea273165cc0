//! A request that asks for less than it did: how it can be narrowed, and its URL then.
//! Hides where a request's criteria stand: in the URL, beside a form, in `If-None-Exist`.
//! INVARIANT: what the client asked stays as it was; criteria are only added, and all of a search's criteria count.
//! Source: FHIR http.html (R4) "search", "conditional create"; search.html "variant searches"; Bulk Data Access 2.0.

use super::{Interaction, Operation};
use crate::fhir::definitions::{Compartment, FhirId, ResourceType};
use crate::fhir::search::Term;
use crate::fhir::url::{Parameter, write_parameters, write_target};

/// How a request can be made to ask for less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Narrowing {
    None,
    /// by criteria of this type, of which it is a search
    Criteria(ResourceType),
    /// by `_type`, which it has not
    Types,
    /// by `_type`, where it has none, and `_typeFilter`, which it has not
    Export,
}

impl Operation {
    pub fn narrowing(&self) -> Narrowing {
        use Interaction as I;
        if self.has_fixed_parameters {
            return Narrowing::None;
        }
        let searched = self.search.as_ref().and_then(|search| search.types.as_deref());
        match (self.interaction, self.name.as_deref(), searched) {
            (I::SearchType | I::SearchCompartment | I::SearchSystem, _, Some([of])) => Narrowing::Criteria(*of),
            (I::Operation, Some("$lastn"), Some([of])) => Narrowing::Criteria(*of),
            (I::Create | I::Update | I::Patch | I::Delete, _, Some([of])) if self.conditional => {
                Narrowing::Criteria(*of)
            }
            (I::SearchSystem | I::SearchCompartment, _, _) if !self.states_types => Narrowing::Types,
            (I::Operation, Some("$everything"), _) if !self.states_types => Narrowing::Types,
            (I::Operation, Some("$export"), _) => Narrowing::Export,
            (_, _, _) => Narrowing::None,
        }
    }

    /// Whether it answers with resources that can be checked one by one, and not with how many there are.
    pub fn is_checkable(&self) -> bool {
        use Interaction as I;
        let answers = match self.interaction {
            I::SearchType | I::SearchSystem | I::SearchCompartment => true,
            I::Read | I::Vread | I::HistoryInstance | I::HistoryType | I::HistorySystem => true,
            I::Operation => matches!(self.name.as_deref(), Some("$everything" | "$lastn" | "$docref")),
            I::Update | I::Patch | I::Delete | I::Create | I::Capabilities | I::Batch | I::Transaction => false,
        };
        answers && !self.counts()
    }

    /// Whether it asks how many resources there are.
    fn counts(&self) -> bool {
        let terms = self.search.iter().flat_map(|search| &search.terms).filter_map(|touching| match &touching.term {
            Term::Result(parameter) => Some(parameter),
            Term::Criterion { .. } | Term::Include(_) | Term::Sort(_) | Term::Types(_) | Term::Opaque(_) => None,
        });
        terms.chain(&self.target.query).any(|Parameter { name, value }| match name.as_str() {
            "_summary" => value == "count",
            "_total" => value != "none",
            "_count" | "_maxresults" => value.bytes().all(|digit| digit == b'0'),
            _ => false,
        })
    }

    /// The URL with these criteria beside its own. Those of a form stay in the form: URL and form are one search.
    pub fn url_with(&self, criteria: &[Parameter]) -> String {
        write_target(self.segments(), self.target.query.iter().chain(criteria))
    }

    /// The search of a type as one within a compartment; `None` where it is no search of a type alone.
    pub fn url_within(&self, compartment: Compartment, id: &FhirId, criteria: &[Parameter]) -> Option<String> {
        if self.interaction != Interaction::SearchType {
            return None;
        }
        let place = [compartment.as_str(), id.as_str()];
        Some(write_target(place.into_iter().chain(self.segments()), self.target.query.iter().chain(criteria)))
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.target.segments.iter().map(String::as_str)
    }

    /// The criteria of a conditional create with these beside them, as `If-None-Exist` has them.
    pub fn if_none_exist_with(&self, criteria: &[Parameter]) -> Option<String> {
        let search = self.search.as_ref().filter(|_| self.interaction == Interaction::Create && self.conditional)?;
        let own: Vec<Parameter> = search.terms.iter().map(|touching| touching.term.write()).collect();
        Some(write_parameters(own.iter().chain(criteria)))
    }
}
