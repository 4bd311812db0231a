//! Light: three round lamps with soft shadows, and ambient light that is weaker near objects.
//!
//! A lamp at distance d lights a surface by power · cos θ / (1 + d²/FALLOFF) · v, where v is the
//! visible share of the lamp's sample points. A ball of radius r at distance d and height h over a
//! point hides about (h/d) · (r/d)² of the ambient light.
//!
//! Per image tile the objects that can shade its ground are stored, so most of the ground needs no
//! rays.

use super::camera::View;
use super::cones::Cone;
use super::scene::{Objects, Scene, members};
use super::solids::Solid;
use super::vector::{Vec3, vec3};

/// The side of a tile in pixels.
pub(super) const TILE: usize = 8;

const FALLOFF: f32 = 60.0;

/// Power, radius and number of sample points of the key, fill and back lamps.
const LAMPS: [(f32, f32, usize); 3] = [(0.78, 0.55, 16), (0.30, 0.8, 10), (0.36, 0.8, 10)];

/// The ambient light.
const AMBIENT: f32 = 0.30;

/// The distance in radii from which on an object hides no ambient light.
const NEAR: f32 = 4.0;

/// Ten times the height above a surface at which rays to a lamp begin.
const ABOVE: f32 = 1e-2;

struct Lamp {
    position: Vec3,
    power: f32,
    radius: f32,
    /// Sample points on its disc, which faces the middle of the ground.
    samples: Vec<Vec3>,
}

impl Lamp {
    fn new(position: Vec3, (power, radius, count): (f32, f32, usize)) -> Self {
        let ahead = (-position).unit();
        let across = ahead.cross(vec3(0.0, 0.0, 1.0)).unit();
        let along = across.cross(ahead);
        // Vogel's spiral: equal areas, golden angle
        let sample = |index: usize| {
            let out = radius * ((index as f32 + 0.5) / count as f32).sqrt();
            let angle = 2.399_963_1 * index as f32;
            position + across * (out * libm::cosf(angle)) + along * (out * libm::sinf(angle))
        };
        Self {
            position,
            power,
            radius,
            samples: (0..count).map(sample).collect(),
        }
    }

    /// Returns its light on a surface without shadows.
    fn on(&self, point: Vec3, normal: Vec3) -> f32 {
        let way = self.position - point;
        let squared = way.dot(way);
        let cosine = normal.dot(way) / squared.sqrt();
        self.power * cosine.max(0.0) / (1.0 + squared / FALLOFF)
    }
}

/// All lights of a scene.
pub(super) struct Lights {
    lamps: [Lamp; 3],
    pub(super) solids: Vec<Solid>,
    /// By object: the other objects that may be between it and each lamp.
    between: Vec<[Objects; 3]>,
}

/// The objects that may shade a point from each lamp, and the objects near it.
pub(super) type Shading = [Objects; 4];

/// By tile: the objects that may shade its ground from each lamp, and the objects near it.
pub(super) struct Tiles {
    pub(super) columns: usize,
    pub(super) rows: usize,
    pub(super) shading: Vec<Shading>,
}

impl Lights {
    pub(super) fn new(scene: &Scene) -> Self {
        let [key, fill, back] = scene.lights;
        let [as_key, as_fill, as_back] = LAMPS;
        let solids: Vec<Solid> = scene.objects.iter().map(|object| object.solid).collect();
        let lamps = [
            Lamp::new(key, as_key),
            Lamp::new(fill, as_fill),
            Lamp::new(back, as_back),
        ];
        let between = |(own, solid): (usize, &Solid)| {
            lamps.each_ref().map(|lamp| {
                let cone = Cone::new(solid.center, solid.around + ABOVE, lamp.position, lamp.radius);
                let others = solids
                    .iter()
                    .enumerate()
                    .filter(|(index, other)| *index != own && cone.may_hold(other));
                others.fold(0, |set, (index, _)| set | 1 << index)
            })
        };
        Self {
            between: solids.iter().enumerate().map(between).collect(),
            lamps,
            solids,
        }
    }

