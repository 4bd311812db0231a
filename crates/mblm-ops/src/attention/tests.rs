//! Checks each kernel against the reference and finite differences, at sizes that no tile divides.

use candle_core::{DType, Device, Result, Tensor};

use super::{Attention, Call, Saved, backward, cpu, forward, forward_as, reference};
use crate::GradBuffer;
use crate::check::Harness;
use crate::dropout::Dropout;
use crate::op_test;
use crate::relative_error;
use crate::testing::uniform;

#[cfg(feature = "cuda")]
mod on_cuda;

/// A kind of attention, the sizes of a call, and the kernel to test.
#[derive(Clone)]
struct Case {
    a: Attention,
    sequences: usize,
    queries: usize,
    /// The past's sequences (1 or all) and rows.
    past: Option<(usize, usize)>,
    start: usize,
    visible: Option<Vec<u8>>,
    plan: Option<cpu::Plan>,
}

/// Two heads of four channels, rotary and causal, without a past.
fn case(sequences: usize, queries: usize) -> Case {
    Case {
        a: Attention {
            heads: 2,
            head_dim: 4,
            rotary: true,
            causal: true,
            dropout: None,
        },
        sequences,
        queries,
        past: None,
        start: 0,
        visible: None,
        plan: None,
    }
}

impl Case {
    fn heads(mut self, heads: usize, head_dim: usize) -> Self {
        (self.a.heads, self.a.head_dim) = (heads, head_dim);
        self
    }

    fn plain(mut self) -> Self {
        self.a.rotary = false;
        self
    }

    fn both_ways(mut self) -> Self {
        self.a.causal = false;
        self
    }

    fn dropout(mut self) -> Self {
        self.a.dropout = Some(Dropout {
            probability: 0.3,
            key: 7,
            first: 5,
        });
        self
    }

    /// Adds a past of `rows` rows for `sequences` sequences; the new rows follow it at a distance.
    fn past(mut self, sequences: usize, rows: usize) -> Self {
        self.past = Some((sequences, rows));
        self.start = rows + 3;
        self
    }

    /// Sets the position of the first new row.
    #[cfg(feature = "cuda")]
    fn at(mut self, start: usize) -> Self {
        self.start = start;
        self
    }

    fn visible(mut self, visible: &[u8]) -> Self {
        self.visible = Some(visible.to_vec());
        self
    }

    fn blocked(mut self, queries: usize, keys: usize, strips: usize) -> Self {
        self.plan = Some(cpu::Plan::Blocked(cpu::Tiles { queries, keys, strips }));
        self
    }

    fn lanes(mut self) -> Self {
        self.plan = Some(cpu::Plan::Lanes);
        self
    }

    fn mask(&self, device: &Device) -> Option<Tensor> {
        let shape = (self.sequences, self.queries);
        self.visible
            .as_ref()
            .map(|visible| Tensor::from_slice(visible, shape, device).expect("a number for each row"))
    }

    #[expect(clippy::type_complexity, reason = "closures have no name that an alias could hold")]
    fn check(
        self,
    ) -> crate::check::Check<
        impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
        impl Fn(&[Tensor]) -> Result<(Vec<Tensor>, Saved)>,
        impl Fn(&[Tensor], Saved, &[&Tensor], &mut [GradBuffer]) -> Result<Vec<Option<Tensor>>>,
    > {
        let width = self.a.heads * self.a.head_dim;
        let (n, t) = (self.sequences, self.queries);
        let mut shapes = vec![vec![n, t, width], vec![n, t, 2 * width]];
        shapes.extend(self.past.map(|(n, s)| vec![n, s, 2 * width]));
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        let (expected, found, gradients) = (self.clone(), self.clone(), self);
        // queries three times as large, so that the weights are far from even
        Harness::new("attention", &shapes)
            .affine(0, 3.0, 0.0)
            .reference(move |t| {
                let Case { a, start, .. } = &expected;
                let mask = expected.mask(t[0].device());
                let (out, present) = reference::forward(a, &t[0], &t[1], t.get(2), *start, mask.as_ref())?;
                Ok(vec![out, present])
            })
            .fused(move |t| {
                let (start, mask) = (found.start, found.mask(t[0].device()));
                let call = Call::new(&found.a, &t[0], &t[1], t.get(2), start, mask.as_ref())?;
                let output = forward_as(&call, found.plan)?;
                Ok((vec![output.out, output.present], output.saved))
            })
            .backward(move |t, saved, dy, _| {
                let Case { a, start, .. } = &gradients;
                let mask = gradients.mask(t[0].device());
                let (past, mask) = (t.get(2), mask.as_ref());
                let found = backward(a, &t[0], &t[1], past, *start, mask, saved, dy[0], Some(dy[1]))?;
                let d_past = found.d_past.map(Some);
                Ok([Some(found.d_q), Some(found.d_kv)].into_iter().chain(d_past).collect())
            })
    }
}

