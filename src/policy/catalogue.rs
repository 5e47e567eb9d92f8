//! A policy made ready to decide by: scopes numbered, implications followed, expressions kept.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::routes::Routes;
use super::{Policy, own_scopes};
use crate::error::{Error, Violations};
use crate::scope::expression::{BadExpression, Expression, Resolve, Resolved};
use crate::scope::{SCOPE_BYTES_MAX, ScopePattern, ScopeSet};

/// How many parsed expressions are kept. Callers use a few; more than this is someone's mistake, and
/// then all are forgotten and those in use come back at once.
const EXPRESSIONS_MAX: usize = 1_024;

/// A policy that was found right, beside what is derived from it.
#[derive(Debug)]
pub struct Catalogue {
    policy: Policy,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    routes: Routes,
    expressions: RwLock<HashMap<Box<str>, Arc<Expression>>>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    resolved: Resolved,
    /// The scope itself and all that it implies.
    closure: ScopeSet,
}

impl Catalogue {
    /// Validates and compiles a policy; `prefix` is put before field paths.
    pub fn compile(policy: Policy, prefix: &str) -> Result<Self, Error> {
        policy.validate(prefix)?;
        let definitions: Vec<_> = own_scopes().into_iter().chain(policy.scopes.clone()).collect();
        let by_name: HashMap<_, _> = definitions
            .iter()
            .enumerate()
            .map(|(index, scope)| (scope.name.clone(), index))
            .collect();
        let implied = |index: usize| -> Vec<usize> {
            definitions[index]
                .implies
                .iter()
                .filter_map(|name| by_name.get(name).copied())
                .collect()
        };
        let closures = Closures::of(definitions.len(), &implied);
        let mut entries = Vec::with_capacity(definitions.len());
        for (index, scope) in definitions.iter().enumerate() {
            entries.push(Entry {
                name: scope.name.clone(),
                resolved: Resolved { index, strict: scope.strict, cost: scope.cost },
                closure: closures.0[index].clone().unwrap_or_default(),
            });
        }
        let (routes, expressions) = (Routes::default(), RwLock::default());
        let mut catalogue = Self { policy, entries, by_name, routes, expressions };
        let mut violations = Violations::default();
        let rules = &catalogue.policy.rules;
        catalogue.routes = Routes::compile(rules, &catalogue, prefix, &mut violations);
        violations.finish()?;
        Ok(catalogue)
    }

    /// The document.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What gateways ask for each route.
    #[must_use]
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// What holding these scopes amounts to, implications followed. Names that the catalogue lacks
    /// amount to nothing.
    #[must_use]
    pub fn held<'a>(&self, patterns: impl IntoIterator<Item = &'a ScopePattern>) -> ScopeSet {
        let mut held = ScopeSet::empty(self.entries.len());
        for pattern in patterns {
            if pattern.stem().is_none() {
                if let Some(index) = self.by_name.get(pattern.as_str()) {
                    held.insert_all(&self.entries[*index].closure);
                }
                continue;
            }
            for entry in self.entries.iter().filter(|entry| pattern.covers(&entry.name)) {
                held.insert_all(&entry.closure);
            }
        }
        held
    }

    /// Whether a strict scope is among what is held.
    #[must_use]
    pub fn is_any_strict(&self, held: &ScopeSet) -> bool {
        self.strictness(held).any(|is_strict| is_strict)
    }

    /// Whether all that is held is strict, and there is something.
    #[must_use]
    pub fn is_all_strict(&self, held: &ScopeSet) -> bool {
        self.strictness(held).min().unwrap_or(false)
    }

    fn strictness(&self, held: &ScopeSet) -> impl Iterator<Item = bool> {
        let held = self.entries.iter().filter(|entry| held.contains(entry.resolved.index));
        held.map(|entry| entry.resolved.strict)
    }

    /// Whether a key may be given this scope: it is in the catalogue, or something in it lies below.
    #[must_use]
    pub fn knows(&self, pattern: &ScopePattern) -> bool {
        match pattern.stem() {
            None => self.by_name.contains_key(pattern.as_str()),
            Some(_) => self.entries.iter().any(|entry| pattern.covers(&entry.name)),
        }
    }

    /// The number of a scope of latchkey's own or of the policy.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A required scope, parsed once and kept.
    pub fn expression(&self, text: &str) -> Result<Arc<Expression>, BadExpression> {
        let kept =
            self.expressions.read().unwrap_or_else(PoisonError::into_inner).get(text).cloned();
        if let Some(expression) = kept {
            return Ok(expression);
        }
        let expression = Arc::new(Expression::parse(text, self)?);
        let mut kept = self.expressions.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= EXPRESSIONS_MAX {
            kept.clear();
        }
        kept.insert(text.into(), Arc::clone(&expression));
        Ok(expression)
    }
}

impl Resolve for Catalogue {
    fn resolve(&self, scope: &str) -> Option<Resolved> {
        self.by_name.get(scope).map(|index| self.entries[*index].resolved)
    }

