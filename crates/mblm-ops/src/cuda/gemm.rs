//! Matrix products by cuBLAS, with sums in `f32`.

use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{D, DType, Device, Result, Tensor};

use super::launch::pointer;

/// A row-major matrix (rows, columns) in device memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pointer: u64,
    dtype: DType,
    rows: usize,
    columns: usize,
    /// Elements from one row to the next.
    stride: usize,
    transposed: bool,
}

impl Matrix {
    /// A contiguous tensor as a matrix (rows, columns).
    ///
    /// The columns are the last dimension of the tensor, or several.
    pub(crate) fn of(tensor: &Tensor, columns: usize) -> Result<Self> {
        if !tensor.is_contiguous() {
            candle_core::bail!("product: expected a contiguous tensor, found {:?}", tensor.layout());
        }
        let rows = tensor.elem_count() / columns.max(1);
        Ok(Self {
            pointer: pointer(tensor)?,
            dtype: tensor.dtype(),
            rows,
            columns,
            stride: columns,
            transposed: false,
        })
    }

    /// A tensor as a matrix whose columns are the last dimension.
    ///
    /// Rows are a constant distance apart, which may exceed their length.
    pub(crate) fn of_rows(tensor: &Tensor) -> Result<Self> {
        let Some(stride) = row_stride(tensor) else {
            candle_core::bail!("product: expected rows at equal distances, found {:?}", tensor.layout())
        };
        let columns = tensor.dim(D::Minus1)?;
        Ok(Self {
            pointer: pointer(tensor)?,
            dtype: tensor.dtype(),
            rows: tensor.elem_count() / columns.max(1),
            columns,
            stride,
            transposed: false,
        })
    }

    /// The transposed matrix, for use as an operand.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            transposed: !self.transposed,
            ..self
        }
    }
}

/// The constant distance in elements between rows, or `None` if it varies.
///
/// A row is the last dimension and must be contiguous.
pub(crate) fn row_stride(tensor: &Tensor) -> Option<usize> {
    let (dims, strides) = (tensor.dims(), tensor.stride());
    let (columns, outer) = dims.split_last()?;
    if *columns > 1 && strides[outer.len()] != 1 {
        return None;
    }
    let mut rows = outer.iter().zip(strides).filter(|(dim, _)| **dim != 1).rev();
    let Some((dim, stride)) = rows.next() else {
        return Some(*columns);
    };
    let mut end = dim * stride;
    let regular = rows.all(|(dim, stride)| std::mem::replace(&mut end, dim * stride) == *stride);
    (regular && stride >= columns).then_some(*stride)
}

/// c = a b + `beta` c for a (m, k), b (k, n) and c (m, n); c must not be transposed.
pub(crate) fn product(device: &Device, a: Matrix, b: Matrix, c: Matrix, beta: f32) -> Result<()> {
    let (m, n, k) = (c.rows, c.columns, a.columns);
    if a.rows != m || b.rows != k || b.columns != n || c.transposed || a.dtype != b.dtype {
        candle_core::bail!("product: expected (m, k), (k, n) and (m, n) of one type, found {a:?}, {b:?} and {c:?}");
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let int = |value: usize| -> Result<i32> { i32::try_from(value).map_err(candle_core::Error::wrap) };
    let operation = |matrix: &Matrix| match matrix.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let kind = |dtype| match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        other => candle_core::bail!("product: expected f32 or bf16, found {other:?}"),
    };
    let blas = device.as_cuda_device()?.cublas_handle();
    let alpha = 1f32;
    // cuBLAS is column-major: it sees the transposed matrices, so cᵀ = bᵀ aᵀ.
    // SAFETY: the matrices lie inside tensors that the caller holds, with the strides given.
    unsafe {
        result::gemm_ex(
            *blas.handle(),
            operation(&b),
            operation(&a),
            int(n)?,
            int(m)?,
            int(k)?,
            (&raw const alpha).cast(),
            b.pointer as *const _,
            kind(b.dtype)?,
            int(b.stride)?,
            a.pointer as *const _,
            kind(a.dtype)?,
            int(a.stride)?,
            (&raw const beta).cast(),
            c.pointer as *mut _,
            kind(c.dtype)?,
            int(c.stride)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(|error| candle_core::Error::Cuda(Box::new(error)).bt())
}
