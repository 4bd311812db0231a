//! Intersections of rays with spheres, cubes and cylinders that stand on the ground z = 0, and the
//! normals there.
//!
//! A ray is o + t·d with d of any length. In the solid's own frame, rotated about z so that a
//! cube's faces are perpendicular to the axes, a sphere is |p| ≤ r, a cube max(|x|, |y|, |z|) ≤ r,
//! a cylinder x² + y² ≤ r², |z| ≤ r.

use super::attributes::{Look, Shape};
use super::vector::{Vec3, vec3};

/// The width of the seemingly rounded edges of cubes and cylinders, as a share of r.
const BEVEL: f32 = 0.12;

/// A solid of half height `radius`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solid {
    pub(super) shape: Shape,
    pub(super) center: Vec3,
    pub(super) radius: f32,
    /// The radius of its bounding sphere.
    pub(super) around: f32,
    cos: f32,
    sin: f32,
}

impl Solid {
    /// Returns an object of this look at (x, y), rotated by degrees.
    pub(super) fn new(look: Look, x: f32, y: f32, degrees: f32) -> Self {
        let radius = look.radius();
        let angle = degrees.to_radians();
        let around = radius
            * match look.shape() {
                Shape::Sphere => 1.0,
                Shape::Cylinder => std::f32::consts::SQRT_2,
                Shape::Cube => 1.733, // √3, rounded up
            };
        Self {
            shape: look.shape(),
            center: vec3(x, y, radius),
            radius,
            around,
            cos: libm::cosf(angle),
            sin: libm::sinf(angle),
        }
    }

    #[inline]
    fn inward(&self, v: Vec3) -> Vec3 {
        vec3(self.cos * v.x + self.sin * v.y, self.cos * v.y - self.sin * v.x, v.z)
    }

    #[inline]
    fn outward(&self, v: Vec3) -> Vec3 {
        vec3(self.cos * v.x - self.sin * v.y, self.cos * v.y + self.sin * v.x, v.z)
    }

    /// Returns the radius of the circle around its footprint on the ground.
    pub(super) fn wide(&self) -> f32 {
        match self.shape {
            Shape::Cube => self.radius * std::f32::consts::SQRT_2,
            Shape::Cylinder | Shape::Sphere => self.radius,
        }
    }

    /// Returns the corners of its bounding box.
    pub(super) fn corners(&self) -> [Vec3; 8] {
        std::array::from_fn(|index| {
            let sign = |bit: usize| if index & bit == 0 { -self.radius } else { self.radius };
            self.center + self.outward(vec3(sign(1), sign(2), sign(4)))
        })
    }

    /// Returns the parameters at which a ray enters and leaves; they are in order if and only if it
    /// hits.
    #[inline]
    fn span(&self, origin: Vec3, direction: Vec3) -> (f32, f32) {
        let from = origin - self.center;
        match self.shape {
            Shape::Sphere => self.sphere(from, direction),
            Shape::Cube => self.cube(self.inward(from), self.inward(direction)),
            Shape::Cylinder => self.cylinder(from, direction),
        }
    }

    #[inline]
    fn sphere(&self, from: Vec3, direction: Vec3) -> (f32, f32) {
        // relative to the ray's point nearest to the center, which avoids a difference of large
        // squares
        let squared = direction.dot(direction);
        let nearest = -from.dot(direction) / squared;
        let miss = from + direction * nearest;
        let half = (self.radius * self.radius - miss.dot(miss)) / squared;
        around(nearest, half)
    }

    #[inline]
    fn cube(&self, from: Vec3, direction: Vec3) -> (f32, f32) {
        let x = slab(from.x, direction.x, self.radius);
        let y = slab(from.y, direction.y, self.radius);
        let z = slab(from.z, direction.z, self.radius);
        (x.0.max(y.0).max(z.0), x.1.min(y.1).min(z.1))
    }

    #[inline]
    fn cylinder(&self, from: Vec3, direction: Vec3) -> (f32, f32) {
        let squared = direction.x * direction.x + direction.y * direction.y;
        let (top, bottom) = slab(from.z, direction.z, self.radius);
        let nearest = -(from.x * direction.x + from.y * direction.y) / squared;
        let (x, y) = (from.x + direction.x * nearest, from.y + direction.y * nearest);
        let half = (self.radius * self.radius - x * x - y * y) / squared;
        let (enter, leave) = if squared == 0.0 {
            let within = from.x * from.x + from.y * from.y < self.radius * self.radius;
            if within { EVERYWHERE } else { NOWHERE }
        } else {
            around(nearest, half)
        };
        (top.max(enter), bottom.min(leave))
    }

    /// Returns the parameter at which a ray from outside hits the surface, if it is ahead.
    #[inline]
    pub(super) fn hit(&self, origin: Vec3, direction: Vec3) -> Option<f32> {
        let (enter, leave) = self.span(origin, direction);
        (enter < leave && enter > 0.0).then_some(enter)
    }

    /// Returns whether a ray may hit the bounding sphere; `false` is certain. Cheap, and true for
    /// few rays.
    #[inline]
    pub(super) fn is_ahead(&self, origin: Vec3, direction: Vec3) -> bool {
        /// A margin beyond rounding errors, as a factor of the radius.
        const ROOM: f32 = 1.01;
        let way = self.center - origin;
        let around = ROOM * self.around;
        let (along, beyond) = (way.dot(direction), way.dot(way) - around * around);
        beyond <= 0.0 || (along > 0.0 && along * along >= beyond * direction.dot(direction))
    }

