//! Types of questions, as accuracies of CLEVR are published: by the last function of a question's program.

use std::fmt;

use serde::Serialize;

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionType {
    /// Whether there is such a thing.
    Exist,
    /// How many there are.
    Count,
    /// Which of two numbers is larger, or whether they are equal.
    CompareInteger,
    /// A property of a thing.
    QueryAttribute,
    /// Whether two things share a property.
    CompareAttribute,
}

impl QuestionType {
    /// All types.
    pub const ALL: [Self; 5] = [
        Self::Exist,
        Self::Count,
        Self::CompareInteger,
        Self::QueryAttribute,
        Self::CompareAttribute,
    ];

    /// The type of a question whose program ends with `function`; `None` if no question of CLEVR ends so.
    pub fn of(function: &str) -> Option<Self> {
        Some(match function {
            "exist" => Self::Exist,
            "count" => Self::Count,
            "equal_integer" | "less_than" | "greater_than" => Self::CompareInteger,
            "query_color" | "query_material" | "query_size" | "query_shape" => Self::QueryAttribute,
            "equal_color" | "equal_material" | "equal_size" | "equal_shape" => Self::CompareAttribute,
            _ => return None,
        })
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exist => "exist",
            Self::Count => "count",
            Self::CompareInteger => "compare integer",
            Self::QueryAttribute => "query attribute",
            Self::CompareAttribute => "compare attribute",
        }
    }
}

impl fmt::Display for QuestionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
