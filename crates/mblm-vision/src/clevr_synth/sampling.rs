//! Draws a scene as CLEVR does: attributes, positions and rotations are uniform, and ambiguous or
//! hidden objects are drawn again.
//!
//! Positions are uniform in [−3, 3)². Surfaces are at least 0.25 apart, and centers at least 0.4
//! along both of the camera's directions on the ground. At least 200 pixels of each object are
//! visible in a 480 × 320 image. After 50 failed positions in a row, or if an object is hidden, the
//! scene is drawn again with the same number of objects, so that this number stays uniform.

use super::attributes::{Attribute, Direction, Look};
use super::camera::{Camera, View};
use super::draws::Draws;
use super::raster::Raster;
use super::scene::{Object, Scene};
use super::solids::Solid;
use super::vector::vec3;

/// The smallest number of objects in a scene.
pub const MIN_OBJECTS: usize = 3;

/// The size of CLEVR's images, in which visibility is counted at every output size.
pub(super) const FULL: (usize, usize) = (480, 320);

const EXTENT: f32 = 3.0;
const DISTANCE: f32 = 0.25;
const MARGIN: f32 = 0.4;
const VISIBLE: usize = 200;
const PLACES: usize = 50;

/// The number of attempts with the same number of objects; then one less, so that an unlucky camera
/// cannot loop forever.
const ATTEMPTS: usize = 500;

/// The positions of CLEVR's lights, before each is moved by up to [`LIGHT_JITTER`] along each axis.
const LIGHTS: [[f32; 3]; 3] = [[6.45, -2.91, 4.26], [-4.67, -4.01, 3.01], [-1.11, 2.65, 5.87]];
const LIGHT_JITTER: f32 = 1.0;

/// Draws a scene of [`MIN_OBJECTS`] to `most` objects.
pub(super) fn draw(draws: &mut Draws, most: usize) -> Scene {
    let fewest = MIN_OBJECTS.min(most);
    let mut count = fewest + draws.below(most - fewest + 1);
    loop {
        for _ in 0..ATTEMPTS {
            if let Some(scene) = attempt(draws, count).filter(all_visible) {
                return scene;
            }
        }
        count = (count - 1).max(1);
    }
}

fn attempt(draws: &mut Draws, count: usize) -> Option<Scene> {
    let camera = Camera::draw(draws);
    let mut jitter = || draws.within(LIGHT_JITTER);
    let lights = LIGHTS.map(|[x, y, z]| vec3(x + jitter(), y + jitter(), z + jitter()));
    let mut objects = Vec::with_capacity(count);
    for _ in 0..count {
        let look = Look(Attribute::ALL.map(|attribute| draws.below(attribute.values().len())));
        let rotation = 360.0 * draws.unit();
        let object = (0..PLACES)
            .map(|_| Object {
                look,
                rotation,
                solid: Solid::new(look, draws.within(EXTENT), draws.within(EXTENT), rotation),
            })
            .find(|object| objects.iter().all(|other| are_apart(&camera, object, other)))?;
        objects.push(object);
    }
    Some(Scene {
        camera,
        lights,
        objects,
    })
}

fn are_apart(camera: &Camera, one: &Object, other: &Object) -> bool {
    let between = one.solid.center - other.solid.center;
    let distance = vec3(between.x, between.y, 0.0).norm();
    distance - one.solid.wide() - other.solid.wide() >= DISTANCE
        && [Direction::Right, Direction::Behind]
            .iter()
            .all(|direction| between.dot(camera.direction(*direction)).abs() >= MARGIN)
}

fn all_visible(scene: &Scene) -> bool {
    let view = View::new(scene.camera, FULL.0, FULL.1);
    let raster = Raster::new(&view, &scene.objects);
    raster
        .visible(scene.objects.len())
        .iter()
        .all(|pixels| *pixels >= VISIBLE)
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Graph, members};
    use super::*;

    #[test]
    fn scenes_are_unambiguous_and_of_every_size() {
        let mut sizes = [0; 11];
        for index in 0..120 {
            let scene = draw(&mut Draws::new(&[9, index]), 10);
            sizes[scene.objects.len()] += 1;
            let graph = Graph::of(&scene);
            for (i, one) in scene.objects.iter().enumerate() {
                for (forth, back) in [
                    (Direction::Left, Direction::Right),
                    (Direction::Front, Direction::Behind),
                ] {
                    let (there, here) = (graph.related(forth, i), graph.related(back, i));
                    assert_eq!((there & here, there | here), (0, graph.all() & !(1 << i)));
                    assert!(members(there).all(|j| graph.related(back, j) >> i & 1 == 1));
                }
                for other in &scene.objects[..i] {
                    let gap = one.solid.center - other.solid.center;
                    assert!(vec3(gap.x, gap.y, 0.0).norm() > one.solid.radius + other.solid.radius + 0.24);
                }
            }
        }
        assert_eq!(sizes[..3], [0; 3]);
        assert!(sizes[3..].iter().all(|count| *count >= 4), "{sizes:?}");
    }

    #[test]
    fn few_objects_if_asked() {
        for index in 0..20 {
            let most = 1 + index as usize % 4;
            let scene = draw(&mut Draws::new(&[index]), most);
            assert!((1..=most).contains(&scene.objects.len()));
        }
    }
}
