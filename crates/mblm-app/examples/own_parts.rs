//! A program with an LSTM block and a data set of its own: all commands of `mblm` know both.

use std::sync::Arc;

use candle_core::{IndexOp, Tensor};
use mblm::data::{Dataset, DatasetArgs, Sequential};
use mblm::model::{Init, Parameter, Recomputed, SequenceBlock, StageBlock};

struct Lstm([Parameter; 2]);

impl SequenceBlock for Lstm {
    fn parameters(&self) -> Vec<&Parameter> {
        self.0.iter().collect()
    }

    fn forward(&self, x: &Tensor) -> mblm::Result<Tensor> {
        let sigmoid = |x: &Tensor| (x.neg()?.exp()? + 1.0)?.recip();
        let [input, recurrent] = [self.0[0].tracked().t()?, self.0[1].tracked().t()?];
        let inputs = x.contiguous()?.broadcast_matmul(&input)?;
        let [mut h, mut c] = [x.i((.., 0))?.zeros_like()?, x.i((.., 0))?.zeros_like()?];
        let rows = (0..x.dim(1)?).map(|t| {
            let gates = (inputs.i((.., t))? + h.matmul(&recurrent)?)?.chunk(4, 1)?;
            c = ((sigmoid(&gates[0])? * &c)? + (sigmoid(&gates[1])? * gates[2].tanh()?)?)?;
            h = (sigmoid(&gates[3])? * c.tanh()?)?;
            Ok(h.clone())
        });
        Ok((x + Tensor::stack(&rows.collect::<mblm::Result<Vec<_>>>()?, 1)?)?)
    }
}

fn lstm(_: &mblm::blocks::Keys, args: &mblm::blocks::BlockArgs<'_>) -> mblm::Result<Box<dyn StageBlock>> {
    let (builder, dim) = (args.builder, args.dim);
    let weight = |name| builder.parameter(name, &[4 * dim, dim], Init::linear(dim));
    Ok(Box::new(Recomputed(Lstm([weight("input")?, weight("recurrent")?]))))
}

fn squares(args: &DatasetArgs) -> mblm::Result<Option<Arc<dyn Dataset>>> {
    let text = Arc::new("6*6=36\n7*7=49\n8*8=64\n".repeat(50).into_bytes());
    let set = Sequential::new(text, 0..1050, args, Default::default(), "squares")?;
    Ok(Some(Arc::new(set)))
}

pub(crate) fn app() -> mblm_app::App {
    let app = mblm_app::App::new().blocks(|blocks| blocks.register_fn("lstm", lstm));
    app.tasks(|tasks| tasks.register("squares", squares))
}

fn main() -> std::process::ExitCode {
    app().run()
}
