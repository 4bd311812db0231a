//! Adds rows of a position table to every sequence.
//!
//! ```text
//! y[s, i] = x[s, i] + table[start + i]                    x, y (n, t, d), table (P, d), start + t ≤ P
//! dx = dy;   d_table[start + i] += Σ_s dy[s, i]
//! ```
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use mblm_ops::positions;
//!
//! let x = Tensor::new(&[[[1f32], [2.0]]], &Device::Cpu)?; // (n, t, d) = (1, 2, 1)
//! let table = Tensor::new(&[[10f32], [20.0], [30.0]], &Device::Cpu)?;
//! assert_eq!(positions::forward(&x, &table, 1)?.to_vec3::<f32>()?, [[[21.0], [32.0]]]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};

use crate::GradBuffer;

/// `x` (n, t, d) plus the rows `start..start + t` of `table` (P, d).
///
/// On a CUDA device `x` may be bf16 if the table is f32.
pub fn forward(x: &Tensor, table: &Tensor, start: usize) -> Result<Tensor> {
    let (_, t, d) = x.dims3()?;
    check(table, start, t, d)?;
    match (x.device().is_cpu(), x.dtype(), table.dtype()) {
        (true, DType::F32, DType::F32) => cpu::forward::<f32>(x, table, start),
        (true, DType::F64, DType::F64) => cpu::forward::<f64>(x, table, start),
        #[cfg(feature = "cuda")]
        (_, _, DType::F32) if crate::cuda::takes(x) => cuda::forward(x, table, start),
        _ => reference::forward(x, table, start),
    }
}

/// Adds the gradient of the table to its buffer (P, d).
///
/// `dy` (n, t, d) is the gradient of the result of [`forward`] with the same `start`; it also is
/// the gradient of `x`.
pub fn backward(dy: &Tensor, start: usize, d_table: &mut GradBuffer) -> Result<()> {
    let (_, t, d) = dy.dims3()?;
    check(d_table.tensor(), start, t, d)?;
    match (dy.device().is_cpu(), dy.dtype(), d_table.tensor().dtype()) {
        (true, DType::F32, DType::F32) => cpu::backward::<f32>(dy, start, d_table),
        (true, DType::F64, DType::F64) => cpu::backward::<f64>(dy, start, d_table),
        #[cfg(feature = "cuda")]
        (_, _, DType::F32) if crate::cuda::takes(dy) => cuda::backward(dy, start, d_table),
        _ => {
            let rows = d_table.tensor().dim(0)?;
            let summed = dy.to_dtype(d_table.tensor().dtype())?.sum(0)?; // (t, d)
            d_table.add(&summed.pad_with_zeros(0, start, rows - start - t)?)
        }
    }
}

fn check(table: &Tensor, start: usize, t: usize, d: usize) -> Result<()> {
    let (rows, width) = table.dims2()?;
    if width != d || start.checked_add(t).is_none_or(|end| end > rows) {
        candle_core::bail!(
            "positions: expected a table of at least {start} + {t} rows of {d} channels, found [{rows}, {width}]"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Result;

    use super::*;
    use crate::check::Harness;
    use crate::op_test;
    use crate::testing::uniform;

    macro_rules! check {
        ($n:expr, $t:expr, $d:expr; $rows:expr, $start:expr) => {
            Harness::new("positions", &[&[$n, $t, $d], &[$rows, $d]])
                .wide(&[1])
                .reference(|t| Ok(vec![reference::forward(&t[0], &t[1], $start)?]))
                .fused(|t| Ok((vec![forward(&t[0], &t[1], $start)?], ())))
                .backward(|_, (), dy, grads| {
                    backward(dy[0], $start, &mut grads[1])?;
                    Ok(vec![Some(dy[0].clone()), None])
                })
        };
    }

    op_test! {
        all_rows: check!(2, 3, 5; 3, 0)
        some_rows: check!(3, 4, 8; 9, 2)
        one_row: check!(4, 1, 16; 7, 6)
        no_sequence: check!(0, 2, 3; 2, 0)
    }

    #[test]
    fn several_pieces_equal_the_reference() -> Result<()> {
        check!(70, 40, 33; 50, 5).against_reference(DType::F32, &candle_core::Device::Cpu)?;
        check!(3, 300, 130; 300, 0).against_reference(DType::F64, &candle_core::Device::Cpu)
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn several_blocks_on_cuda_equal_the_reference() -> Result<()> {
        for dtype in [DType::F32, DType::BF16] {
            check!(9000, 8, 24; 8, 0).against_reference_on_cuda(dtype)?;
            check!(2, 300, 130; 310, 7).against_reference_on_cuda(dtype)?;
        }
        Ok(())
    }

    #[test]
    fn rows_beyond_the_table_are_an_error() -> Result<()> {
        let (x, table) = (uniform(&[2, 3, 4], 1)?, uniform(&[5, 4], 2)?);
        assert!(forward(&x, &table, 2).is_ok());
        assert!(forward(&x, &table, 3).is_err());
        assert!(forward(&x, &table, usize::MAX).is_err());
        assert!(forward(&x, &uniform(&[5, 3], 2)?, 0).is_err());
        assert!(backward(&x, 3, &mut GradBuffer::zeros_like(&table)?).is_err());
        Ok(())
    }
}
