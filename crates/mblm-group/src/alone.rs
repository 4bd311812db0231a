//! A group of one rank: every collective returns its input, without a copy.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::check;
use crate::group::Group;

/// The only rank of a group of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, record: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![record.to_vec()])
    }

    fn broadcast(&self, root: usize, bytes: &[u8]) -> Result<Vec<u8>> {
        check::root(1, root)?;
        Ok(bytes.to_vec())
    }

    fn reduce_scatter(&self, data: &Tensor) -> Result<Tensor> {
        check::flat("reduce_scatter", data)?;
        Ok(data.clone())
    }

    fn all_gather(&self, shard: &Tensor) -> Result<Tensor> {
        check::flat("all_gather", shard)?;
        Ok(shard.clone())
    }

    fn all_reduce(&self, data: &Tensor) -> Result<Tensor> {
        check::movable("all_reduce", data)?;
        Ok(data.clone())
    }

    fn send(&self, to: usize, _data: &Tensor) -> Result<()> {
        bail!("send: a group of one has no other rank, found {to}")
    }

    fn receive(&self, from: usize, _like: &Tensor) -> Result<Tensor> {
        bail!("receive: a group of one has no other rank, found {from}")
    }

    fn split(&self, _color: usize) -> Result<Arc<dyn Group>> {
        Ok(Arc::new(*self))
    }

    fn end(&self) -> Result<()> {
        Ok(())
    }

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn collectives_return_their_input() -> Result<()> {
        let data = Tensor::arange(0f32, 6f32, &Device::Cpu)?;
        for result in [
            Alone.reduce_scatter(&data)?,
            Alone.all_gather(&data)?,
            Alone.all_reduce(&data)?,
        ] {
            assert_eq!(result.id(), data.id(), "the tensor itself, not a copy");
        }
        assert_eq!(Alone.gather(b"record")?, [b"record"]);
        assert_eq!(Alone.broadcast(0, b"bytes")?, b"bytes");
        Alone.barrier()?;
        assert_eq!((Alone.split(7)?.rank(), Alone.split(7)?.size()), (0, 1));
        assert!(!Alone.is_busy()?);
        Alone.end()
    }

    #[test]
    fn wrong_arguments_are_named() -> Result<()> {
        let data = Tensor::zeros((2, 3), DType::F32, &Device::Cpu)?;
        let failed = |result: Result<Tensor>| result.unwrap_err().to_string();
        assert!(failed(Alone.all_gather(&data)).contains("expected one dimension, found [2, 3]"));
        assert!(failed(Alone.all_reduce(&data.t()?)).contains("expected a contiguous tensor, found [3, 2]"));
        assert!(failed(Alone.all_reduce(&data.to_dtype(DType::I64)?)).contains("found I64"));
        assert!(Alone.broadcast(1, b"").unwrap_err().to_string().contains("found 1"));
        assert!(Alone.send(1, &data).is_err() && Alone.receive(1, &data).is_err());
        Ok(())
    }
}
