//! Rows of a table, selected by ids.
//!
//! ```text
//! y[i] = table[ids[i]]                       ids (…) u32, table (V, d), y (…, d)
//! d_table[r] += Σ_{i: ids[i] = r} dy[i]      except a frozen row, such as that of padding
//! ```
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::embedding;
//!
//! let table = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu)?; // (vocabulary, d)
//! let ids = Tensor::new(&[[1u32, 0]], &Device::Cpu)?;
//! let y = embedding::forward(&ids, &table, DType::F32)?;
//! assert_eq!(y.to_vec3::<f32>()?, [[[3.0, 4.0], [1.0, 2.0]]]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};

use crate::{GradBuffer, fallback, indices};

/// The rows of `table` (V, d) that `ids` (any shape, u32) select, as `dtype`: (…, d).
///
/// # Errors
/// An id of V or more. On a CUDA device, where a check would wait for the device, it selects NaN.
pub fn forward(ids: &Tensor, table: &Tensor, dtype: DType) -> Result<Tensor> {
    let (vocabulary, _) = table.dims2()?;
    indices::check("embedding", ids, vocabulary)?;
    match (table.device().is_cpu(), table.dtype()) {
        (true, DType::F32) => cpu::forward::<f32>(ids, table)?.to_dtype(dtype),
        (true, DType::F64) => cpu::forward::<f64>(ids, table)?.to_dtype(dtype),
        #[cfg(feature = "cuda")]
        (_, DType::F32) if matches!(dtype, DType::F32 | DType::BF16) => cuda::forward(ids, table, dtype),
        _ => reference::forward(ids, table)?.to_dtype(dtype),
    }
}

