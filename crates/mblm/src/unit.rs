//! What a model predicts one by one: what its losses are means over, and what its speed counts.

/// The unit of losses and speeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The name of one, such as `byte`.
    pub singular: &'static str,
    /// The name of several, such as `bytes`.
    pub plural: &'static str,
    /// What of a batch is one unit.
    pub counted: Counted,
}

/// What of a batch is counted as a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Each id of each sample.
    Ids,
    /// Each sample.
    Samples,
}

impl Unit {
    /// A byte, an id of a sample: the unit of all models of this library.
    pub const BYTE: Self = Self {
        singular: "byte",
        plural: "bytes",
        counted: Counted::Ids,
    };
}

impl Default for Unit {
    fn default() -> Self {
        Self::BYTE
    }
}