    /// Returns whether it is between a point on or outside its surface and the end of a ray.
    #[inline]
    pub(super) fn stands_between(&self, point: Vec3, end: Vec3) -> bool {
        let (enter, leave) = self.span(point, end - point);
        enter < leave && leave > 1e-4 && enter < 1.0
    }

    /// Returns whether a point is inside, by definition.
    #[cfg(test)]
    pub(super) fn holds(&self, point: Vec3) -> bool {
        let p = self.inward(point - self.center);
        let r = self.radius;
        match self.shape {
            Shape::Sphere => p.norm() <= r,
            Shape::Cube => p.x.abs().max(p.y.abs()).max(p.z.abs()) <= r,
            Shape::Cylinder => (p.x * p.x + p.y * p.y).sqrt() <= r && p.z.abs() <= r,
        }
    }

    /// Returns the normal at a surface point; near the edges of cubes and cylinders it tilts as if
    /// they were rounded.
    pub(super) fn normal(&self, point: Vec3) -> Vec3 {
        let p = self.inward(point - self.center) * (1.0 / self.radius);
        let lean = |part: f32| {
            let share = ((part.abs() - (1.0 - BEVEL)) / BEVEL).clamp(0.0, 1.0);
            (0.9 * share * share).copysign(part)
        };
        let own = match self.shape {
            Shape::Sphere => p,
            Shape::Cube => {
                let (x, y, z) = (p.x.abs(), p.y.abs(), p.z.abs());
                if x >= y && x >= z {
                    vec3(p.x, lean(p.y), lean(p.z))
                } else if y >= z {
                    vec3(lean(p.x), p.y, lean(p.z))
                } else {
                    vec3(lean(p.x), lean(p.y), p.z)
                }
            }
            Shape::Cylinder => {
                let out = (p.x * p.x + p.y * p.y).sqrt();
                if p.z.abs() >= out {
                    let side = lean(out) / out.max(1e-6);
                    vec3(p.x * side, p.y * side, p.z)
                } else {
                    vec3(p.x, p.y, lean(p.z))
                }
            }
        };
        self.outward(own.unit())
    }
}

/// The span of any ray, and the span of a ray that misses.
const EVERYWHERE: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);
const NOWHERE: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);

/// Returns the span nearest ± √half, or the span of a miss if `half` ≤ 0.
#[inline]
fn around(nearest: f32, half: f32) -> (f32, f32) {
    let root = half.max(0.0).sqrt();
    if half > 0.0 {
        (nearest - root, nearest + root)
    } else {
        NOWHERE
    }
}

/// Returns the span with |o + t·d| ≤ r on one axis; everywhere or nowhere if d is 0.
#[inline]
fn slab(o: f32, d: f32, r: f32) -> (f32, f32) {
    if d == 0.0 {
        return if o.abs() <= r { EVERYWHERE } else { NOWHERE };
    }
    let inverse = 1.0 / d;
    let (middle, half) = (-o * inverse, (r * inverse).abs());
    (middle - half, middle + half)
}

#[cfg(test)]
mod tests {
    use super::super::cones::Cone;
    use super::*;

    fn solid(shape: usize) -> Solid {
        Solid::new(Look([0, 0, 0, shape]), 1.0, -2.0, 30.0)
    }

    #[test]
    fn rays_meet_the_surface_where_small_steps_along_them_enter() {
        let mut draws = super::super::draws::Draws::new(&[1]);
        let mut hits = 0;
        for shape in 0..3 {
            let solid = solid(shape);
            for _ in 0..300 {
                let mut point = || vec3(draws.within(2.0), draws.within(2.0), draws.within(1.5)) + solid.center;
                let (from, to) = (point(), point());
                if solid.holds(from) {
                    continue;
                }
                let direction = to - from;
                let step = (0..2000)
                    .map(|step| step as f32 / 1000.0)
                    .find(|t| solid.holds(from + direction * *t));
                match (solid.hit(from, direction), step) {
                    (Some(t), Some(step)) => {
                        assert!((t - step).abs() < 2e-3, "{shape}: {t} {step}");
                        let normal = solid.normal(from + direction * t);
                        assert!((normal.norm() - 1.0).abs() < 1e-5);
                        assert!(solid.is_ahead(from, direction));
                        assert_eq!(solid.stands_between(from, to), t < 1.0);
                        assert!(Cone::new(from, 0.0, from + direction * 2.0, 0.0).may_hold(&solid));
                        hits += 1;
                    }
                    (None, None) => {}
                    // a corner between two steps, or a hit beyond the last step
                    (Some(t), None) => assert!(t > 1.99 || !solid.holds(from + direction * (t + 2e-3)), "{shape}: {t}"),
                    (None, Some(step)) => panic!("{shape}: missed at {step}"),
                }
            }
        }
        assert!(hits > 100, "{hits}");
    }

    #[test]
    fn vertical_and_level_rays_meet_flat_faces() {
        for shape in 0..3 {
            let solid = solid(shape);
            let above = solid.center + vec3(0.05, 0.02, 3.0);
            let t = solid.hit(above, vec3(0.0, 0.0, -1.0)).unwrap();
            assert!((t - (3.0 - solid.radius)).abs() < 0.01, "{shape}: {t}");
            assert!(solid.normal(above + vec3(0.0, 0.0, -t)).z > 0.99);
            assert!(
                solid
                    .hit(solid.center + vec3(3.0, 0.0, 0.0), vec3(-1.0, 0.0, 0.0))
                    .is_some()
            );
            assert!(solid.hit(above, vec3(0.0, 0.0, 1.0)).is_none());
        }
    }
}
