//! Offer constraints: what a framework says about agents before it is offered any.

use std::fmt;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use tepui_model::{Attribute, AttributeValue};

/// The largest program that an expression may become. Expressions match in time linear in the text whatever they are.
const MAX_PROGRAM_BYTES: usize = 64 << 10;
/// The longest expression.
const MAX_EXPRESSION_BYTES: usize = 1 << 10;

/// What there is to know about an agent beside its resources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentTraits {
    pub attributes: Arc<[Attribute]>,
    pub hostname: Arc<str>,
    pub region: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// It is in another region than the master.
    pub remote: bool,
}

/// Groups of which one must hold; a group holds if all of its constraints do.
#[derive(Debug, Clone)]
pub struct Constraints(Vec<Vec<Constraint>>);

#[derive(Debug, Clone)]
pub struct Constraint {
    pub selector: Selector,
    pub predicate: Predicate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The first attribute of that name.
    Attribute(Arc<str>),
    Hostname,
    Region,
    Zone,
}

#[derive(Debug, Clone)]
pub enum Predicate {
    Exists,
    NotExists,
    TextEquals(String),
    TextNotEquals(String),
    TextMatches(Expression),
    TextNotMatches(Expression),
}

/// A regular expression that has to match the whole text.
#[derive(Debug, Clone)]
pub struct Expression {
    whole: Regex,
    /// As it was given.
    text: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintsInvalid {
    #[error("an entry needs at least one group")]
    NoGroup,
    #[error("a group needs at least one attribute constraint")]
    EmptyGroup,
    #[error("the regular expression '{expression}' is invalid: {reason}")]
    Expression { expression: String, reason: String },
}

/// What a selector finds on an agent.
enum Found<'a> {
    Nothing,
    Text(&'a str),
    /// An attribute that is no text.
    Other,
}

impl Constraints {
    pub fn new(groups: Vec<Vec<Constraint>>) -> Result<Self, ConstraintsInvalid> {
        if groups.is_empty() {
            return Err(ConstraintsInvalid::NoGroup);
        }
        if groups.iter().any(Vec::is_empty) {
            return Err(ConstraintsInvalid::EmptyGroup);
        }
        Ok(Self(groups))
    }

    pub fn admit(&self, agent: &AgentTraits) -> bool {
        let mut groups = self.0.iter();
        groups.any(|group| first_failing(group, agent).is_none())
    }

    /// Of each group the first constraint that does not hold; none if the agent is admitted.
    pub fn failing(&self, agent: &AgentTraits) -> Vec<&Constraint> {
        let groups = self.0.iter().map(|group| first_failing(group, agent));
        groups.collect::<Option<_>>().unwrap_or_default()
    }
}

fn first_failing<'a>(group: &'a [Constraint], agent: &AgentTraits) -> Option<&'a Constraint> {
    group.iter().find(|constraint| !constraint.holds(agent))
}

/// What it asks for, as an agent must be: `the attribute rack must be 'r1'`.
impl fmt::Display for Constraint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Attribute(name) => write!(formatter, "the attribute {name}"),
            Selector::Hostname => write!(formatter, "the host's name"),
            Selector::Region => write!(formatter, "the region"),
            Selector::Zone => write!(formatter, "the zone"),
        }?;
        match &self.predicate {
            Predicate::Exists => write!(formatter, " must be there"),
            Predicate::NotExists => write!(formatter, " must not be there"),
            Predicate::TextEquals(text) => write!(formatter, " must be '{text}'"),
            Predicate::TextNotEquals(text) => write!(formatter, " must not be '{text}'"),
            Predicate::TextMatches(expression) => write!(formatter, " must match '{expression}'"),
            Predicate::TextNotMatches(expression) => {
                write!(formatter, " must not match '{expression}'")
            }
        }
    }
}

impl Constraint {
    fn holds(&self, agent: &AgentTraits) -> bool {
        let found = self.selector.look_at(agent);
        let text = |holds: &dyn Fn(&str) -> bool, absent: bool| match found {
            Found::Nothing => absent,
            Found::Text(text) => holds(text),
            // Mesos lets every test of a text pass what is no text.
            Found::Other => true,
        };
        match &self.predicate {
            Predicate::Exists => !matches!(found, Found::Nothing),
            Predicate::NotExists => matches!(found, Found::Nothing),
            Predicate::TextEquals(value) => text(&|text| text == value, false),
            Predicate::TextNotEquals(value) => text(&|text| text != value, true),
            Predicate::TextMatches(expression) => text(&|text| expression.matches(text), false),
            Predicate::TextNotMatches(expression) => text(&|text| !expression.matches(text), true),
        }
    }
}

impl Selector {
    fn look_at<'a>(&self, agent: &'a AgentTraits) -> Found<'a> {
        let text = |text: &'a Option<Arc<str>>| match text {
            Some(text) => Found::Text(text),
            None => Found::Nothing,
        };
        match self {
            Self::Hostname => Found::Text(&agent.hostname),
            Self::Region => text(&agent.region),
            Self::Zone => text(&agent.zone),
            Self::Attribute(name) => {
                let mut attributes = agent.attributes.iter();
                match attributes.find(|attribute| attribute.name == *name) {
                    None => Found::Nothing,
                    Some(attribute) => match &attribute.value {
                        AttributeValue::Text(text) => Found::Text(text),
                        _ => Found::Other,
                    },
                }
            }
        }
    }
}

