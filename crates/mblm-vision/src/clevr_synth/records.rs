//! The JSON of scenes and questions, in CLEVR's format.

use serde::Serialize;

use super::attributes::{Attribute, Direction};
use super::camera::View;
use super::program::Step;
use super::question::Question;
use super::scene::{Graph, Object, Scene, members};
use super::vector::{Vec3, vec3};

/// The position of an image in the data set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// `train` or `val`.
    pub(super) split: &'static str,
    pub(super) image: usize,
}

impl Place {
    pub(super) fn file_name(self) -> String {
        format!("CLEVR_{}_{:06}.png", self.split, self.image)
    }
}

#[derive(Serialize)]
struct SceneRecord {
    split: &'static str,
    image_index: usize,
    image_filename: String,
    objects: Vec<ObjectRecord>,
    relationships: ByDirection<Vec<Vec<usize>>>,
    directions: Directions,
}

#[derive(Serialize)]
struct ObjectRecord {
    shape: &'static str,
    size: &'static str,
    material: &'static str,
    color: &'static str,
    #[serde(rename = "3d_coords")]
    coords: [f32; 3],
    /// Column, row and depth of the center.
    pixel_coords: (i64, i64, f32),
    rotation: f32,
}

#[derive(Serialize)]
struct ByDirection<T> {
    right: T,
    behind: T,
    front: T,
    left: T,
}

impl<T> ByDirection<T> {
    fn new(of: impl Fn(Direction) -> T) -> Self {
        Self {
            right: of(Direction::Right),
            behind: of(Direction::Behind),
            front: of(Direction::Front),
            left: of(Direction::Left),
        }
    }
}

#[derive(Serialize)]
struct Directions {
    #[serde(flatten)]
    ground: ByDirection<[f32; 3]>,
    above: [f32; 3],
    below: [f32; 3],
}

#[derive(Serialize)]
struct QuestionRecord<'a> {
    image_index: usize,
    program: Vec<StepRecord<'a>>,
    question_index: usize,
    image_filename: String,
    question_family_index: usize,
    split: &'static str,
    answer: String,
    question: &'a str,
}

#[derive(Serialize)]
struct StepRecord<'a> {
    inputs: &'a [usize],
    function: String,
    value_inputs: Vec<&'static str>,
}

fn array(v: Vec3) -> [f32; 3] {
    [v.x, v.y, v.z]
}

/// Returns a scene's JSON; `view` is the image's.
pub(super) fn scene(place: Place, scene: &Scene, graph: &Graph, view: &View) -> serde_json::Result<String> {
    let object = |object: &Object| {
        let name = |attribute| object.look.value(attribute).name();
        let (x, y, depth) = view.project(object.solid.center);
        ObjectRecord {
            shape: name(Attribute::Shape),
            size: name(Attribute::Size),
            material: name(Attribute::Material),
            color: name(Attribute::Color),
            coords: array(object.solid.center),
            pixel_coords: (x.round() as i64, y.round() as i64, depth),
            rotation: object.rotation,
        }
    };
    let related = |direction| {
        let of = |index| members(graph.related(direction, index)).collect();
        (0..scene.objects.len()).map(of).collect()
    };
    serde_json::to_string(&SceneRecord {
        split: place.split,
        image_index: place.image,
        image_filename: place.file_name(),
        objects: scene.objects.iter().map(object).collect(),
        relationships: ByDirection::new(related),
        directions: Directions {
            ground: ByDirection::new(|direction| array(scene.camera.direction(direction))),
            above: array(vec3(0.0, 0.0, 1.0)),
            below: array(vec3(0.0, 0.0, -1.0)),
        },
    })
}

/// Returns a question's JSON; `index` counts all questions of the split.
pub(super) fn question<'a>(place: Place, index: usize, question: &'a Question) -> serde_json::Result<String> {
    let step = |step: &'a Step| {
        let (function, argument) = step.function().name();
        StepRecord {
            inputs: step.inputs(),
            function,
            value_inputs: argument.into_iter().collect(),
        }
    };
    serde_json::to_string(&QuestionRecord {
        image_index: place.image,
        program: question.program.iter().map(step).collect(),
        question_index: index,
        image_filename: place.file_name(),
        question_family_index: question.family,
        split: place.split,
        answer: question.answer.name(),
        question: &question.text,
    })
}
