//! Writes the data set: images in parallel, scenes and questions in order.
//!
//! An image and its questions depend on (seed, split, image) and the options alone, so the files do
//! not depend on the number of threads.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use super::camera::View;
use super::draws::Draws;
use super::family::MAX_RELATIONS;
use super::painter::Painter;
use super::question::{Asker, Question};
use super::records::{self, Place};
use super::sampling;
use super::scene::{Graph, MAX_OBJECTS, Scene};
use crate::clevr::QuestionType;
use mblm::checkpoint::tree::NewTree;
use mblm::{Error, Result};

/// The largest number of questions per image.
pub const MAX_QUESTIONS: usize = 50;

/// The number of images that are made together.
const CHUNK: usize = 128;

/// The number of scenes drawn for an image until one yields enough questions.
const SCENES: u64 = 20;

/// The options of the data set.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of images of the split `train`.
    pub train_images: usize,
    /// The number of images of the split `val`.
    pub val_images: usize,
    /// The number of questions per image, at most [`MAX_QUESTIONS`].
    pub questions_per_image: usize,
    /// The seed of all draws.
    pub seed: u64,
    /// Whether images have 120 × 80 instead of 480 × 320 pixels; scenes and questions are the same.
    pub small: bool,
    /// The largest number of objects in a scene, 3 to [`MAX_OBJECTS`].
    pub max_objects: usize,
    /// The largest number of relations that lead to an object, 0 to [`MAX_RELATIONS`]; with 0,
    /// objects are described by their own attributes.
    pub max_relations: usize,
}

/// The written data set.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The number of images of the split `train`.
    pub train_images: usize,
    /// The number of images of the split `val`.
    pub val_images: usize,
    /// The number of questions of both splits.
    pub questions: usize,
    /// The size of all images in bytes.
    pub image_bytes: u64,
    /// The number of questions by type and answer.
    pub answers: BTreeMap<QuestionType, BTreeMap<String, usize>>,
}

impl Summary {
    /// Returns the number of questions of each type.
    pub fn by_type(&self) -> BTreeMap<QuestionType, usize> {
        let sum = |(kind, answers): (&QuestionType, &BTreeMap<String, usize>)| (*kind, answers.values().sum());
        self.answers.iter().map(sum).collect()
    }
}

/// Writes the folder `path`, which appears when it is complete and replaces an existing one. Its
/// parent must exist.
///
/// `progress` is called now and then with the number of finished images. If it stops the work,
/// nothing is left and the result is None.
///
/// # Errors
/// Invalid options, or a file that cannot be written: the message names it.
pub fn write(
    path: &Path,
    options: &Options,
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Summary>> {
    options.check()?;
    let writing = Writing::new(path, options)?;
    let mut summary = Summary {
        train_images: options.train_images,
        val_images: options.val_images,
        ..Summary::default()
    };
    let mut done = 0;
    for (split, images) in [("train", options.train_images), ("val", options.val_images)] {
        let mut seen = |of_split| progress(done + of_split);
        if writing.split(split, images, &mut summary, &mut seen)?.is_break() {
            return Ok(None);
        }
        done += images;
    }
    writing.tree.finish()?;
    Ok(Some(summary))
}

impl Options {
    fn check(&self) -> Result<()> {
        let range = |what: &str, value: usize, low: usize, high: usize| match (low..=high).contains(&value) {
            true => Ok(()),
            false => Err(Error::input(format!("{what}: expected {low} to {high}, found {value}"))),
        };
        // names of images have six digits
        range("images", self.train_images, 1, 1_000_000)?;
        range("validation images", self.val_images, 1, 1_000_000)?;
        range("questions per image", self.questions_per_image, 1, MAX_QUESTIONS)?;
        range("objects", self.max_objects, sampling::MIN_OBJECTS, MAX_OBJECTS)?;
        range("relations", self.max_relations, 0, MAX_RELATIONS)
    }
}

struct Writing<'a> {
    options: &'a Options,
    tree: NewTree,
    painter: Painter,
    asker: Asker,
}

/// The contributions of one image to the files of a split.
struct Made {
    image_bytes: usize,
    scene: String,
    questions: Vec<String>,
    answers: Vec<(QuestionType, String)>,
}

