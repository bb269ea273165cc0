//! What is visible only in part → the obligations under which it may be permitted.
//! Hides which requests can be narrowed and how: by criteria, by types, by a check of each result.
//! INVARIANT: whatever is open or hidden ends in an obligation that the caller enforces, or in a denial.
//! INVARIANT: what only counts, or is answered later, is never left to a check of results.
//! Source: shared/RULES "What is asked and what is known"; FHIR http.html, search.html; Bulk Data Access 2.0.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::decide::{Asker, Code, Open, Question};
use crate::engine::filter::{Filter, Visible, Whole};
use crate::engine::residual::Formula;
use crate::fhir::definitions::ResourceType;
use crate::fhir::operation::{AccessRole, EvidenceKind, Interaction, Narrowing, Operation};
use crate::fhir::url::{Parameter, write_parameters};

/// The search that makes a partial permit safe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrowed {
    /// What is visible is the union of these queries, each to be added to the request's own.
    pub any_of: Arc<[String]>,
    /// Whether that is all that is visible.
    pub is_complete: bool,
    /// The whole request rewritten, where one request can carry it.
    pub url: Option<String>,
    /// The header of a conditional create, rewritten.
    pub if_none_exist: Option<String>,
}

/// What an operation's questions came to.
#[derive(Default)]
pub(super) struct Accounts<'q> {
    /// the types of primary accesses that are permitted
    pub(super) visible: Vec<ResourceType>,
    pub(super) open: Vec<(&'q Question<'q>, &'q Open)>,
    pub(super) denied: Vec<(&'q Question<'q>, Denied)>,
}

/// Why a question is denied, and by which policies.
pub(super) type Denied = (Code, BTreeSet<String>);

/// What a permit needs beside.
#[derive(Default)]
pub(super) struct Needs {
    pub(super) filter: Option<Narrowed>,
    pub(super) check_results: bool,
}

