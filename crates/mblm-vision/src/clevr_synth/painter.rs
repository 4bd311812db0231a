//! Draws a scene: ground, objects with diffuse light, highlights and reflections, smooth edges.
//!
//! A pixel takes one ray through its middle; a pixel beside another object takes a grid of rays.
//! Unshaded ground is computed at the corners of 8 × 8 tiles and interpolated. Light is linear
//! until a table converts it to sRGB bytes at the end.

use super::attributes::Look;
use super::camera::View;
use super::light::{Lights, Shading, TILE, Tiles};
use super::raster::{GROUND, Raster};
use super::scene::Scene;
use super::vector::{Vec3, vec3};

/// The share of light that the ground reflects.
const GROUND_ALBEDO: Vec3 = vec3(0.40, 0.395, 0.385);

/// The number of entries in the table of sRGB bytes.
const SHADES: usize = 4096;

/// The data shared by all images.
pub(super) struct Painter {
    width: usize,
    height: usize,
    /// The rays along a side of a pixel at an edge.
    rays: usize,
    /// The sRGB byte of linear light i / (SHADES − 1).
    srgb: Vec<u8>,
    /// The linear albedo of each byte of a color.
    linear: Vec<f32>,
}

impl Painter {
    pub(super) fn new(width: usize, height: usize, rays: usize) -> Self {
        let byte = |index: usize| {
            let light = index as f32 / (SHADES - 1) as f32;
            let shade = match light <= 0.003_130_8 {
                true => 12.92 * light,
                false => 1.055 * libm::powf(light, 1.0 / 2.4) - 0.055,
            };
            (255.0 * shade + 0.5) as u8
        };
        Self {
            width,
            height,
            rays,
            srgb: (0..SHADES).map(byte).collect(),
            // flatter than sRGB's curve, as CLEVR's objects appear lighter than their nominal
            // colors
            linear: (0..256).map(|byte| libm::powf(byte as f32 / 255.0, 1.7)).collect(),
        }
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Returns the pixels of a scene, row by row, four bytes each.
    pub(super) fn paint(&self, scene: &Scene) -> Vec<u8> {
        let view = View::new(scene.camera, self.width, self.height);
        let lights = Lights::new(scene);
        let albedos = scene.objects.iter().map(|object| self.albedo(object.look)).collect();
        let painting = Painting {
            painter: self,
            scene,
            raster: Raster::new(&view, &scene.objects),
            tiles: lights.tiles(&view),
            view,
            lights,
            albedos,
        };
        painting.pixels()
    }

    fn albedo(&self, look: Look) -> Vec3 {
        let [red, green, blue] = look.rgb().map(|byte| self.linear[byte as usize]);
        vec3(red, green, blue)
    }

    /// Returns the bytes of a pixel.
    fn bytes(&self, light: Vec3) -> [u8; 4] {
        let byte = |part: f32| {
            let shade = (part * (SHADES - 1) as f32 + 0.5).min((SHADES - 1) as f32);
            self.srgb[shade as usize] // casts of floats clamp below
        };
        [byte(light.x), byte(light.y), byte(light.z), 255]
    }
}

struct Painting<'a> {
    painter: &'a Painter,
    scene: &'a Scene,
    view: View,
    raster: Raster,
    lights: Lights,
    tiles: Tiles,
    albedos: Vec<Vec3>,
}

/// The precomputed light of a tile's ground.
struct Tile {
    /// The objects that may shade it.
    shading: Shading,
    /// Light on unshaded ground at its corners: upper left, upper right, lower left, lower right.
    corners: [f32; 4],
}