impl<'a> Writing<'a> {
    fn new(path: &Path, options: &'a Options) -> Result<Self> {
        let tree = NewTree::new(path)?;
        for folder in ["images/train", "images/val", "questions", "scenes"] {
            tree.folder(folder)?;
        }
        let (width, height) = sampling::FULL;
        let painter = match options.small {
            true => Painter::new(width / 4, height / 4, 3),
            false => Painter::new(width, height, 2),
        };
        Ok(Self {
            options,
            tree,
            painter,
            asker: Asker::new(options.max_relations),
        })
    }

    fn split(
        &self,
        split: &'static str,
        images: usize,
        summary: &mut Summary,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut scenes = self.tree.file(&format!("scenes/CLEVR_{split}_scenes.json"))?;
        let mut questions = self.tree.file(&format!("questions/CLEVR_{split}_questions.json"))?;
        let info = self.info(split).to_string();
        scenes.write(format!("{{\"info\": {info}, \"scenes\": [").as_bytes())?;
        questions.write(format!("{{\"info\": {info}, \"questions\": [").as_bytes())?;
        for first in (0..images).step_by(CHUNK) {
            if progress(first).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let chunk = first..(first + CHUNK).min(images);
            let made: Vec<Result<Made>> = chunk
                .into_par_iter()
                .map(|image| self.image(Place { split, image }))
                .collect();
            for (image, made) in (first..).zip(made) {
                let made = made?;
                let separator = if image == 0 { "\n" } else { ",\n" };
                scenes.write(format!("{separator}{}", made.scene).as_bytes())?;
                questions.write(format!("{separator}{}", made.questions.join(",\n")).as_bytes())?;
                summary.questions += made.questions.len();
                summary.image_bytes += made.image_bytes as u64;
                for (kind, answer) in made.answers {
                    *summary.answers.entry(kind).or_default().entry(answer).or_default() += 1;
                }
            }
        }
        for mut file in [scenes, questions] {
            file.write(b"\n]}\n")?;
            file.finish()?;
        }
        Ok(progress(images))
    }

    /// Returns the origin of the files; without a date, so that they are the same each time.
    fn info(&self, split: &str) -> serde_json::Value {
        serde_json::json!({
            "split": split,
            "version": env!("CARGO_PKG_VERSION"),
            "generator": "mblm data clevr-synth",
            "seed": self.options.seed,
            "max_objects": self.options.max_objects,
            "max_relations": self.options.max_relations,
        })
    }

    fn image(&self, place: Place) -> Result<Made> {
        let (scene, graph, asked) = self.scene(place)?;
        let pixels = self.painter.paint(&scene);
        let (width, height) = (self.painter.width(), self.painter.height());
        let name = format!("images/{}/{}", place.split, place.file_name());
        let file = png(&pixels, width, height)
            .map_err(|error| Error::input(format!("{name}: cannot encode the image: {error}")))?;
        self.tree.put(&name, &file)?;
        let encoded = |error: serde_json::Error| Error::input(format!("{name}: cannot encode what it shows: {error}"));
        let view = View::new(scene.camera, width, height);
        let first = place.image * self.options.questions_per_image;
        let questions = (first..)
            .zip(&asked)
            .map(|(index, question)| records::question(place, index, question).map_err(encoded));
        Ok(Made {
            image_bytes: file.len(),
            scene: records::scene(place, &scene, &graph, &view).map_err(encoded)?,
            questions: questions.collect::<Result<_>>()?,
            answers: asked.iter().map(|one| (one.question_type, one.answer.name())).collect(),
        })
    }

    /// Draws a scene and its questions.
    fn scene(&self, place: Place) -> Result<(Scene, Graph, Vec<Question>)> {
        let split = u64::from(place.split == "val");
        for attempt in 0..SCENES {
            let mut draws = Draws::new(&[self.options.seed, split, place.image as u64, attempt]);
            let scene = sampling::draw(&mut draws, self.options.max_objects);
            let graph = Graph::of(&scene);
            let questions = self.asker.ask(&mut draws, &graph, self.options.questions_per_image);
            if questions.len() == self.options.questions_per_image {
                return Ok((scene, graph, questions));
            }
        }
        Err(Error::input(format!(
            "{}: found no scene with {} different questions; ask fewer per image, or allow more objects",
            place.file_name(),
            self.options.questions_per_image
        )))
    }
}

/// Encodes pixels of four bytes as a PNG file, with fast compression.
fn png(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::with_capacity(pixels.len() / 4);
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file)
}