op_test! {
    one_row: case(1, 1).check()
    one_row_after_a_past: case(3, 1).past(3, 7).check()
    one_row_after_a_long_past: case(2, 1).past(2, 300).check()
    one_row_after_a_long_shared_past: case(2, 1).heads(3, 6).past(1, 256).check()
    one_row_after_a_shared_past_with_dropout: case(3, 1).past(1, 5).dropout().check()
    causal: case(3, 5).check()
    one_way_without_rotation_odd_width: case(2, 5).plain().heads(3, 5).check()
    wide_heads: case(1, 3).heads(1, 46).check()
    both_ways: case(2, 6).both_ways().check()
    after_a_past: case(2, 4).past(2, 3).check()
    after_a_shared_start_row: case(5, 3).past(1, 1).check()
    both_ways_after_a_shared_past: case(3, 2).both_ways().past(1, 4).check()
    with_dropout: case(2, 4).past(2, 2).dropout().check()
    with_hidden_keys: case(2, 4).both_ways().visible(&[1, 0, 1, 1, 0, 0, 1, 0]).check()
    with_every_key_hidden: case(2, 3).both_ways().visible(&[0, 0, 0, 1, 0, 1]).check()
    with_hidden_keys_causal_after_a_past: case(2, 3).past(2, 2).visible(&[0, 1, 0, 1, 0, 0]).check()
    causal_with_the_first_keys_hidden: case(1, 4).visible(&[0, 0, 1, 1]).check()
}

op_test! {
    blocked_causal: case(2, 7).blocked(3, 2, 3).check()
    blocked_one_tile: case(2, 3).blocked(8, 8, 1).check()
    blocked_one_way_without_rotation_odd_width: case(1, 5).plain().heads(2, 5).blocked(2, 4, 2).check()
    blocked_both_ways: case(2, 6).both_ways().blocked(4, 4, 2).check()
    blocked_after_a_past: case(2, 5).past(2, 3).blocked(2, 2, 3).check()
    blocked_after_a_shared_past: case(3, 4).past(1, 5).blocked(3, 4, 2).check()
    blocked_with_dropout: case(2, 5).past(1, 2).dropout().blocked(2, 3, 2).check()
    blocked_with_hidden_keys: case(2, 4).both_ways().visible(&[1, 0, 1, 1, 0, 0, 1, 0]).blocked(3, 2, 2).check()
    blocked_with_every_key_hidden: case(2, 3).both_ways().visible(&[0, 0, 0, 1, 0, 1]).blocked(2, 2, 1).check()
    blocked_with_hidden_keys_causal_after_a_past:
        case(2, 3).past(2, 2).visible(&[0, 1, 0, 1, 0, 0]).dropout().blocked(2, 2, 2).check()
    blocked_causal_with_the_first_keys_hidden: case(1, 5).visible(&[0, 0, 0, 1, 1]).blocked(2, 2, 2).check()
}

op_test! {
    lanes_causal: case(3, 5).lanes().check()
    lanes_one_way_without_rotation_odd_width: case(2, 4).plain().heads(3, 5).lanes().check()
    lanes_both_ways: case(2, 6).both_ways().lanes().check()
    lanes_after_a_past: case(2, 3).past(2, 2).lanes().check()
    lanes_after_a_shared_start_row: case(5, 3).past(1, 1).lanes().check()
    lanes_both_ways_after_a_shared_past: case(3, 2).both_ways().past(1, 4).lanes().check()
    lanes_of_two_groups: case(18, 2).heads(1, 2).past(1, 1).lanes().check()
    lanes_of_two_groups_after_a_past: case(17, 2).heads(1, 2).past(17, 2).lanes().check()
}