    /// Returns the objects' shadows on the ground, as bounding rectangles of tiles.
    pub(super) fn tiles(&self, view: &View) -> Tiles {
        let (columns, rows) = (view.width.div_ceil(TILE), view.height.div_ceil(TILE));
        let mut shading = vec![[0; 4]; columns * rows];
        for (index, solid) in self.solids.iter().enumerate() {
            let mut mark = |what: usize, points: &mut dyn Iterator<Item = Vec3>| {
                let bounds = view.bounds(points);
                for row in bounds.top / TILE..bounds.bottom.div_ceil(TILE) {
                    for column in bounds.left / TILE..bounds.right.div_ceil(TILE) {
                        shading[row * columns + column][what] |= 1 << index;
                    }
                }
            };
            let corners = solid.corners();
            for (what, lamp) in self.lamps.iter().enumerate() {
                // the shadow of a convex body is within the hull of the shadows of its box's
                // corners
                let shadows = lamp.samples.iter().flat_map(|from| {
                    corners.iter().map(move |corner| {
                        let height = corner.z.max(0.0);
                        *from + (*corner - *from) * (from.z / (from.z - height).max(0.1))
                    })
                });
                mark(what, &mut shadows.map(|point| vec3(point.x, point.y, 0.0)));
            }
            let reach = NEAR * solid.radius;
            let square = [(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)];
            let center = vec3(solid.center.x, solid.center.y, 0.0);
            mark(
                3,
                &mut square
                    .into_iter()
                    .map(|(x, y)| center + vec3(x * reach, y * reach, 0.0)),
            );
        }
        Tiles { columns, rows, shading }
    }

    /// Narrows a tile's shading to the objects that can really shade the ground between these
    /// corners.
    pub(super) fn reaching(&self, shading: Shading, corners: [Vec3; 4]) -> Shading {
        /// A margin beyond rounding errors: a factor of the radius, and a length.
        const ROOM: (f32, f32) = (1.01, 1e-3);
        let middle = corners.into_iter().fold(Vec3::default(), |sum, corner| sum + corner) * 0.25;
        let far = corners
            .map(|corner| (corner - middle).norm())
            .into_iter()
            .fold(0.0, f32::max);
        let spread = far * ROOM.0 + ROOM.1;
        let [key, fill, back, near] = shading;
        let shaded_from = |index: usize, objects: Objects| {
            let lamp = &self.lamps[index];
            let cone = Cone::new(middle, spread, lamp.position, lamp.radius);
            self.those(objects, |solid| cone.may_hold(solid))
        };
        let near = self.those(near, |solid| {
            (solid.center - middle).norm() < NEAR * solid.radius + spread
        });
        [shaded_from(0, key), shaded_from(1, fill), shaded_from(2, back), near]
    }

    /// Returns the light on the ground, given the objects that may shade it.
    pub(super) fn on_ground(&self, point: Vec3, [key, fill, back, near]: Shading) -> f32 {
        let up = vec3(0.0, 0.0, 1.0);
        let mut light = AMBIENT * self.openness(point, near);
        for (lamp, objects) in self.lamps.iter().zip([key, fill, back]) {
            light += lamp.on(point, up) * self.seen(lamp, point, objects);
        }
        light
    }

    /// Returns the share of a lamp that is visible from a point past the objects.
    fn seen(&self, lamp: &Lamp, point: Vec3, objects: Objects) -> f32 {
        let cone = Cone::new(point, 0.0, lamp.position, lamp.radius);
        let objects = self.those(objects, |solid| cone.may_hold(solid));
        if objects == 0 {
            return 1.0;
        }
        let is_hidden = |end: &&Vec3| members(objects).any(|index| self.solids[index].stands_between(point, **end));
        let hidden = lamp.samples.iter().filter(is_hidden).count();
        1.0 - hidden as f32 / lamp.samples.len() as f32
    }

    /// Returns the objects of a set for which `holds` is true.
    fn those(&self, objects: Objects, holds: impl Fn(&Solid) -> bool) -> Objects {
        let held = members(objects).filter(|index| holds(&self.solids[*index]));
        held.fold(0, |set, index| set | 1 << index)
    }