/// Adds the gradient of the table to its buffer (V, d), except for row `frozen`.
///
/// `ids` is the argument of [`forward`], `dy` (…, d) the gradient of its result.
///
/// # Errors
/// An id of V or more. On a CUDA device it is skipped.
pub fn backward(ids: &Tensor, dy: &Tensor, d_table: &mut GradBuffer, frozen: Option<u32>) -> Result<()> {
    let (vocabulary, d) = d_table.tensor().dims2()?;
    indices::check("embedding", ids, vocabulary)?;
    let shape: Vec<usize> = ids.dims().iter().copied().chain([d]).collect();
    if dy.dims() != shape {
        candle_core::bail!(
            "embedding: expected a gradient of {shape:?} for ids of {:?} and a table of [{vocabulary}, {d}], found {:?}",
            ids.dims(),
            dy.dims()
        );
    }
    match (dy.device().is_cpu(), dy.dtype(), d_table.tensor().dtype()) {
        (true, DType::F32, DType::F32) => cpu::backward::<f32>(ids, dy, d_table, frozen),
        (true, DType::F64, DType::F64) => cpu::backward::<f64>(ids, dy, d_table, frozen),
        #[cfg(feature = "cuda")]
        (_, _, DType::F32) if crate::cuda::takes(dy) && cuda::takes(vocabulary) => {
            cuda::backward(ids, dy, d_table, frozen)
        }
        _ => {
            let table = d_table.tensor().zeros_like()?; // its values do not influence its gradient
            let ids = ids.flatten_all()?;
            let mut dy = dy.reshape(((), d))?.to_dtype(table.dtype())?; // (ids, d)
            if let Some(frozen) = frozen {
                let counts = ids.ne(frozen)?.unsqueeze(1)?.broadcast_as(dy.shape())?;
                dy = counts.where_cond(&dy, &dy.zeros_like()?)?;
            }
            let gradients = fallback::gradients(&[&table], &[Some(&dy)], |inputs| {
                Ok(vec![reference::forward(&ids, &inputs[0])?])
            })?;
            d_table.add(&gradients[0])
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result};

    use super::*;
    use crate::check::Harness;
    use crate::op_test;
    use crate::relative_error;
    use crate::testing::uniform;

    fn ids(shape: &[usize], vocabulary: u32) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        // every third id is the same: in tables of bytes, most ids select a few rows
        let ids: Vec<u32> = (0..count as u32)
            .map(|i| if i % 3 == 0 { 1 } else { i * i % vocabulary })
            .collect();
        Tensor::from_vec(ids, shape, &Device::Cpu)
    }

    fn ids_at(table: &Tensor, shape: &[usize], vocabulary: u32) -> Result<Tensor> {
        ids(shape, vocabulary)?.to_device(table.device())
    }

    macro_rules! check {
        ($shape:expr, $vocabulary:expr, $d:expr) => {
            Harness::new("embedding", &[&[$vocabulary, $d]])
                .wide(&[0])
                .reference(|t| {
                    Ok(vec![reference::forward(
                        &ids_at(&t[0], $shape, $vocabulary)?,
                        &t[0],
                    )?])
                })
                .fused(|t| {
                    Ok((
                        vec![forward(
                            &ids_at(&t[0], $shape, $vocabulary)?,
                            &t[0],
                            t[0].dtype(),
                        )?],
                        (),
                    ))
                })
                .backward(|t, (), dy, grads| {
                    backward(&ids_at(&t[0], $shape, $vocabulary)?, dy[0], &mut grads[0], None)?;
                    Ok(vec![None])
                })
        };
    }

    op_test! {
        a_batch: check!(&[2, 5], 7, 3)
        one_id: check!(&[], 3, 5)
        no_ids: check!(&[0, 4], 3, 5)
        three_dimensions: check!(&[2, 3, 4], 11, 17)
        wide_rows: check!(&[40], 4, 300)
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn runs_of_ids_on_cuda_equal_the_reference() -> Result<()> {
        check!(&[30_000], 258, 64).against_reference_on_cuda(DType::F32)?;
        check!(&[5000], 7, 40).against_reference_on_cuda(DType::F32)?;
        check!(&[3], 2000, 24).against_reference_on_cuda(DType::F32)?;
        // bf16 rows of an f32 table, a gradient in bf16, and a frozen row
        let device = crate::cuda::device(0)?;
        let ids = ids(&[3, 700], 258)?;
        let table = uniform(&[258, 40], 1)?;
        let on_device = (ids.to_device(&device)?, table.to_dtype(DType::F32)?.to_device(&device)?);
        let y = forward(&on_device.0, &on_device.1, DType::BF16)?;
        assert!(relative_error(&y, &reference::forward(&ids, &table)?, 1e-6)? < 5e-3);
        let dy = uniform(&[3, 700, 40], 2)?.to_dtype(DType::BF16)?;
        let mut found = GradBuffer::zeros((258, 40), DType::F32, &device)?;
        backward(&on_device.0, &dy.to_device(&device)?, &mut found, Some(1))?;
        let mut expected = GradBuffer::zeros((258, 40), DType::F64, &Device::Cpu)?;
        backward(&ids, &dy.to_dtype(DType::F64)?, &mut expected, Some(1))?;
        assert!(relative_error(found.tensor(), expected.tensor(), 1e-6)? < 1e-5);
        Ok(())
    }

    #[test]
    fn many_ids_equal_the_reference() -> Result<()> {
        check!(&[3, 1111], 256, 33).against_reference(DType::F32, &Device::Cpu)?;
        check!(&[3, 1111], 256, 33).against_reference(DType::F64, &Device::Cpu)
    }

    #[test]
    fn a_frozen_row_receives_nothing_and_the_others_what_they_would() -> Result<()> {
        let (ids, dy) = (ids(&[2, 9], 5)?, uniform(&[2, 9, 3], 1)?);
        for dtype in [DType::F64, DType::BF16] {
            let mut buffers = Vec::new();
            for frozen in [None, Some(1)] {
                let mut buffer = GradBuffer::zeros((5, 3), DType::F64, &Device::Cpu)?;
                backward(&ids, &dy.to_dtype(dtype)?, &mut buffer, frozen)?;
                buffers.push(buffer.tensor().to_vec2::<f64>()?);
            }
            assert!(buffers[0][1].iter().all(|g| *g != 0.0));
            buffers[0][1] = vec![0.0; 3];
            for (free, frozen) in buffers[0].iter().flatten().zip(buffers[1].iter().flatten()) {
                assert!((free - frozen).abs() < 1e-12, "{buffers:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_add_to_what_the_buffer_holds() -> Result<()> {
        let (ids, dy) = (ids(&[7], 5)?, uniform(&[7, 3], 1)?);
        let mut buffer = GradBuffer::zeros((5, 3), DType::F64, &Device::Cpu)?;
        backward(&ids, &dy, &mut buffer, None)?;
        let once = buffer.tensor().copy()?;
        backward(&ids, &dy, &mut buffer, None)?;
        assert!(relative_error(buffer.tensor(), &(once * 2.0)?, 1e-6)? < 1e-15);
        Ok(())
    }

    #[test]
    fn long_sums_keep_their_precision() -> Result<()> {
        // 2^20 times 0.1 to one row: a plain running sum in f32 is off by 1e-2 relative
        let count = 1 << 20;
        let ids = Tensor::zeros(count, DType::U32, &Device::Cpu)?;
        let dy = Tensor::full(0.1f32, (count, 1), &Device::Cpu)?;
        let mut buffer = GradBuffer::zeros((1, 1), DType::F32, &Device::Cpu)?;
        backward(&ids, &dy, &mut buffer, None)?;
        let found = f64::from(buffer.tensor().flatten_all()?.to_vec1::<f32>()?[0]);
        let exact = f64::from(0.1f32) * count as f64;
        assert!((found / exact - 1.0).abs() < 3e-5, "{found} against {exact}");
        Ok(())
    }

    #[test]
    fn ids_outside_the_table_are_named() -> Result<()> {
        let ids = Tensor::new(&[[0u32, 1], [2, 256]], &Device::Cpu)?;
        let table = uniform(&[256, 3], 1)?;
        let mut buffer = GradBuffer::zeros_like(&table)?;
        let dy = uniform(&[2, 2, 3], 2)?;
        let messages = [
            forward(&ids, &table, DType::F64).unwrap_err().to_string(),
            backward(&ids, &dy, &mut buffer, None).unwrap_err().to_string(),
        ];
        for message in messages {
            assert!(message.contains("id 256 at position [1, 1]"), "{message}");
            assert!(message.contains("256 rows"), "{message}");
        }
        assert!(!buffer.is_touched());
        assert!(forward(&ids.to_dtype(DType::I64)?, &table, DType::F64).is_err());
        assert!(backward(&Tensor::zeros(4, DType::U32, &Device::Cpu)?, &dy, &mut buffer, None).is_err());
        Ok(())
    }
}