impl Painting<'_> {
    fn pixels(&self) -> Vec<u8> {
        let (width, height) = (self.view.width, self.view.height);
        let mut pixels = vec![255; 4 * width * height];
        let corners = self.corner_light();
        for row in 0..self.tiles.rows {
            for column in 0..self.tiles.columns {
                let at = |down: usize, right: usize| corners[(row + down) * (self.tiles.columns + 1) + column + right];
                let tile = Tile {
                    shading: self.shading(row, column),
                    corners: [at(0, 0), at(0, 1), at(1, 0), at(1, 1)],
                };
                for y in row * TILE..((row + 1) * TILE).min(height) {
                    for x in column * TILE..((column + 1) * TILE).min(width) {
                        let bytes = self.painter.bytes(self.pixel(x, y, &tile));
                        pixels[4 * (y * width + x)..][..4].copy_from_slice(&bytes);
                    }
                }
            }
        }
        pixels
    }

    /// Returns the light of a pixel.
    fn pixel(&self, x: usize, y: usize, tile: &Tile) -> Vec3 {
        if self.is_edge(x, y) {
            return self.blend(x, y, tile.shading);
        }
        let pixel = y * self.view.width + x;
        let ray = self.view.ray(x as f32 + 0.5, y as f32 + 0.5);
        match self.raster.ids[pixel] {
            GROUND if tile.shading == [0; 4] => GROUND_ALBEDO * between(tile.corners, x % TILE, y % TILE),
            GROUND => self.ground(ray, tile.shading),
            id => self.object(usize::from(id), ray, self.raster.depths[pixel]),
        }
    }

    /// Returns the objects that may shade the ground of a tile: its shadow rectangles, narrowed by
    /// its corners.
    fn shading(&self, row: usize, column: usize) -> Shading {
        let shading = self.tiles.shading[row * self.tiles.columns + column];
        let corner = |down: usize, right: usize| {
            let (x, y) = ((column + right) * TILE, (row + down) * TILE);
            self.ground_point(self.view.ray(x as f32, y as f32))
        };
        match [corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1)] {
            [Some(a), Some(b), Some(c), Some(d)] if shading != [0; 4] => self.lights.reaching(shading, [a, b, c, d]),
            _ => shading,
        }
    }

    /// Returns the light on unshaded ground at the corners of all tiles.
    fn corner_light(&self) -> Vec<f32> {
        let across = self.tiles.columns + 1;
        let light = |index: usize| {
            let (x, y) = ((index % across * TILE) as f32, (index / across * TILE) as f32);
            match self.ground_point(self.view.ray(x, y)) {
                Some(point) => self.lights.on_ground(point, [0; 4]),
                None => 0.0,
            }
        };
        (0..across * (self.tiles.rows + 1)).map(light).collect()
    }

    /// Returns whether a neighboring pixel shows another object.
    #[inline]
    fn is_edge(&self, x: usize, y: usize) -> bool {
        let (width, ids) = (self.view.width, &self.raster.ids);
        let pixel = y * width + x;
        let id = ids[pixel];
        (x > 0 && ids[pixel - 1] != id)
            || (x + 1 < width && ids[pixel + 1] != id)
            || (y > 0 && ids[pixel - width] != id)
            || (y + 1 < self.view.height && ids[pixel + width] != id)
    }

    /// Returns the mean over a grid of rays through a pixel; each may hit any object that the
    /// neighboring pixels show.
    fn blend(&self, x: usize, y: usize, shading: Shading) -> Vec3 {
        let (width, height) = (self.view.width, self.view.height);
        let mut candidates = 0u16;
        for y in y.saturating_sub(1)..(y + 2).min(height) {
            for x in x.saturating_sub(1)..(x + 2).min(width) {
                let id = self.raster.ids[y * width + x];
                if id != GROUND {
                    candidates |= 1 << id;
                }
            }
        }
        let rays = self.painter.rays;
        let mut sum = Vec3::default();
        for index in 0..rays * rays {
            let place = |step: usize| (step as f32 + 0.5) / rays as f32;
            let ray = self
                .view
                .ray(x as f32 + place(index % rays), y as f32 + place(index / rays));
            sum = sum
                + match self.nearest(self.view.camera.eye, ray, candidates) {
                    Some((id, depth)) => self.object(id, ray, depth),
                    None => self.ground(ray, shading),
                };
        }
        sum * (1.0 / (rays * rays) as f32)
    }

    /// Returns the first object that a ray hits, and the ray parameter.
    fn nearest(&self, origin: Vec3, ray: Vec3, among: u16) -> Option<(usize, f32)> {
        super::scene::members(among)
            .map(|id| (id, &self.lights.solids[id]))
            .filter(|(_, solid)| solid.is_ahead(origin, ray))
            .filter_map(|(id, solid)| Some((id, solid.hit(origin, ray)?)))
            .min_by(|one, other| one.1.total_cmp(&other.1))
    }

    fn ground_point(&self, ray: Vec3) -> Option<Vec3> {
        let eye = self.view.camera.eye;
        let depth = -eye.z / ray.z;
        (ray.z < -1e-3).then(|| eye + ray * depth)
    }

    fn ground(&self, ray: Vec3, shading: Shading) -> Vec3 {
        match self.ground_point(ray) {
            Some(point) => GROUND_ALBEDO * self.lights.on_ground(point, shading),
            None => Vec3::default(),
        }
    }

    /// Returns the light from an object's point at a depth along a ray.
    fn object(&self, id: usize, ray: Vec3, depth: f32) -> Vec3 {
        let object = &self.scene.objects[id];
        let albedo = self.albedos[id];
        let point = self.view.camera.eye + ray * depth;
        let normal = object.solid.normal(point);
        let to_eye = -ray.unit();
        let white = vec3(1.0, 1.0, 1.0);
        if !object.look.is_metal() {
            let (diffuse, shine) = self.lights.on_object(point, normal, to_eye, id, 12);
            return albedo * diffuse + white * (0.035 * shine);
        }
        let (diffuse, shine) = self.lights.on_object(point, normal, to_eye, id, 160);
        let facing = to_eye.dot(normal).max(0.0);
        let mirror = normal * (2.0 * facing) - to_eye;
        let seen = self.mirrored(id, point + normal * 2e-3, mirror);
        // a mirror in the metal's color, whiter at grazing angles (Schlick)
        let slant = 1.0 - facing;
        let fresnel = slant * slant * slant * slant * slant;
        let tint = albedo * (0.85 * (1.0 - fresnel)) + white * (0.15 + 0.5 * fresnel);
        albedo * (0.42 * diffuse) + tint.times(seen) * 0.8 + white * (1.3 * shine)
    }

    /// Returns the reflection at a point in a direction: another object, the ground, or the dim
    /// room with its lamps.
    fn mirrored(&self, own: usize, point: Vec3, way: Vec3) -> Vec3 {
        let others = ((1u32 << self.scene.objects.len()) - 1) as u16 & !(1 << own);
        if let Some((id, distance)) = self.nearest(point, way, others) {
            let there = point + way * distance;
            let light = self.lights.reflected(there, self.lights.solids[id].normal(there));
            return self.albedos[id] * (0.9 * light);
        }
        if way.z < -0.02 {
            let there = point + way * (-point.z / way.z);
            // near the object, the ground is shaded by the object itself
            let shade = (0.35 + 0.65 * (point.z / -way.z * 0.8)).min(1.0);
            return GROUND_ALBEDO * (shade * self.lights.reflected(vec3(there.x, there.y, 0.0), vec3(0.0, 0.0, 1.0)));
        }
        let room = 0.30 - 0.16 * way.z;
        vec3(1.0, 1.0, 1.0) * (room + 1.1 * self.lights.mirrored(point, way))
    }
}

