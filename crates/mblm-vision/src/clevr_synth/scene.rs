//! A scene: objects on the ground, and their relations.
//!
//! Object b is *left of* a if (b − a)·left > 0.2 in units of the ground; likewise for the other
//! directions. Objects of a scene are at least 0.4 apart along both axes, so in every pair one is
//! left and one right, one in front and one behind.

use super::attributes::{Attribute, Direction, Look, Value};
use super::camera::Camera;
use super::solids::Solid;
use super::vector::Vec3;

/// The distance from which on an object is in a direction.
const RELATED: f32 = 0.2;

/// The largest number of objects in a scene; `Objects` has 16 bits.
pub const MAX_OBJECTS: usize = 10;

/// An object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) look: Look,
    /// Its rotation about the vertical, in degrees.
    pub(super) rotation: f32,
    pub(super) solid: Solid,
}

/// The objects, their lights and the camera's position.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) camera: Camera,
    /// The positions of the key, fill and back lights.
    pub(super) lights: [Vec3; 3],
    pub(super) objects: Vec<Object>,
}

/// A set of objects: bit i is object i.
pub(super) type Objects = u16;

/// The subjects of questions: the looks of objects and their relations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    looks: Vec<Look>,
    /// By direction, then object: the objects in that direction.
    related: [Vec<Objects>; 4],
}

impl Graph {
    pub(super) fn of(scene: &Scene) -> Self {
        let related = Direction::ALL.map(|direction| {
            let axis = scene.camera.direction(direction);
            let along = |object: &Object| object.solid.center.dot(axis);
            scene
                .objects
                .iter()
                .map(|from| set(&scene.objects, |to| along(to) - along(from) > RELATED))
                .collect()
        });
        Self {
            looks: scene.objects.iter().map(|object| object.look).collect(),
            related,
        }
    }

    /// Builds a graph from looks as (size, color, material, shape) and, by direction, the numbers
    /// of the objects in that direction from each object. Returns None for an unknown name, an
    /// invalid number, or more than [`MAX_OBJECTS`].
    pub fn from_parts(looks: &[[&str; 4]], related: [&[Vec<usize>]; 4]) -> Option<Self> {
        let count = looks.len();
        if count > MAX_OBJECTS || related.iter().any(|lists| lists.len() != count) {
            return None;
        }
        let look = |names: &[&str; 4]| {
            let mut indices = [0; 4];
            for (attribute, name) in Attribute::ALL.into_iter().zip(names) {
                indices[attribute as usize] = attribute.value(name)?.index;
            }
            Some(Look(indices))
        };
        let mut sets: [Vec<Objects>; 4] = Default::default();
        for (set, lists) in sets.iter_mut().zip(related) {
            for list in lists {
                if list.iter().any(|index| *index >= count) {
                    return None;
                }
                set.push(list.iter().fold(0, |set, index| set | 1 << index));
            }
        }
        Some(Self {
            looks: looks.iter().map(look).collect::<Option<_>>()?,
            related: sets,
        })
    }

    /// Returns all objects.
    pub(super) fn all(&self) -> Objects {
        ((1u32 << self.looks.len()) - 1) as Objects
    }

    pub(super) fn look(&self, object: usize) -> Look {
        self.looks[object]
    }

    /// Returns the objects with this value.
    pub(super) fn having(&self, value: Value) -> Objects {
        set(&self.looks, |look| look.value(value.attribute) == value)
    }

    /// Returns the objects in a direction from one.
    pub(super) fn related(&self, direction: Direction, object: usize) -> Objects {
        self.related[direction as usize][object]
    }

    /// Returns the other objects with the same value as one.
    pub(super) fn same(&self, attribute: Attribute, object: usize) -> Objects {
        self.having(self.look(object).value(attribute)) & !(1 << object)
    }
}

/// Returns the set of indices for which `holds` is true.
fn set<T>(among: &[T], holds: impl Fn(&T) -> bool) -> Objects {
    let bit = |(index, one)| Objects::from(holds(one)) << index;
    among.iter().enumerate().map(bit).fold(0, |set, bit| set | bit)
}

/// Returns the numbers of the objects of a set, in order.
pub(super) fn members(set: Objects) -> impl Iterator<Item = usize> {
    let mut rest = set;
    std::iter::from_fn(move || {
        let next = (rest != 0).then(|| rest.trailing_zeros() as usize);
        rest &= rest.wrapping_sub(1);
        next
    })
}
