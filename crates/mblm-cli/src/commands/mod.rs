//! One file a command.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod needle;
pub(crate) mod plan;
pub(crate) mod plot;
pub(crate) mod score;
pub(crate) mod train;
pub(crate) mod verify;
pub(crate) mod vqa;
