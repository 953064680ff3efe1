//! Threat rules: what statements look like when somebody else writes them than the application does.
//!
//! Isolation never depends on them: they watch, and where a policy says so they refuse what the rewriter would let through to the
//! tenant's own rows. A rule sees a statement's form, once for each template and at each refusal, or what a login has done lately; none of them
//! sees a session or a value. One file each in [`threat`], whose doc comment is its manual; adding one is that file and a line in
//! [`RULES`].

pub mod behaviour;
pub mod classify;
pub mod compliance;
pub mod lately;
pub mod learned;
pub mod threat;

use std::fmt;

use pg_query::protobuf::ParseResult;
use pg_query::{Node, NodeEnum};

pub use crate::finding::{Action, Watch};
use crate::sql::parse;
use lately::Lately;
use learned::Familiarity;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// As policies, metrics and the audit log name it.
    pub name: &'static str,
    /// What it has found, in one sentence.
    pub found: &'static str,
    /// What it does where no policy says otherwise.
    pub mode: Watch,
    pub looks: Looks,
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
pub enum Looks {
    /// A statement as libpg_query reads it, literals replaced: once for each template.
    AtForm(fn(&Node) -> bool),
    /// What a login has done in the last minute, after each statement that failed.
    AtFailures(fn(&Lately) -> bool),
    /// A statement beside what its application is known to say, where a policy lists that: each time.
    AtStatement(fn(&Spoken<'_>) -> bool),
    /// Told by who sees it: the session.
    Elsewhere,
}

/// A statement of an application of which something was learned.
#[derive(Clone, Copy, Debug)]
pub struct Spoken<'l> {
    pub familiarity: Familiarity<'l>,
    /// What is new passes now, by the policy.
    pub is_learning: bool,
    /// Its application binds values, and it came as a simple query with constants in it.
    pub is_unbound: bool,
}

/// Every rule, in the order of [`Signs`].
pub static RULES: &[&Rule] = &[
    &threat::tautology::RULE,
    &threat::constant_condition::RULE,
    &threat::union_of_constants::RULE,
    &threat::union_of_catalog::RULE,
    &threat::conversion::RULE,
    &threat::slow_call::RULE,
    &threat::capability::RULE,
    &threat::letter::RULE,
    &threat::spelled_text::RULE,
    &threat::broken_text::RULE,
    &threat::failures::RULE,
    &threat::unknown_statement::RULE,
    &threat::grafted_statement::RULE,
    &threat::bound_values::RULE,
    &threat::broken_protocol::RULE,
    &threat::logins::RULE,
    &threat::canary::RULE,
    &threat::canary_row::RULE,
    &threat::behaviour::RULE,
    &threat::stacked_statements::RULE,
];

/// Rules that have found something.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Signs(u32);

impl Signs {
    /// Of a statement's form.
    pub fn of(tree: &ParseResult) -> Signs {
        let nodes = || tree.stmts.iter().filter_map(|raw| raw.stmt.as_deref());
        Signs::found(|rule| match rule.looks {
            // The statement itself, and what runs where it is about another.
            Looks::AtForm(looks) => {
                nodes().any(|node| looks(node) || !std::ptr::eq(query_of(node), node) && looks(query_of(node)))
            }
            Looks::AtFailures(_) | Looks::AtStatement(_) | Looks::Elsewhere => false,
        })
    }

    /// Of a statement beside what is known.
    pub fn of_statement(spoken: &Spoken<'_>) -> Signs {
        Signs::found(|rule| match rule.looks {
            Looks::AtStatement(looks) => looks(spoken),
            Looks::AtForm(_) | Looks::AtFailures(_) | Looks::Elsewhere => false,
        })
    }

    /// Of one rule.
    pub fn of_rule(rule: &'static Rule) -> Signs {
        Signs::found(|other| std::ptr::eq(rule, other))
    }

    /// Of what a login has done lately.
    pub fn of_failures(lately: &Lately) -> Signs {
        Signs::found(|rule| match rule.looks {
            Looks::AtFailures(looks) => looks(lately),
            Looks::AtForm(_) | Looks::AtStatement(_) | Looks::Elsewhere => false,
        })
    }

    fn found(finds: impl Fn(&Rule) -> bool) -> Signs {
        let bits = RULES.iter().enumerate().filter(|(_, rule)| finds(rule)).map(|(i, _)| 1 << i);
        Signs(bits.sum())
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn and(self, other: Signs) -> Signs {
        Signs(self.0 | other.0)
    }

    /// The rules, by number.
    pub fn rules(self) -> impl Iterator<Item = (usize, &'static Rule)> {
        RULES.iter().enumerate().filter(move |(i, _)| self.0 >> i & 1 == 1).map(|(i, rule)| (i, *rule))
    }
}

/// What runs where a statement prepares, explains, declares or copies it.
fn query_of(statement: &Node) -> &Node {
    let query = match &statement.node {
        Some(NodeEnum::PrepareStmt(prepare)) => &prepare.query,
        Some(NodeEnum::DeclareCursorStmt(declare)) => &declare.query,
        Some(NodeEnum::ExplainStmt(explain)) => &explain.query,
        Some(NodeEnum::CopyStmt(copy)) => &copy.query,
        Some(NodeEnum::CreateTableAsStmt(create)) => &create.query,
        _ => &None, // tidy: it is the query itself
    };
    query.as_deref().map_or(statement, query_of)
}

impl fmt::Debug for Signs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rules().map(|(_, rule)| rule.name)).finish()
    }
}

/// Of a text that is refused, as far as it can be read.
pub fn signs_of(text: &str) -> Signs {
    if parse::is_deep(text) {
        return Signs::default();
    }
    parse::parse(text).map(|tree| Signs::of(&tree)).unwrap_or_default()
}

/// What each rule does for somebody, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes([(Watch, Action); 32]);

impl Modes {
    /// Where no policy says otherwise, and then what these say: a later one is more exact, or was meant so.
    pub fn of(policies: impl Iterator<Item = (usize, Watch, Action)>) -> Modes {
        let mut modes = [(Watch::Off, Action::Deny); 32];
        RULES.iter().zip(&mut modes).for_each(|(rule, mode)| mode.0 = rule.mode);
        policies.for_each(|(rule, mode, action)| modes[rule] = (mode, action));
        Modes(modes)
    }

    pub fn of_rule(&self, rule: usize) -> Watch {
        self.0[rule].0
    }

    /// What comes of it where the rule enforces.
    pub fn action_of(&self, rule: usize) -> Action {
        self.0[rule].1
    }
}

/// The rule of that name.
pub fn named(name: &str) -> Option<usize> {
    RULES.iter().position(|rule| rule.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_names_of_their_own_and_room() {
        let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        names.sort_unstable();
        names.dedup();
        assert!(names.len() == RULES.len() && RULES.len() <= 32);
        assert!(RULES.iter().enumerate().all(|(i, rule)| named(rule.name) == Some(i)));
    }
}