#[test]
fn sizes_of_practice_equal_the_reference() -> Result<()> {
    let cases = [
        case(40, 9).heads(4, 64),
        case(50, 8).heads(16, 16).past(1, 1),
        case(33, 12).heads(3, 24).past(33, 5),
        case(70, 8).heads(2, 32).past(1, 1).dropout(),
        case(3, 17).heads(2, 16).past(3, 21).both_ways(),
        case(2, 1).heads(4, 64).past(1, 700),
        case(2, 143).heads(2, 64).past(1, 70).dropout(),
        case(1, 300).heads(2, 24).past(1, 211),
        case(1, 257)
            .heads(1, 18)
            .both_ways()
            .visible(&[[0, 1].repeat(128), vec![1]].concat()),
    ];
    for case in cases {
        for dtype in [DType::F32, DType::F64] {
            case.clone().check().against_reference(dtype, &Device::Cpu)?;
        }
    }
    Ok(())
}

/// Tests, one per case, that compare both types on a CUDA device.
///
/// The sizes are too large for finite differences.
#[cfg(feature = "cuda")]
macro_rules! on_cuda {
    ($($name:ident: $case:expr,)*) => {
        mod cases_on_cuda {
            use super::*;

            $(#[test]
            fn $name() -> Result<()> {
                $case.check().against_reference_on_cuda(DType::F32)?;
                $case.check().against_reference_on_cuda(DType::BF16)
            })*
        }
    };
}

// sizes for each form and kernel: several blocks and warps, never a multiple of them
#[cfg(feature = "cuda")]
on_cuda! {
    few_after_a_start_row: case(40, 8).heads(4, 64).past(1, 1),
    few_in_one_tile_and_one_key: case(21, 16).heads(3, 64).past(1, 1),
    few_without_a_past: case(9, 7).heads(3, 64),
    few_as_many_as_can_be: case(3, 32).heads(2, 128).past(3, 32),
    few_both_ways_after_a_shared_past: case(5, 19).heads(2, 128).past(1, 40).both_ways(),
    few_both_ways: case(7, 9).heads(2, 32).past(1, 4).both_ways(),
    few_without_rotation: case(4, 20).heads(1, 16).past(1, 3).plain(),
    few_of_96_channels: case(3, 5).heads(2, 96).past(3, 2),
    few_far_away: case(2, 30).heads(2, 96).at(123_456),
    few_one_query: case(2, 1).heads(3, 64).past(1, 63),
    few_of_many_sequences: case(2100, 2).heads(16, 16).past(1, 1),
    many_after_a_shared_past: case(2, 143).heads(2, 64).past(1, 70),
    many_after_a_start_row: case(1, 300).heads(2, 128).past(1, 1),
    many_both_ways: case(1, 257).heads(1, 64).both_ways(),
    many_without_rotation: case(2, 200).heads(2, 32).past(2, 5).plain(),
    many_far_away: case(1, 150).heads(1, 96).at(123_456),
    many_both_ways_after_a_shared_past: case(3, 130).heads(2, 16).past(1, 130).both_ways(),
    many_of_the_past: case(3, 5).heads(2, 64).past(3, 300),
    many_in_whole_tiles: case(1, 256).heads(2, 64),
    many_in_whole_tiles_of_wide_heads: case(1, 128).heads(1, 128).past(1, 64),
    many_after_a_past_of_whole_tiles_and_one: case(2, 129).heads(2, 64).past(2, 193),
    many_of_96_channels_after_a_past: case(2, 129).heads(2, 96).past(2, 63),
    many_both_ways_of_96_channels: case(1, 191).heads(1, 96).both_ways(),
    many_heads: case(5, 200).heads(7, 32).past(1, 9),
    one_query: case(2, 1).heads(4, 64).past(1, 700),
    one_query_of_96_channels: case(3, 1).heads(2, 96).past(3, 1000),
    one_query_of_8_channels: case(2, 1).heads(3, 8).past(2, 100),
    one_query_without_rotation: case(1, 1).heads(2, 128).past(1, 3000).plain(),
    odd_heads_of_24_channels: case(2, 70).heads(2, 24).past(1, 40),
    odd_heads_both_ways: case(1, 90).heads(3, 10).both_ways(),
    odd_heads_of_46_channels: case(6, 11).heads(2, 46).past(1, 2),
    odd_heads_of_127_channels: case(1, 35).heads(1, 127).plain().past(1, 3),
}

