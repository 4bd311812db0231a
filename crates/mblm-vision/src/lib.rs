//! Images for the Multiscale Byte Language Model: data sets of images, questions about images, and
//! the baselines of byte models on them.
//!
//! | module | holds |
//! |---|---|
//! | [`image`] | conversion of image files to the bytes that a model reads |
//! | [`clevr`] | the data set `clevr`: questions about images |
//! | [`clevr_synth`] | a synthetic CLEVR: scenes, drawn images, questions |
//! | [`image_folder`] | the data set `pictures`: a folder of images |
//! | [`vqa`] | the accuracy of a model's answers |
//! | [`classifier`] | the CNN + LSTM baseline of byte models |
//!
//! With the feature `cli` the module `commands` adds the commands about images to a program.
//!
//! [`register`] registers the data sets under their names.

pub mod classifier;
pub mod clevr;
pub mod clevr_synth;
#[cfg(feature = "cli")]
pub mod commands;
pub mod image;
pub mod image_folder;
pub mod vqa;

#[cfg(test)]
mod testing;

use mblm::task::TaskRegistry;

/// Adds the tasks `clevr` and `pictures`.
///
/// ```
/// use mblm::task::TaskRegistry;
///
/// let mut tasks = TaskRegistry::default();
/// mblm_vision::register(&mut tasks);
/// assert_eq!(tasks.get("clevr")?.unit(), mblm::Unit::BYTE);
/// # Ok::<(), mblm::Error>(())
/// ```
pub fn register(tasks: &mut TaskRegistry) {
    tasks.add(clevr::ClevrTask);
    tasks.register("pictures", image_folder::open);
}
