//! The camera: a pinhole that looks down at the middle of the ground from about CLEVR's position.
//!
//! With f = focal length / image width, the ray through pixel (x, y) of a w × h image has the
//! direction forward + right·(x − w/2)/(f·w) + up·(h/2 − y)/(f·w). Its component along `forward` is
//! 1, so a point's ray parameter is its depth.

use super::attributes::Direction;
use super::draws::Draws;
use super::vector::{Vec3, vec3};

/// The focal length over the image width: a 35 mm lens on a 32 mm sensor.
const FOCAL: f32 = 35.0 / 32.0;

/// The camera's position before it is moved by up to [`JITTER`] along each axis.
const EYE: Vec3 = vec3(7.48, -6.5, 5.34);
const JITTER: f32 = 0.5;

/// A view of the ground.
#[derive(Clone, Copy, Debug)]
pub(super) struct Camera {
    pub(super) eye: Vec3,
    pub(super) forward: Vec3,
    pub(super) right: Vec3,
    pub(super) up: Vec3,
}

impl Camera {
    pub(super) fn draw(draws: &mut Draws) -> Self {
        Self::at(EYE + vec3(draws.within(JITTER), draws.within(JITTER), draws.within(JITTER)))
    }

    /// Returns a view from `eye` to the origin.
    pub(super) fn at(eye: Vec3) -> Self {
        let forward = (-eye).unit();
        let right = forward.cross(vec3(0.0, 0.0, 1.0)).unit();
        let up = right.cross(forward);
        Self {
            eye,
            forward,
            right,
            up,
        }
    }

    /// Returns the unit vector of a direction on the ground.
    pub(super) fn direction(&self, direction: Direction) -> Vec3 {
        let behind = vec3(self.forward.x, self.forward.y, 0.0).unit();
        match direction {
            Direction::Left => -self.right,
            Direction::Right => self.right,
            Direction::Front => -behind,
            Direction::Behind => behind,
        }
    }
}

/// A camera and an image size.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) camera: Camera,
    pub(super) width: usize,
    pub(super) height: usize,
    /// Pixels per unit at depth 1.
    scale: f32,
}

impl View {
    pub(super) fn new(camera: Camera, width: usize, height: usize) -> Self {
        Self {
            camera,
            width,
            height,
            scale: FOCAL * width as f32,
        }
    }

    /// Returns the direction of the ray through a point of the image.
    #[inline]
    pub(super) fn ray(&self, x: f32, y: f32) -> Vec3 {
        let across = (x - 0.5 * self.width as f32) / self.scale;
        let upwards = (0.5 * self.height as f32 - y) / self.scale;
        self.camera.forward + self.camera.right * across + self.camera.up * upwards
    }

    /// Returns the image coordinates of a point and its depth.
    pub(super) fn project(&self, point: Vec3) -> (f32, f32, f32) {
        let from_eye = point - self.camera.eye;
        let depth = from_eye.dot(self.camera.forward);
        let across = from_eye.dot(self.camera.right) * self.scale / depth;
        let upwards = from_eye.dot(self.camera.up) * self.scale / depth;
        (
            0.5 * self.width as f32 + across,
            0.5 * self.height as f32 - upwards,
            depth,
        )
    }

    /// Returns the columns and rows, end excluded, that the convex hull of points can touch. A
    /// point at or behind the camera's plane makes it the whole image.
    pub(super) fn bounds(&self, points: impl Iterator<Item = Vec3>) -> Bounds {
        let (mut low, mut high) = ((f32::MAX, f32::MAX), (f32::MIN, f32::MIN));
        for point in points {
            let (x, y, depth) = self.project(point);
            if depth < 0.1 {
                return Bounds {
                    left: 0,
                    right: self.width,
                    top: 0,
                    bottom: self.height,
                };
            }
            low = (low.0.min(x), low.1.min(y));
            high = (high.0.max(x), high.1.max(y));
        }
        // a pixel's samples lie within it, so this suffices; casts of floats clamp
        Bounds {
            left: (low.0.floor() as usize).min(self.width),
            right: (high.0.ceil() as usize).min(self.width),
            top: (low.1.floor() as usize).min(self.height),
            bottom: (high.1.ceil() as usize).min(self.height),
        }
    }
}

/// A rectangle of pixels; the right column and the bottom row are excluded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) left: usize,
    pub(super) right: usize,
    pub(super) top: usize,
    pub(super) bottom: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projected_point_lies_on_the_ray_through_its_pixel() {
        let view = View::new(Camera::draw(&mut Draws::new(&[5])), 480, 320);
        for point in [vec3(1.0, 2.0, 0.35), vec3(-3.0, 0.5, 0.7), vec3(0.0, 0.0, 0.0)] {
            let (x, y, depth) = view.project(point);
            let back = view.camera.eye + view.ray(x, y) * depth;
            assert!((back - point).norm() < 1e-4, "{point:?} {back:?}");
        }
        let (x, y, _) = view.project(Vec3::default());
        assert!((x - 240.0).abs() < 1e-2 && (y - 160.0).abs() < 1e-2);
    }

    #[test]
    fn directions_are_those_of_the_image() {
        let view = View::new(Camera::draw(&mut Draws::new(&[6])), 480, 320);
        let seen = |direction| {
            let (x, y, _) = view.project(view.camera.direction(direction));
            (x - 240.0, y - 160.0)
        };
        assert!(seen(Direction::Left).0 < -40.0 && seen(Direction::Right).0 > 40.0);
        assert!(seen(Direction::Behind).1 < -15.0 && seen(Direction::Front).1 > 15.0);
        for direction in Direction::ALL {
            let vector = view.camera.direction(direction);
            assert!((vector.norm() - 1.0).abs() < 1e-6 && vector.z.abs() < 1e-6);
        }
    }
}
