//! Splits the rows of (…, d) among threads along channels and blocks of rows; sums over rows.

use candle_core::{D, DType, Result, Tensor};

use super::launch::{Kernel, Module};

const SUMS: Module = module!(SUMS);

/// Channels of a thread, if the rows allow it.
const WIDE: usize = 8;
/// Most threads of a block along the channels.
const MAX_THREADS: usize = 256;
/// Most rows that one thread sums alone.
const FEW_ROWS: usize = 32;
/// Blocks that fill a large GPU.
const ENOUGH_BLOCKS: usize = 132 * 8;

/// The division of a tensor's rows among threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowBlocks {
    /// The number of rows.
    pub(crate) rows: usize,
    /// Rows of a block.
    pub(crate) per_block: usize,
    d: usize,
    width: usize,
}

impl RowBlocks {
    /// The division for `x` (…, `d`) and the tensors of the same shape that the kernel reads.
    ///
    /// Rows that are not contiguous must be a multiple of 8 elements apart.
    pub(crate) fn new(x: &Tensor, d: usize, read: &[&Tensor]) -> Result<Self> {
        let rows = x.elem_count() / d.max(1);
        let aligned = read
            .iter()
            .all(|tensor| tensor.layout().start_offset().is_multiple_of(WIDE));
        let width = if d.is_multiple_of(WIDE) && aligned { WIDE } else { 1 };
        let across = d.div_ceil(width).div_ceil(MAX_THREADS).max(1);
        let per_block = (rows * across).div_ceil(ENOUGH_BLOCKS).max(1);
        // a grid has at most 65,535 blocks along y
        let per_block = per_block.max(rows.div_ceil(1 << 15));
        Ok(Self {
            rows,
            per_block,
            d,
            width,
        })
    }

    /// The kernel's name for this width.
    pub(crate) fn name(&self, kernel: &str) -> String {
        format!("{kernel}{}", self.width)
    }

    /// Blocks along the rows, equal to the rows of a tensor of partial sums.
    pub(crate) fn blocks(&self) -> usize {
        self.rows.div_ceil(self.per_block).max(1)
    }

    /// Threads of a block.
    pub(crate) fn threads(&self) -> usize {
        self.d.div_ceil(self.width).next_multiple_of(32).min(MAX_THREADS)
    }

    /// Blocks along channels and rows.
    pub(crate) fn grid(&self) -> (usize, usize) {
        (self.d.div_ceil(self.width * self.threads()).max(1), self.blocks())
    }
}

/// Adds the sum of the rows of `partial` (rows, d), which must be few, to `sum` (d).
pub(crate) fn add_columns(partial: &Tensor, sum: &Tensor) -> Result<()> {
    let d = partial.dim(D::Minus1)?;
    let rows = partial.elem_count() / d.max(1);
    let kernel = |name| {
        Kernel::new(partial.device(), SUMS, name, partial.dtype())?
            .tensor(partial)?
            .tensor(sum)?
            .int(rows)?
            .int(d)
    };
    match rows {
        ..=FEW_ROWS => kernel("add_few_rows")?.launch(super::blocks(d, 256), 256, 0),
        _ => kernel("add_columns")?.launch(super::blocks(d, 8), (8, 64), 0),
    }
}

/// Adds the sum of any number of rows of `x` (…, d) to `sum`, a contiguous tensor of d elements.
pub(crate) fn add_rows(x: &Tensor, sum: &Tensor) -> Result<()> {
    if x.elem_count() == 0 {
        return Ok(());
    }
    let d = x.dim(D::Minus1)?;
    let rows = match super::with_row_stride(x)? {
        (x, stride) if stride.is_multiple_of(WIDE) => (x, stride),
        _ => (x.contiguous()?, d),
    };
    let work = RowBlocks::new(&rows.0, d, &[&rows.0])?;
    let partial = super::empty((work.blocks(), d), DType::F32, x.device())?;
    Kernel::new(x.device(), SUMS, &work.name("column_parts"), x.dtype())?
        .strided(&rows)?
        .tensor(&partial)?
        .int(work.rows)?
        .int(d)?
        .int(rows.1)?
        .int(work.per_block)?
        .launch(work.grid(), work.threads(), 0)?;
    add_columns(&partial, sum)
}

/// Adds `x` to `sum`, which has as many elements.
pub(crate) fn add_to(x: &Tensor, sum: &Tensor) -> Result<()> {
    let x = x.contiguous()?;
    let count = x.elem_count();
    Kernel::new(x.device(), SUMS, "add_to", x.dtype())?
        .tensor(&x)?
        .tensor(sum)?
        .long(count)
        .launch(super::blocks(count, 256).min(ENOUGH_BLOCKS), 256, 0)
}

/// The sum over the sequences of `x` (n, …), as (1, …) in `f32`.
pub(crate) fn sum_sequences(x: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let n = dims[0];
    dims[0] = 1;
    let flat = x.reshape((n, x.elem_count() / n.max(1)))?;
    let sum = Tensor::zeros(dims.as_slice(), DType::F32, x.device())?;
    add_rows(&flat, &sum)?;
    Ok(sum)
}