    /// Returns the diffuse light on a surface and its highlight towards a viewer: the sum over
    /// lamps of light · cosᵏ of the angle between the normal and the halfway vector.
    pub(super) fn on_object(&self, point: Vec3, normal: Vec3, to_eye: Vec3, own: usize, power: u32) -> (f32, f32) {
        let (mut diffuse, mut shine) = (self.even(point, normal), 0.0);
        for (lamp, others) in self.lamps.iter().zip(self.between[own]) {
            let direct = lamp.on(point, normal);
            if direct > 0.0 {
                let lit = direct * self.seen(lamp, point + normal * (0.1 * ABOVE), others);
                diffuse += lit;
                let half = ((lamp.position - point).unit() + to_eye).unit();
                shine += lit * power_of(half.dot(normal).max(0.0), power);
            }
        }
        (diffuse, shine)
    }

    /// Returns the diffuse light without shadows, for reflections.
    pub(super) fn reflected(&self, point: Vec3, normal: Vec3) -> f32 {
        self.lamps.iter().map(|lamp| lamp.on(point, normal)).sum::<f32>() * 0.8 + self.even(point, normal)
    }

    /// Returns how much of the lamps, as soft discs, a mirror with this direction of reflection
    /// shows.
    pub(super) fn mirrored(&self, point: Vec3, way: Vec3) -> f32 {
        let disc = |lamp: &Lamp| {
            let to_lamp = (lamp.position - point).unit();
            lamp.power * power_of(way.dot(to_lamp).max(0.0), 64)
        };
        self.lamps.iter().map(disc).sum()
    }

    /// Returns the ambient light; surfaces that face the ground receive the light it reflects.
    fn even(&self, point: Vec3, normal: Vec3) -> f32 {
        let low = 0.55 + 0.45 * (point.z / 0.5).min(1.0);
        AMBIENT * (0.55 + 0.45 * normal.z) * if normal.z < 0.5 { low } else { 1.0 }
    }

    fn openness(&self, point: Vec3, near: Objects) -> f32 {
        members(near).fold(1.0, |open, index| {
            let solid = &self.solids[index];
            let way = solid.center - point;
            let distance = way.norm();
            let share = solid.radius / distance;
            let hidden = way.z / distance * share * share - 1.0 / (NEAR * NEAR * NEAR);
            open * (1.0 - hidden.clamp(0.0, 0.9))
        })
    }
}

/// Returns xⁿ by squaring: the same on every machine.
fn power_of(x: f32, mut n: u32) -> f32 {
    let (mut base, mut result) = (x, 1.0);
    while n > 0 {
        if n & 1 == 1 {
            result *= base;
        }
        base *= base;
        n >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::draws::Draws;
    use super::super::sampling;
    use super::*;

    #[test]
    fn tiles_hold_all_that_shades_their_ground() {
        for seed in 0..4 {
            let scene = sampling::draw(&mut Draws::new(&[seed]), 10);
            let lights = Lights::new(&scene);
            let view = View::new(scene.camera, 480, 320);
            let tiles = lights.tiles(&view);
            let all = (1u32 << scene.objects.len()) as Objects - 1;
            let mut shaded = 0;
            for y in (0..320).step_by(5) {
                for x in (0..480).step_by(5) {
                    let ray = view.ray(x as f32 + 0.5, y as f32 + 0.5);
                    let point = view.camera.eye + ray * (-view.camera.eye.z / ray.z);
                    let mask = tiles.shading[y / TILE * tiles.columns + x / TILE];
                    let (quick, full) = (lights.on_ground(point, mask), lights.on_ground(point, [all; 4]));
                    assert!((quick - full).abs() < 1e-5, "({x}, {y}): {quick} {full}");
                    shaded += usize::from(full < lights.on_ground(point, [0; 4]) - 0.05);
                }
            }
            assert!(shaded > 50, "{shaded}");
        }
    }

    #[test]
    fn powers_are_powers() {
        for (x, n) in [(0.5f32, 3u32), (0.9, 64), (0.0, 5), (1.0, 100)] {
            assert!((power_of(x, n) - x.powi(n as i32)).abs() < 1e-5);
        }
    }
}
