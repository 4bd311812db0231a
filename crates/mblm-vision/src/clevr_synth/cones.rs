//! Which solids may stand in a cone of light, from a point (or from any point of a ball) to a round lamp, and which surely do.
//!
//! ```text
//! may:     |c − u·reach| < a + s + u·wide       for some u of 0…1;  c: the centre from the point, a: radius of the sphere around
//! surely:  |c − u·reach| < 0.99 r − u·wide      where the cone is nearest to c, which is neither end; r: radius of the sphere inside
//! ```
//!
//! `reach` is the way to the lamp's middle, `wide` its radius, less than that way; s the radius of the ball of points. All solids of a
//! scene are computed at once for a point, or several points for a solid.

use multiversion::multiversion;

use super::scene::Objects;
use super::solids::Solid;
use super::vector::{Vec3, vec3};

/// Solids that are computed at once: as many as a set can hold.
const LANES: usize = Objects::BITS as usize;

/// The solids of a scene, their numbers by themselves; zeros where there are fewer.
pub(super) struct Cones {
    x: [f32; LANES],
    y: [f32; LANES],
    z: [f32; LANES],
    radius: [f32; LANES],
    around: [f32; LANES],
}

/// Solids in a cone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Standing {
    pub(super) may: Objects,
    pub(super) surely: Objects,
}

impl Cones {
    pub(super) fn new(solids: &[Solid]) -> Self {
        let part = |part: fn(&Solid) -> f32| std::array::from_fn(|index| solids.get(index).map_or(0.0, part));
        Self {
            x: part(|solid| solid.center.x),
            y: part(|solid| solid.center.y),
            z: part(|solid| solid.center.z),
            radius: part(|solid| solid.radius),
            around: part(|solid| solid.around),
        }
    }

    /// What stands between a point, or a ball (middle, radius) of them, and a lamp of radius `wide` about the middle + `reach`; for a
    /// ball only `may` counts. Bits beyond the solids mean nothing.
    pub(super) fn standing(&self, (point, spread): (Vec3, f32), reach: Vec3, wide: f32) -> Standing {
        standing(self, (point, spread), reach, wide)
    }
}

/// Points that are computed at once for a single solid.
pub(super) const POINTS: usize = 8;

/// Points, their parts by themselves.
pub(super) struct Points {
    pub(super) x: [f32; POINTS],
    pub(super) y: [f32; POINTS],
    pub(super) z: [f32; POINTS],
}

impl Points {
    pub(super) fn get(&self, index: usize) -> Vec3 {
        vec3(self.x[index], self.y[index], self.z[index])
    }
}

/// A set of points: bit i is point i.
pub(super) type PointSet = u32;

