//! A synthetic CLEVR: images of simple objects and questions about them, in the layout of the CLEVR
//! data set (Johnson et al. 2017, arXiv 1612.06890), for use without that data set.
//!
//! ```text
//! (seed, split, image) ──▶ sampling ──▶ Scene ──▶ image ──▶ images/{train,val}/CLEVR_*_NNNNNN.png
//!                                         ├─────▶ records ──▶ scenes/CLEVR_{train,val}_scenes.json
//!                                         └──▶ Graph ──▶ question ──▶ questions/CLEVR_{train,val}_questions.json
//!                                                        family, phrase, program, text
//! ```
//!
//! A small ray caster draws the images (`camera`, `solids`, `raster`, `light`, `image`), with exact
//! arithmetic and `libm` alone: the same seed gives the same bytes on every machine.

mod attributes;
mod camera;
mod cones;
mod draws;
mod family;
mod light;
mod painter;
mod phrase;
mod program;
mod question;
mod raster;
mod records;
mod sampling;
mod scene;
mod solids;
mod text;
mod vector;
mod write;

pub use attributes::{Attribute, Direction, Look, Value};
pub use family::MAX_RELATIONS;
pub use program::{Answer, Function, Step, execute};
pub use sampling::MIN_OBJECTS;
pub use scene::{Graph, MAX_OBJECTS};
pub use write::{MAX_QUESTIONS, Options, Summary, write};

#[cfg(test)]
mod tests;
