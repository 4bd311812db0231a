//! A fast test whether a solid may be in a cone of light, from a point (or any point of a ball) to
//! a round lamp. It saves most rays.
//!
//! ```text
//! |c − u·reach| < a + s + u·wide   for some u of 0…1;   c: the solid's centre from the point, a: radius of the sphere around it
//! ```
//!
//! `reach` is the vector to the lamp's center, `wide` the lamp's radius, which is below |reach|; s
//! is the radius of the ball of points.

use super::solids::Solid;
use super::vector::Vec3;

/// The light from a lamp to a point, or to the points of a ball.
pub(super) struct Cone {
    point: Vec3,
    spread: f32,
    reach: Vec3,
    wide: f32,
    /// |reach|² − wide².
    steep: f32,
}

impl Cone {
    /// Returns the cone from a ball of radius `spread` about a point (0: the point itself) to a
    /// lamp of radius `wide`.
    pub(super) fn new(point: Vec3, spread: f32, lamp: Vec3, wide: f32) -> Self {
        let reach = lamp - point;
        Self {
            point,
            spread,
            reach,
            wide,
            steep: reach.dot(reach) - wide * wide,
        }
    }

    /// Returns whether a solid may be in the cone; `false` is certain.
    pub(super) fn may_hold(&self, solid: &Solid) -> bool {
        // |c − u·reach|² − (a + u·wide)² = steep·u² − 2·half·u + from, smallest at half / steep
        let center = solid.center - self.point;
        let around = solid.around + self.spread;
        let half = center.dot(self.reach) + around * self.wide;
        let from = center.dot(center) - around * around;
        let least = (half / self.steep.max(1e-6)).clamp(0.0, 1.0);
        (self.steep * least - 2.0 * half) * least + from < 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes::Look;
    use super::super::draws::Draws;
    use super::super::vector::vec3;
    use super::*;

    #[test]
    fn cones_tell_beforehand_what_their_rays_meet() {
        const ENDS: usize = 16;
        let mut draws = Draws::new(&[2]);
        let (mut clear, mut partial) = (0, 0);
        for shape in 0..3 {
            let solid = Solid::new(Look([0, 0, 0, shape]), 1.0, -2.0, 30.0);
            for _ in 0..2000 {
                let mut point = |far: f32| vec3(draws.within(far), draws.within(far), draws.within(far)) + solid.center;
                let (from, to) = (point(2.0), point(4.0));
                let wide = 0.3;
                let ends: Vec<Vec3> = (0..ENDS)
                    .map(|_| to + vec3(draws.within(1.0), draws.within(1.0), draws.within(1.0)).unit() * wide)
                    .collect();
                let blocked = ends.iter().filter(|end| solid.stands_between(from, **end)).count();
                if solid.holds(from) || (to - from).norm() < 2.0 * wide {
                    continue;
                }
                let may = Cone::new(from, 0.0, to, wide).may_hold(&solid);
                assert!(blocked == 0 || may);
                // from any point of a ball that contains the point
                let middle = from + vec3(draws.within(0.1), draws.within(0.1), draws.within(0.1));
                assert!(!may || Cone::new(middle, 0.2, to, wide).may_hold(&solid));
                clear += usize::from(!may);
                partial += usize::from(blocked > 0 && blocked < ENDS);
            }
        }
        assert!(clear > 300 && partial > 100, "{clear} {partial}");
    }
}