/// Between which of the points and a round lamp a solid may stand, and between which it surely does.
#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
pub(super) fn standing_before(solid: &Solid, points: &Points, lamp: Vec3, wide: f32) -> (PointSet, PointSet) {
    let (mut may, mut surely) = ([0u32; POINTS], [0u32; POINTS]);
    for index in 0..POINTS {
        let point = vec3(points.x[index], points.y[index], points.z[index]);
        let stands = Stands::new(solid.center - point, lamp - point, wide);
        may[index] = u32::from(stands.may(solid.around)) << index;
        surely[index] = u32::from(stands.surely(solid.radius)) << index;
    }
    (may.iter().sum(), surely.iter().sum())
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn standing(cones: &Cones, (point, spread): (Vec3, f32), reach: Vec3, wide: f32) -> Standing {
    let (mut may, mut surely) = ([0u32; LANES], [0u32; LANES]);
    for index in 0..LANES {
        let center = vec3(cones.x[index], cones.y[index], cones.z[index]);
        let stands = Stands::new(center - point, reach, wide);
        may[index] = u32::from(stands.may(cones.around[index] + spread)) << index;
        surely[index] = u32::from(stands.surely(cones.radius[index])) << index;
    }
    let set = |bits: [u32; LANES]| bits.iter().sum::<u32>() as Objects;
    Standing {
        may: set(may),
        surely: set(surely),
    }
}

/// A sphere's centre and a cone, both from the cone's point.
struct Stands {
    center: Vec3,
    reach: Vec3,
    wide: f32,
    squared: f32,
    along: f32,
}

impl Stands {
    #[inline(always)]
    fn new(center: Vec3, reach: Vec3, wide: f32) -> Self {
        Self {
            center,
            reach,
            wide,
            squared: reach.dot(reach),
            along: center.dot(reach),
        }
    }

    #[inline(always)]
    fn may(&self, around: f32) -> bool {
        // |c − u·reach|² − (a + u·wide)² = steep·u² − 2·half·u + from, with its least value at half / steep
        let steep = self.squared - self.wide * self.wide;
        let half = self.along + around * self.wide;
        let from = self.center.dot(self.center) - around * around;
        let least = (half / steep.max(1e-6)).clamp(0.0, 1.0);
        (steep * least - 2.0 * half) * least + from < 0.0
    }

    #[inline(always)]
    fn surely(&self, radius: f32) -> bool {
        /// Of the sphere's radius, so that rounding cannot let a ray past.
        const SURE: f32 = 0.99;
        let nearest = self.along / self.squared;
        let miss = self.center - self.reach * nearest;
        let room = SURE * radius - nearest * self.wide;
        (room > 0.0) & (miss.dot(miss) < room * room) & (nearest > 0.01) & (nearest < 0.99)
    }
}

#[cfg(test)]
mod tests {
    use super::super::attributes::Look;
    use super::super::draws::Draws;
    use super::super::solids::{ENDS, Ends};
    use super::*;

    #[test]
    fn cones_tell_beforehand_what_their_rays_meet() {
        let mut draws = Draws::new(&[2]);
        let (mut clear, mut partial, mut filled) = (0, 0, 0);
        for shape in 0..3 {
            let solid = Solid::new(Look([0, 0, 0, shape]), 1.0, -2.0, 30.0);
            let cones = Cones::new(&[solid]);
            for _ in 0..2000 {
                let mut point = |far: f32| vec3(draws.within(far), draws.within(far), draws.within(far)) + solid.center;
                let (from, to) = (point(2.0), point(4.0));
                let wide = 0.3;
                let ends: Vec<Vec3> = (0..ENDS)
                    .map(|_| to + vec3(draws.within(1.0), draws.within(1.0), draws.within(1.0)).unit() * wide)
                    .collect();
                let blocked = solid.blocked(from, &Ends::new(&ends)).count_ones() as usize;
                if solid.holds(from) || (to - from).norm() < 2.0 * wide {
                    continue;
                }
                let found = cones.standing((from, 0.0), to - from, wide);
                let (may, surely) = (found.may & 1 == 1, found.surely & 1 == 1);
                let points = Points {
                    x: [from.x; POINTS],
                    y: [from.y; POINTS],
                    z: [from.z; POINTS],
                };
                let all = |is: bool| if is { (1 << POINTS) - 1 } else { 0 };
                assert_eq!(standing_before(&solid, &points, to, wide), (all(may), all(surely)));
                assert!(blocked == 0 || may);
                assert!(blocked == ENDS || !surely);
                // from anywhere in a ball that holds the point
                let middle = from + vec3(draws.within(0.1), draws.within(0.1), draws.within(0.1));
                let ball = (middle, 0.2);
                assert!(!may || cones.standing(ball, to - middle, wide).may & 1 == 1);
                clear += usize::from(!may);
                filled += usize::from(surely);
                partial += usize::from(blocked > 0 && blocked < ENDS);
            }
        }
        assert!(
            clear > 300 && partial > 100 && filled > 100,
            "{clear} {partial} {filled}"
        );
    }
}
