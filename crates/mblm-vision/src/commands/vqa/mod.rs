//! `mblm vqa`: questions about images.

mod args;
mod classifier;
mod eval;
mod found;

pub(super) use eval::VqaEval;
