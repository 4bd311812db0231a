//! Gradients through the reference implementation, for devices without kernels.

use candle_core::{Result, Tensor, Var};

/// The autograd gradients of `inputs`, with `reference` outputs weighted by `d_outputs`.
///
/// Outputs whose gradient is `None` do not count. Inputs that influence no output get zeros.
pub(crate) fn gradients(
    inputs: &[&Tensor],
    d_outputs: &[Option<&Tensor>],
    reference: impl FnOnce(&[Tensor]) -> Result<Vec<Tensor>>,
) -> Result<Vec<Tensor>> {
    let vars = inputs
        .iter()
        .map(|input| Var::from_tensor(&input.detach()))
        .collect::<Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let mut total: Option<Tensor> = None;
    for (output, d_output) in reference(&tracked)?.iter().zip(d_outputs) {
        if let Some(d_output) = d_output {
            let weighed = (output * d_output.to_dtype(output.dtype())?)?.sum_all()?;
            total = Some(match total {
                Some(total) => (total + weighed)?,
                None => weighed,
            });
        }
    }
    let Some(total) = total else {
        return inputs.iter().map(|input| input.zeros_like()).collect();
    };
    let mut store = total.backward()?;
    vars.iter()
        .map(|var| match store.remove(var.as_tensor()) {
            Some(gradient) => Ok(gradient.detach()),
            None => var.zeros_like(),
        })
        .collect()
}
