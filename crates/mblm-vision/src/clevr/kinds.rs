//! Types of questions by the last function of their program, as in published accuracies of CLEVR.

use std::fmt;

use serde::Serialize;

/// The subject of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionType {
    /// Whether an object exists.
    Exist,
    /// The number of objects.
    Count,
    /// The larger of two numbers, or their equality.
    CompareInteger,
    /// An attribute of an object.
    QueryAttribute,
    /// Whether two objects share an attribute.
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

    /// Returns the type of a question whose program ends with `function`; `None` if no question of
    /// CLEVR does.
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

    /// Returns the name for people.
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
