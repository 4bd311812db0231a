//! `mblm vqa`: questions about pictures.

mod args;
mod classifier;
mod eval;
mod found;

pub(super) use eval::VqaEval;