    fn nearest(&self, scope: &str) -> Option<&str> {
        nearest(scope, self.entries.iter().map(|entry| entry.name.as_str()))
    }
}

/// What each scope contains, itself and all that it implies; each worked out once.
struct Closures(Vec<Option<ScopeSet>>);

impl Closures {
    fn of(scopes: usize, implied: &impl Fn(usize) -> Vec<usize>) -> Self {
        let mut closures = Self(vec![None; scopes]);
        for start in 0..scopes {
            closures.work_out(start, implied);
        }
        closures
    }

    /// Depth-first with a stack of our own; a validated policy has no loops.
    fn work_out(&mut self, start: usize, implied: &impl Fn(usize) -> Vec<usize>) {
        let mut open = vec![start];
        while let Some(&index) = open.last() {
            let implied = implied(index);
            let before = open.len();
            open.extend(implied.iter().filter(|next| self.0[**next].is_none()));
            if open.len() > before {
                continue;
            }
            let mut closure = ScopeSet::empty(self.0.len());
            closure.insert(index);
            for next in implied {
                if let Some(contained) = &self.0[next] {
                    closure.insert_all(contained);
                }
            }
            self.0[index] = Some(closure);
            open.pop();
        }
    }
}

/// The name most like the one given, when one is like it at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name there can be: not worth comparing.
    if name.len() > SCOPE_BYTES_MAX {
        return None;
    }
    let tolerance = |candidate: &str| (candidate.len() / 3).max(2);
    known
        .filter(|candidate| name.len().abs_diff(candidate.len()) <= tolerance(candidate))
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ScopeDefinition;

    fn catalogue() -> Catalogue {
        Catalogue::compile(Policy::default(), "").unwrap()
    }

    fn held(catalogue: &Catalogue, names: &[&str]) -> ScopeSet {
        let patterns: Vec<_> =
            names.iter().map(|name| ScopePattern::parse(name).unwrap()).collect();
        catalogue.held(&patterns)
    }

    #[test]
    fn implications_are_followed_to_the_end() {
        let catalogue = catalogue();
        let read = catalogue.expression("memory:read").unwrap();
        assert!(read.is_met_by(&held(&catalogue, &["memory:admin"])));
        assert!(read.is_met_by(&held(&catalogue, &["memory:readonly"])));
        let write = catalogue.expression("memory:write").unwrap();
        assert!(!write.is_met_by(&held(&catalogue, &["memory:readonly", "memory:read"])));
    }

    #[test]
    fn a_pattern_holds_what_is_below_it_and_latchkeys_own_only_by_name() {
        let catalogue = catalogue();
        let memory = held(&catalogue, &["memory:*"]);
        assert!(catalogue.expression("memory:admin").unwrap().is_met_by(&memory));
        assert!(!catalogue.expression("latchkey:authorize").unwrap().is_met_by(&memory));
        let own = held(&catalogue, &["latchkey:admin"]);
        assert!(catalogue.expression("latchkey:nodes.read").unwrap().is_met_by(&own));
        assert!(!catalogue.expression("memory:read").unwrap().is_met_by(&own));
    }

    #[test]
    fn all_is_strict_when_nothing_that_is_held_is_not() {
        let scope = |name: &str, implies: &[&str], strict| ScopeDefinition {
            name: name.into(),
            description: String::new(),
            implies: implies.iter().map(|name| (*name).to_owned()).collect(),
            strict,
            cost: 1,
        };
        let scopes = vec![
            scope("bank:pay", &["bank:sign"], true),
            scope("bank:sign", &[], true),
            scope("bank:audit", &["memory:read"], true),
            scope("memory:read", &[], false),
        ];
        let catalogue = Catalogue::compile(Policy { scopes, ..Policy::default() }, "").unwrap();
        let is_strict = |names: &[&str]| catalogue.is_all_strict(&held(&catalogue, names));
        assert!(is_strict(&["bank:pay"]) && is_strict(&["bank:pay", "bank:sign"]));
        for other in [&["bank:*"][..], &["bank:audit"], &["bank:pay", "memory:read"]] {
            assert!(!is_strict(other), "{other:?}");
        }
        // Whoever holds nothing can still be told who that is.
        for none in [&[][..], &["gone:scope"]] {
            assert!(!is_strict(none), "{none:?}");
        }
        assert!(!is_strict(&["latchkey:admin"]), "it implies what is not strict");
    }

    #[test]
    fn an_unknown_scope_gets_the_nearest_name() {
        let error = catalogue().expression("memory:reed").unwrap_err();
        assert!(error.to_string().ends_with("did you mean `memory:read`?"), "{error}");
    }

    #[test]
    fn strictness_and_cost_follow_the_scopes_named() {
        let catalogue = catalogue();
        let expression = catalogue.expression("memory:write or memory:admin").unwrap();
        assert!(expression.strict);
        assert_eq!(expression.cost, 1);
        assert_eq!(catalogue.expression("memory:write").unwrap().cost, 0);
    }
}