impl Expression {
    pub fn new(expression: &str) -> Result<Self, ConstraintsInvalid> {
        let invalid = |reason: String| ConstraintsInvalid::Expression {
            expression: expression.chars().take(100).collect(),
            reason,
        };
        if expression.len() > MAX_EXPRESSION_BYTES {
            return Err(invalid(format!(
                "it has {} bytes, and {MAX_EXPRESSION_BYTES} are allowed",
                expression.len()
            )));
        }
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(MAX_PROGRAM_BYTES)
                .dfa_size_limit(MAX_PROGRAM_BYTES)
                .build()
        };
        // Alone first, so that `a)|(b` does not become valid by the brackets put around it.
        compile(expression)
            .and_then(|_| compile(&format!("\\A(?:{expression})\\z")))
            .map(|whole| Self {
                whole,
                text: expression.into(),
            })
            .map_err(|error| invalid(error.to_string()))
    }

    fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tepui_model::parse_attributes;

    fn agent(attributes: &str) -> AgentTraits {
        AgentTraits {
            attributes: parse_attributes(attributes).unwrap().into(),
            hostname: "node7.example".into(),
            region: Some("north".into()),
            ..AgentTraits::default()
        }
    }

    fn holds(selector: Selector, predicate: Predicate) -> bool {
        let constraint = Constraint {
            selector,
            predicate,
        };
        Constraints::new(vec![vec![constraint]])
            .unwrap()
            .admit(&agent("rack:r1;rack:r2;level:3"))
    }

    fn matches(expression: &str) -> Predicate {
        Predicate::TextMatches(Expression::new(expression).unwrap())
    }

    fn rack() -> Selector {
        Selector::Attribute("rack".into())
    }

    #[test]
    fn a_text_is_compared_with_the_first_attribute_of_that_name() {
        assert!(holds(rack(), Predicate::TextEquals("r1".to_owned())));
        assert!(!holds(rack(), Predicate::TextEquals("r2".to_owned())));
        assert!(holds(rack(), Predicate::TextNotEquals("r2".to_owned())));
        assert!(holds(rack(), Predicate::Exists));
        assert!(!holds(rack(), Predicate::NotExists));
    }

    #[test]
    fn an_expression_matches_the_whole_text_or_not_at_all() {
        assert!(holds(rack(), matches("r[0-9]")));
        assert!(!holds(rack(), matches("r")));
        assert!(!holds(rack(), matches("1")));
        // Leftmost alternatives must not hide longer ones.
        assert!(holds(rack(), matches("r|r1")));
        let not = Predicate::TextNotMatches(Expression::new("r").unwrap());
        assert!(holds(rack(), not));
    }

    #[test]
    fn what_is_absent_satisfies_only_the_negations() {
        let none = || Selector::Attribute("none".into());
        assert!(!holds(none(), Predicate::Exists));
        assert!(holds(none(), Predicate::NotExists));
        assert!(!holds(none(), Predicate::TextEquals("x".to_owned())));
        assert!(holds(none(), Predicate::TextNotEquals("x".to_owned())));
        assert!(!holds(none(), matches(".*")));
        assert!(!holds(Selector::Zone, Predicate::Exists));
    }

    #[test]
    fn what_is_no_text_passes_every_test_of_texts() {
        let level = || Selector::Attribute("level".into());
        assert!(holds(level(), Predicate::TextEquals("x".to_owned())));
        assert!(holds(level(), Predicate::TextNotEquals("3".to_owned())));
        assert!(holds(level(), matches("x")));
    }

    #[test]
    fn host_and_region_are_looked_at_like_attributes() {
        assert!(holds(Selector::Hostname, matches("node\\d+\\.example")));
        assert!(holds(
            Selector::Region,
            Predicate::TextEquals("north".to_owned())
        ));
    }

    #[test]
    fn one_group_of_several_is_enough_and_all_of_it_is_needed() {
        let equals = |name: &str, value: &str| Constraint {
            selector: Selector::Attribute(name.into()),
            predicate: Predicate::TextEquals(value.to_owned()),
        };
        let groups = vec![
            vec![equals("rack", "r1"), equals("disk", "ssd")],
            vec![equals("rack", "r2")],
        ];
        let constraints = Constraints::new(groups).unwrap();
        assert!(constraints.admit(&agent("rack:r1;disk:ssd")));
        assert!(!constraints.admit(&agent("rack:r1;disk:hdd")));
        let failing = |attributes: &str| {
            let failing = constraints.failing(&agent(attributes)).into_iter();
            failing.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            failing("rack:r1;disk:hdd"),
            [
                "the attribute disk must be 'ssd'",
                "the attribute rack must be 'r2'"
            ]
        );
        assert!(failing("rack:r2").is_empty());
        assert!(constraints.admit(&agent("rack:r2;disk:hdd")));
        assert!(Constraints::new(vec![]).is_err());
        assert!(Constraints::new(vec![vec![]]).is_err());
    }

    #[test]
    fn expressions_that_are_wrong_or_too_large_are_refused() {
        for expression in ["(", "a)|(b", "[a-z]{1000}{1000}", &"a".repeat(2000)] {
            assert!(Expression::new(expression).is_err(), "{expression}");
        }
        assert!(Expression::new("[a-z0-9.-]{1,63}").is_ok());
    }
}
