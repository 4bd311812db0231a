//! The object in each pixel: every object is tested on the rays through its bounding rectangle; the
//! nearest hit stays.

use super::camera::View;
use super::scene::Object;

/// The value of pixels without an object, which show the ground.
pub(super) const GROUND: u8 = u8::MAX;

/// The object and the depth of each pixel, row by row.
pub(super) struct Raster {
    pub(super) ids: Vec<u8>,
    pub(super) depths: Vec<f32>,
}

impl Raster {
    pub(super) fn new(view: &View, objects: &[Object]) -> Self {
        let pixels = view.width * view.height;
        let (mut ids, mut depths) = (vec![GROUND; pixels], vec![f32::INFINITY; pixels]);
        for (id, object) in (0..).zip(objects) {
            let solid = &object.solid;
            let bounds = view.bounds(solid.corners().into_iter());
            for y in bounds.top..bounds.bottom {
                for x in bounds.left..bounds.right {
                    let ray = view.ray(x as f32 + 0.5, y as f32 + 0.5);
                    let pixel = y * view.width + x;
                    match solid.hit(view.camera.eye, ray) {
                        Some(depth) if depth < depths[pixel] => (ids[pixel], depths[pixel]) = (id, depth),
                        _ => {}
                    }
                }
            }
        }
        Self { ids, depths }
    }

    /// Returns the number of visible pixels of each of the first `count` objects.
    pub(super) fn visible(&self, count: usize) -> Vec<usize> {
        let mut counts = vec![0; count];
        for id in &self.ids {
            if let Some(count) = counts.get_mut(usize::from(*id)) {
                *count += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::draws::Draws;
    use super::super::sampling;
    use super::*;

    #[test]
    fn a_pixel_shows_the_nearest_of_all_objects() {
        let scene = sampling::draw(&mut Draws::new(&[4]), 10);
        let view = View::new(scene.camera, 48, 32);
        let raster = Raster::new(&view, &scene.objects);
        let mut seen = 0;
        for y in 0..32 {
            for x in 0..48 {
                let ray = view.ray(x as f32 + 0.5, y as f32 + 0.5);
                let hits = scene
                    .objects
                    .iter()
                    .map(|object| object.solid.hit(view.camera.eye, ray));
                let nearest = hits
                    .enumerate()
                    .filter_map(|(id, hit)| Some((id as u8, hit?)))
                    .min_by(|one, other| one.1.total_cmp(&other.1));
                let expected = nearest.map_or(GROUND, |(id, _)| id);
                assert_eq!(raster.ids[y * 48 + x], expected, "({x}, {y})");
                seen += usize::from(expected != GROUND);
            }
        }
        assert!(seen > 50, "{seen}");
    }
}