#[test]
fn sizes_choose_the_kernel() {
    let plan = |sequences, queries, past, plain| {
        let sizes = super::Sizes {
            sequences,
            queries,
            past,
            heads: 4,
            head_dim: 64,
        };
        cpu::Plan::for_sizes(&sizes, plain)
    };
    assert_eq!(plan(2, 8, 1, true), cpu::Plan::Dense);
    assert_eq!(plan(512, 8, 1, true), cpu::Plan::Lanes);
    assert_eq!(plan(512, 8, 1, false), cpu::Plan::Dense);
    assert_eq!(plan(512, 1, 5000, true), cpu::Plan::Dense);
    assert!(matches!(plan(512, 2048, 0, true), cpu::Plan::Blocked(_)));
}

/// One call gives the same output as two calls, the second after the first's `present`.
#[test]
fn a_call_equals_its_steps() -> Result<()> {
    let Case { a, .. } = case(2, 9);
    let (q, kv) = (uniform(&[2, 9, 8], 1)?, uniform(&[2, 9, 16], 2)?);
    let whole = forward(&a, &q, &kv, None, 0, None)?;
    let mut past: Option<Tensor> = None;
    for (from, rows) in [(0, 4), (4, 1), (5, 1), (6, 3)] {
        let (q, kv) = (q.narrow(1, from, rows)?, kv.narrow(1, from, rows)?);
        let step = forward(&a, &q, &kv, past.as_ref(), from, None)?;
        let expected = whole.out.narrow(1, from, rows)?;
        assert!(relative_error(&step.out, &expected, 1e-6)? < 1e-14);
        past = Some(match past {
            Some(past) => Tensor::cat(&[&past, &step.present], 1)?,
            None => step.present,
        });
    }
    Ok(())
}

/// Slices of larger tensors give the same results as copies of them.
#[test]
fn inputs_may_be_parts_of_larger_tensors() -> Result<()> {
    let Case { a, .. } = case(2, 3);
    let packed = uniform(&[2, 3, 24], 1)?;
    let (q, kv) = (packed.narrow(2, 0, 8)?, packed.narrow(2, 8, 16)?);
    let past = uniform(&[2, 9, 16], 2)?.narrow(1, 2, 5)?;
    let backwards = uniform(&[2, 16, 5], 3)?.transpose(1, 2)?;
    for past in [past, backwards] {
        let found = forward(&a, &q, &kv, Some(&past), 5, None)?;
        let past = past.force_contiguous()?;
        let expected = forward(
            &a,
            &q.force_contiguous()?,
            &kv.force_contiguous()?,
            Some(&past),
            5,
            None,
        )?;
        assert_eq!(relative_error(&found.out, &expected.out, 1e-6)?, 0.0);
        assert_eq!(relative_error(&found.present, &expected.present, 1e-6)?, 0.0);
    }
    Ok(())
}