/// Interpolates a tile's corner values (upper left, upper right, lower left, lower right) at the
/// middle of a pixel.
#[inline]
fn between([upper_left, upper_right, lower_left, lower_right]: [f32; 4], x: usize, y: usize) -> f32 {
    let (across, down) = ((x as f32 + 0.5) / TILE as f32, (y as f32 + 0.5) / TILE as f32);
    let upper = upper_left + (upper_right - upper_left) * across;
    let lower = lower_left + (lower_right - lower_left) * across;
    upper + (lower - upper) * down
}

#[cfg(test)]
mod tests {
    use super::super::draws::Draws;
    use super::super::sampling;
    use super::*;

    #[test]
    fn interpolated_ground_is_the_ground() {
        let painter = Painter::new(480, 320, 2);
        let scene = sampling::draw(&mut Draws::new(&[2]), 6);
        let pixels = painter.paint(&scene);
        let view = View::new(scene.camera, 480, 320);
        let raster = Raster::new(&view, &scene.objects);
        let lights = Lights::new(&scene);
        let tiles = lights.tiles(&view);
        let mut compared = 0;
        for y in (1..319).step_by(3) {
            for x in (1..479).step_by(3) {
                let around = [(x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)];
                let is_ground = around.iter().all(|(x, y)| raster.ids[y * 480 + x] == GROUND);
                if !is_ground {
                    continue;
                }
                let shading = tiles.shading[y / TILE * tiles.columns + x / TILE];
                let ray = view.ray(x as f32 + 0.5, y as f32 + 0.5);
                let point = view.camera.eye + ray * (-view.camera.eye.z / ray.z);
                let expected = painter.bytes(GROUND_ALBEDO * lights.on_ground(point, shading));
                let found = &pixels[4 * (y * 480 + x)..][..4];
                let close = expected.iter().zip(found).all(|(one, other)| one.abs_diff(*other) <= 1);
                assert!(close, "({x}, {y}): {expected:?} {found:?}");
                compared += 1;
            }
        }
        assert!(compared > 3000, "{compared}");
    }

    #[test]
    fn objects_have_their_colours() {
        let painter = Painter::new(240, 160, 2);
        for seed in 0..8 {
            let scene = sampling::draw(&mut Draws::new(&[seed]), 6);
            let pixels = painter.paint(&scene);
            let raster = Raster::new(&View::new(scene.camera, 240, 160), &scene.objects);
            for (id, object) in scene.objects.iter().enumerate() {
                let mut sum = [0.0; 3];
                for (pixel, _) in raster
                    .ids
                    .iter()
                    .enumerate()
                    .filter(|(_, found)| usize::from(**found) == id)
                {
                    for (part, sum) in sum.iter_mut().enumerate() {
                        *sum += f32::from(pixels[4 * pixel + part]);
                    }
                }
                // clearly different channels of the color are in the same order in the image
                let rgb = object.look.rgb();
                for (one, other) in [(0, 1), (1, 2), (0, 2)] {
                    if (rgb[one] - rgb[other]).abs() > 40.0 {
                        assert_eq!(rgb[one] > rgb[other], sum[one] > sum[other], "{rgb:?} {sum:?}");
                    }
                }
            }
        }
    }
}