impl Asker<'_> {
    /// The obligations of what is open or denied; or the worst of it.
    pub(super) fn narrowed(&self, operation: &Operation, accounts: Accounts<'_>) -> Result<Needs, Denied> {
        let Accounts { visible, open, denied } = accounts;
        let mut needs = Needs::default();
        let (included, open): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(question, _)| is_included(operation, question));
        let (left_out, denied): (Vec<_>, Vec<_>) =
            denied.into_iter().partition(|(question, _)| is_included(operation, question));
        let includes_less = !included.is_empty() || !left_out.is_empty();
        let (primary, others): (Vec<_>, Vec<_>) = denied.into_iter().partition(|(question, _)| is_found(question));
        if let Some(worst) = worst(others.into_iter().map(|(_, denied)| denied)) {
            // the primary access may be denied for a worse reason
            return Err(primary.into_iter().map(|(_, denied)| denied).fold(worst, worse));
        }
        let hidden = worst(primary.iter().map(|(_, denied)| denied.clone()));
        let (open, stuck): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|(question, _)| can_be_narrowed(operation, question));
        let lacking = |open: &[(&Question<'_>, &Open)]| {
            worst(open.iter().map(|(question, _)| (question.lacking, BTreeSet::new())))
        };
        if let Some(denied) = lacking(&stuck) {
            let is_all_hidden = visible.is_empty() && open.is_empty();
            let hidden = hidden.filter(|_| operation.states_types || is_all_hidden);
            return Err(hidden.map_or(denied.clone(), |hidden| worse(hidden, denied)));
        }
        match (operation.narrowing(), hidden) {
            (_, None) if open.is_empty() => {}
            (Narrowing::Criteria(of), None) => self.by_criteria(operation, of, &open, &mut needs)?,
            (Narrowing::Types | Narrowing::Export | Narrowing::None, Some(hidden)) if operation.states_types => {
                return Err(hidden);
            }
            (Narrowing::Criteria(_), Some(hidden)) => return Err(hidden),
            (how, hidden) => {
                if visible.is_empty() && open.is_empty() {
                    return Err(hidden.unwrap_or((Code::NoPermit, BTreeSet::new())));
                }
                self.by_types(operation, how, visible, &open, &mut needs)?;
            }
        }
        if includes_less {
            needs.check_results = true;
        }
        if needs.check_results && !self.enforces.check_results {
            return Err((self.lacking_check(operation), BTreeSet::new()));
        }
        Ok(needs)
    }

    /// A search of one type: by what the policies leave open of it.
    fn by_criteria(
        &self,
        operation: &Operation,
        of: ResourceType,
        open: &[(&Question<'_>, &Open)],
        needs: &mut Needs,
    ) -> Result<(), Denied> {
        let unenforceable = || Err((Code::Unenforceable, BTreeSet::new()));
        if !self.enforces.filter {
            return unenforceable();
        }
        let visible = open.iter().map(|(question, _)| self.visible(operation, question));
        let Some(visible) = visible.collect::<Option<Vec<Arc<Visible>>>>() else { return unenforceable() };
        let Some((question, _)) = open.first() else { return unenforceable() };
        let visible = match visible.as_slice() {
            [one] => Arc::clone(one),
            several => Arc::new(Visible::of(Formula::all(several.iter().map(|visible| visible.formula.clone())))),
        };
        let known = self.known(operation, question, of);
        let may_check = self.enforces.check_results && operation.is_checkable();
        let Some(filter) = visible.filter(&known, may_check) else { return unenforceable() };
        needs.check_results = filter.is_checked;
        needs.filter = (!filter.any_of.is_empty()).then(|| self.narrowed_by(operation, filter));
        Ok(())
    }

    /// A search of several types: by `_type`, or by a check of each result.
    fn by_types(
        &self,
        operation: &Operation,
        how: Narrowing,
        visible: Vec<ResourceType>,
        open: &[(&Question<'_>, &Open)],
        needs: &mut Needs,
    ) -> Result<(), Denied> {
        let may_check = self.enforces.check_results && operation.is_checkable();
        let may_narrow = self.enforces.filter && how != Narrowing::None;
        let unenforceable = || Err((self.lacking_check(operation), BTreeSet::new()));
        let mut types = visible;
        let mut filters = Vec::new();
        let mut is_complete = true;
        if how == Narrowing::Export {
            for (question, _) in open {
                match self.type_filters(operation, question) {
                    Some((of, found, is_all)) => {
                        is_complete &= is_all;
                        types.push(of);
                        filters.extend(found);
                    }
                    // it is asked for by its name
                    None if operation.states_types => return unenforceable(),
                    None => is_complete = false,
                }
            }
        } else if !open.is_empty() {
            needs.check_results = may_check;
            return if may_check { Ok(()) } else { unenforceable() };
        }
        types.sort();
        types.dedup();
        if !may_narrow || types.is_empty() {
            needs.check_results = may_check;
            return if may_check { Ok(()) } else { unenforceable() };
        }
        let names: Vec<&str> = types.iter().map(|of| of.as_str()).collect();
        let types = Parameter { name: "_type".to_owned(), value: names.join(",") };
        let filters = filters.into_iter().map(|value| Parameter { name: "_typeFilter".to_owned(), value });
        let types = (!operation.states_types).then_some(types);
        let criteria: Vec<Parameter> = types.into_iter().chain(filters).collect();
        let url = operation.url_with(&criteria);
        if url.len() > self.snapshot.request.url_bytes_max {
            return unenforceable();
        }
        let any_of = Arc::new([write_parameters(&criteria)]);
        needs.filter = Some(Narrowed { any_of, is_complete, url: Some(url), if_none_exist: None });
        Ok(())
    }

    /// What an export may bring of a type, as `_typeFilter`s, and whether that is all that is visible.
    fn type_filters(
        &self,
        operation: &Operation,
        question: &Question<'_>,
    ) -> Option<(ResourceType, Vec<String>, bool)> {
        let of = self.snapshot.definitions.resource_type(question.of)?;
        let visible = self.visible(operation, question)?;
        let Filter { queries, is_complete, .. } = visible.filter(&self.known(operation, question, of), false)?;
        let filters = queries.iter().map(|query| format!("{of}?{query}"));
        Some((of, filters.collect(), *is_complete))
    }

    fn narrowed_by(&self, operation: &Operation, filter: &Filter) -> Narrowed {
        let Filter { any_of, queries, is_complete, whole, .. } = filter;
        if operation.conditional {
            // criteria stand in one place and cannot be a union: the first part is what an owner's record is found by
            let (criteria, is_whole) = match (whole, any_of.first()) {
                (Some(Whole::Type(criteria)), _) => (criteria.as_slice(), any_of.len() == 1),
                (_, Some(first)) => (first.as_slice(), any_of.len() == 1),
                (_, None) => (Default::default(), true),
            };
            let if_none_exist = operation.if_none_exist_with(criteria);
            return Narrowed {
                any_of: Arc::new([write_parameters(criteria)]),
                is_complete: *is_complete && is_whole,
                url: if_none_exist.is_none().then(|| operation.url_with(criteria)),
                if_none_exist,
            };
        }
        let whole = match whole {
            Some(Whole::Compartment(..)) if !self.snapshot.request.searches_compartments => {
                // the union in another way there is not: its first part, which is what an owner's record is found by
                let first = any_of.first().map(Vec::as_slice).unwrap_or_default();
                return Narrowed {
                    any_of: Arc::new([write_parameters(first)]),
                    is_complete: false,
                    url: Some(operation.url_with(first)),
                    if_none_exist: None,
                };
            }
            whole => whole,
        };
        Narrowed {
            url: match whole {
                Some(Whole::Type(criteria)) => Some(operation.url_with(criteria)),
                Some(Whole::Compartment(compartment, id, criteria)) => operation.url_within(*compartment, id, criteria),
                None => None,
            },
            any_of: Arc::clone(queries),
            is_complete: *is_complete,
            if_none_exist: None,
        }
    }

    /// What to say to a caller that does not check results: with the resource, the check is made here.
    fn lacking_check(&self, operation: &Operation) -> Code {
        match operation.interaction {
            Interaction::Read => Code::NeedsResource,
            _ => Code::Unenforceable,
        }
    }
}

/// Whether what a question leaves open can be taken out of the request, or out of its results.
fn can_be_narrowed(operation: &Operation, question: &Question<'_>) -> bool {
    let is_many = is_many(question);
    match (question.access.role, operation.narrowing()) {
        (AccessRole::Primary | AccessRole::Condition, Narrowing::Criteria(of)) => is_many && question.of == of.as_str(),
        (AccessRole::Primary, Narrowing::Types | Narrowing::Export) => is_many,
        (AccessRole::Primary, Narrowing::None) => operation.is_checkable(),
        (_, _) => false,
    }
}

/// Whether what a question denies may still be left out of what the operation finds.
pub(super) fn may_be_left_out(operation: &Operation, question: &Question<'_>) -> bool {
    is_included(operation, question) || (is_found(question) && !operation.states_types)
}

/// What an include brings into the results of a search.
fn is_included(operation: &Operation, question: &Question<'_>) -> bool {
    let searches = matches!(
        operation.interaction,
        Interaction::SearchType | Interaction::SearchSystem | Interaction::SearchCompartment
    );
    searches && question.access.role == AccessRole::Include
}

/// What the operation itself finds, of which some may be left out.
pub(super) fn is_found(question: &Question<'_>) -> bool {
    question.access.role == AccessRole::Primary && is_many(question)
}

/// Whether it is about resources of which some may be left out.
fn is_many(question: &Question<'_>) -> bool {
    matches!(question.access.evidence, EvidenceKind::Many | EvidenceKind::Versions)
}

fn worst(denied: impl Iterator<Item = Denied>) -> Option<Denied> {
    denied.reduce(worse)
}

/// Of several denials the one whose mend would help most.
pub(super) fn worse(one: Denied, other: Denied) -> Denied {
    if one.0 >= other.0 { one } else { other }
}
