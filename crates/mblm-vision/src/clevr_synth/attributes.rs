//! The appearance of objects: four attributes with CLEVR's values.
//!
//! | attribute | values |
//! |---|---|
//! | size | large (radius 0.7), small (0.35) |
//! | color | blue, brown, cyan, gray, green, purple, red, yellow |
//! | material | metal, rubber |
//! | shape | cube, cylinder, sphere |

use serde::{Deserialize, Serialize};

/// An attribute of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Large or small.
    Size,
    /// One of eight colors.
    Color,
    /// Metal or rubber.
    Material,
    /// Cube, cylinder or sphere.
    Shape,
}

impl Attribute {
    /// All attributes, in the order of a noun phrase: "large red metal cube".
    pub const ALL: [Self; 4] = [Self::Size, Self::Color, Self::Material, Self::Shape];

    /// Returns the name as in the names of functions: `query_color`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Color => "color",
            Self::Material => "material",
            Self::Shape => "shape",
        }
    }

    /// Returns the names of its values.
    pub fn values(self) -> &'static [&'static str] {
        match self {
            Self::Size => &["large", "small"],
            Self::Color => &["blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow"],
            Self::Material => &["metal", "rubber"],
            Self::Shape => &["cube", "cylinder", "sphere"],
        }
    }

    /// Returns the value of this name.
    pub fn value(self, name: &str) -> Option<Value> {
        let index = self.values().iter().position(|value| *value == name)?;
        Some(Value { attribute: self, index })
    }
}

/// A value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// The attribute.
    pub attribute: Attribute,
    /// The index of the value, below the number of values.
    pub(super) index: usize,
}

impl Value {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        self.attribute.values()[self.index]
    }
}

/// A direction on the ground as seen by the camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the left.
    Left,
    /// To the right.
    Right,
    /// Towards the camera.
    Front,
    /// Away from the camera.
    Behind,
}

impl Direction {
    /// All four directions.
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Front, Self::Behind];

    /// Returns the name as in programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
            Self::Front => "front",
            Self::Behind => "behind",
        }
    }
}

/// The four values of an object, in the order of [`Attribute::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look(pub(super) [usize; 4]);

/// The finish of an object's surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Cube,
    Cylinder,
    Sphere,
}

impl Look {
    /// Returns the value of an attribute.
    pub fn value(self, attribute: Attribute) -> Value {
        Value {
            attribute,
            index: self.0[attribute as usize],
        }
    }

    pub(super) fn shape(self) -> Shape {
        match self.0[Attribute::Shape as usize] {
            0 => Shape::Cube,
            1 => Shape::Cylinder,
            _ => Shape::Sphere,
        }
    }

    pub(super) fn is_metal(self) -> bool {
        self.0[Attribute::Material as usize] == 0
    }

    /// Returns half of the height; for a cube such that its diagonal is as wide as a sphere.
    pub(super) fn radius(self) -> f32 {
        let radius = if self.0[Attribute::Size as usize] == 0 {
            0.7
        } else {
            0.35
        };
        match self.shape() {
            Shape::Cube => radius * std::f32::consts::FRAC_1_SQRT_2,
            Shape::Cylinder | Shape::Sphere => radius,
        }
    }

    /// Returns CLEVR's color, each channel 0…255.
    pub(super) fn rgb(self) -> [f32; 3] {
        const COLORS: [[f32; 3]; 8] = [
            [42.0, 75.0, 215.0],
            [129.0, 74.0, 25.0],
            [41.0, 208.0, 208.0],
            [87.0, 87.0, 87.0],
            [29.0, 105.0, 20.0],
            [129.0, 38.0, 192.0],
            [173.0, 35.0, 35.0],
            [255.0, 238.0, 51.0],
        ];
        COLORS[self.0[Attribute::Color as usize]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        for attribute in Attribute::ALL {
            for (index, name) in attribute.values().iter().enumerate() {
                let value = attribute.value(name).unwrap();
                assert_eq!((value.index, value.name()), (index, *name));
            }
            assert_eq!(attribute.value("pink"), None);
        }
        let names: usize = Attribute::ALL.iter().map(|attribute| attribute.values().len()).sum();
        assert_eq!(names, 15);
    }

    #[test]
    fn a_look_keeps_the_order_of_all_attributes() {
        let look = Look([1, 6, 0, 2]);
        let names = Attribute::ALL.map(|attribute| look.value(attribute).name());
        assert_eq!(names, ["small", "red", "metal", "sphere"]);
        assert!(look.is_metal() && look.shape() == Shape::Sphere && look.radius() == 0.35);
    }
}