#[test]
fn types_without_a_kernel_take_the_reference() -> Result<()> {
    let Case { a, .. } = case(2, 3);
    let [q, kv, past, d_out] = [
        uniform(&[2, 3, 8], 1)?,
        uniform(&[2, 3, 16], 2)?,
        uniform(&[1, 2, 16], 3)?,
        uniform(&[2, 3, 8], 4)?,
    ]
    .map(|tensor| tensor.to_dtype(DType::BF16));
    let (q, kv, past, d_out) = (q?, kv?, past?, d_out?);
    let exact = |tensor: &Tensor| tensor.to_dtype(DType::F64);
    let found = forward(&a, &q, &kv, Some(&past), 2, None)?;
    let found = (
        found.out.clone(),
        backward(&a, &q, &kv, Some(&past), 2, None, found.saved, &d_out, None)?,
    );
    let (q, kv, past, d_out) = (exact(&q)?, exact(&kv)?, exact(&past)?, exact(&d_out)?);
    let expected = forward(&a, &q, &kv, Some(&past), 2, None)?;
    let out = expected.out.clone();
    let expected = backward(&a, &q, &kv, Some(&past), 2, None, expected.saved, &d_out, None)?;
    assert!(relative_error(&found.0, &out, 1e-6)? < 1e-2);
    assert!(relative_error(&found.1.d_q, &expected.d_q, 1e-6)? < 1e-2);
    assert!(relative_error(&found.1.d_kv, &expected.d_kv, 1e-6)? < 1e-2);
    let (Some(found), Some(expected)) = (found.1.d_past, expected.d_past) else {
        panic!("no gradient of the past");
    };
    assert!(relative_error(&found, &expected, 1e-6)? < 1e-2);
    Ok(())
}

#[test]
fn nothing_to_attend_gives_nothing() -> Result<()> {
    let Case { a, .. } = case(2, 3);
    let (q, kv) = (uniform(&[0, 3, 8], 1)?, uniform(&[0, 3, 16], 2)?);
    let output = forward(&a, &q, &kv, None, 0, None)?;
    assert_eq!((output.out.dims(), output.present.dims()), (q.dims(), kv.dims()));
    let gradients = backward(&a, &q, &kv, None, 0, None, output.saved, &q, None)?;
    assert_eq!((gradients.d_q.dims(), gradients.d_kv.dims()), (q.dims(), kv.dims()));
    let (q, kv, past) = (
        uniform(&[2, 3, 8], 1)?,
        uniform(&[2, 3, 16], 2)?,
        uniform(&[2, 0, 16], 3)?,
    );
    let output = forward(&a, &q, &kv, Some(&past), 0, None)?;
    let gradients = backward(&a, &q, &kv, Some(&past), 0, None, output.saved, &q, None)?;
    assert_eq!(gradients.d_past.as_ref().map(Tensor::dims), Some(past.dims()));
    Ok(())
}

#[test]
fn wrong_inputs_are_errors() -> Result<()> {
    let Case { a, .. } = case(2, 3);
    let (q, kv) = (uniform(&[2, 3, 8], 1)?, uniform(&[2, 3, 16], 2)?);
    let fails = |a: &Attention, q: &Tensor, kv: &Tensor, past: Option<&Tensor>, visible: Option<&Tensor>| {
        forward(a, q, kv, past, 0, visible).is_err()
    };
    assert!(!fails(&a, &q, &kv, None, None));
    let odd = case(2, 3).heads(8, 1).a;
    assert!(fails(&odd, &q, &kv, None, None));
    assert!(fails(&case(2, 3).heads(0, 8).a, &q, &kv, None, None));
    assert!(fails(&case(2, 3).heads(3, 4).a, &q, &kv, None, None));
    assert!(fails(&a, &q, &q, None, None));
    assert!(fails(&a, &q, &kv.to_dtype(DType::F32)?, None, None));
    assert!(fails(&a, &q, &kv, Some(&uniform(&[3, 1, 16], 3)?), None));
    assert!(fails(&a, &q, &kv, Some(&uniform(&[2, 1, 8], 3)?), None));
    assert!(fails(&a, &q, &kv, None, Some(&uniform(&[2, 3], 3)?)));
    let mut beyond = case(2, 3).dropout().a;
    beyond.dropout = beyond.dropout.map(|dropout| Dropout {
        probability: 1.5,
        ..dropout
    });
    assert!(fails(&beyond, &q, &kv, None, None));
    let saved = forward(&a, &q, &kv, None, 0, None)?.saved;
    let past = uniform(&[2, 1, 16], 3)?;
    assert!(backward(&a, &q, &kv, Some(&past), 0, None, saved, &q, None).is_err());
    Ok(())
}
