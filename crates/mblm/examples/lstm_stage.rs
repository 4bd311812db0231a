//! A stage of one's own: an LSTM as the local stage of a two-stage model, without a change to the
//! library.
//!
//! The block writes its forward pass in candle's tensor operations, on tracked parameters; candle's
//! autograd gives its gradients. A name in the registry makes it available to configurations.
//!
//! ```console
//! cargo run --release --example lstm_stage
//! ```

use candle_core::{D, DType, Device, Tensor};
use mblm::Result;
use mblm::blocks::{BlockArgs, BlockRegistry, BlockSpec, Keys, Mamba2, PositionEmbedding, keys_of};
use mblm::config::ModelConfig;
use mblm::model::{Builder, Compute, Gradients, Ids, Init, Mblm, Parameter, Seeded, StageBlock, State, TrainingPass};
use mblm::train::{Adam, OptimizerSpec};
use serde::{Deserialize, Serialize};

/// The block `lstm`: its keys in a configuration.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Lstm {
    /// Added to the input of the forget gate.
    forget_bias: f64,
    pos_emb_type: Option<PositionEmbedding>,
}

impl BlockSpec for Lstm {
    fn block_type(&self) -> &str {
        "lstm"
    }

    fn keys(&self) -> Keys {
        keys_of(self)
    }

    fn position_embedding(&self) -> Option<PositionEmbedding> {
        self.pos_emb_type
    }

    fn dropout(&self) -> Option<f64> {
        Some(0.0)
    }

    fn build(&self, args: &BlockArgs<'_>) -> Result<Box<dyn StageBlock>> {
        let layers = (0..args.layers).map(|index| Layer::new(self.forget_bias, args.dim, &args.builder.scope(index)));
        Ok(Box::new(LstmStack(layers.collect::<Result<_>>()?)))
    }
}

/// A stack of LSTM layers with residual connections.
///
/// ```text
/// [i | f | g | o] = W x_t + U h_{t−1} + b;   c_t = σ(f + f_0) c_{t−1} + σ(i) tanh(g);   h_t = σ(o) tanh(c_t)
/// ```
///
/// State, two slots a layer: h (n, d) and c (n, d).
struct LstmStack(Vec<Layer>);

struct Layer {
    input: Parameter,
    recurrent: Parameter,
    bias: Parameter,
    forget_bias: f64,
}

impl Layer {
    fn new(forget_bias: f64, dim: usize, builder: &Builder<'_>) -> Result<Self> {
        Ok(Self {
            input: builder.parameter("input", &[4 * dim, dim], Init::linear(dim))?,
            recurrent: builder.parameter("recurrent", &[4 * dim, dim], Init::linear(dim))?,
            bias: builder.parameter("bias", &[4 * dim], Init::Zeros)?,
            forget_bias,
        })
    }

    fn step(&self, x: &Tensor, h: &Tensor, c: &Tensor, dim: usize) -> candle_core::Result<(Tensor, Tensor)> {
        let gates = x
            .matmul(&self.input.tracked().t()?)?
            .add(&h.matmul(&self.recurrent.tracked().t()?)?)?
            .broadcast_add(self.bias.tracked())?; // (n, 4d)
        let gate = |index: usize| gates.narrow(D::Minus1, index * dim, dim);
        let sigmoid = |x: Tensor| (x.neg()?.exp()? + 1.0)?.recip();
        let keep = (sigmoid((gate(1)? + self.forget_bias)?)? * c)?;
        let c = (keep + (sigmoid(gate(0)?)? * gate(2)?.tanh()?)?)?;
        let h = (sigmoid(gate(3)?)? * c.tanh()?)?;
        Ok((h, c))
    }
}

impl StageBlock for LstmStack {
    fn parameters(&self) -> Vec<&Parameter> {
        let layers = self.0.iter();
        layers
            .flat_map(|layer| [&layer.input, &layer.recurrent, &layer.bias])
            .collect()
    }

    fn initial_state(&self) -> State {
        State::empty(2 * self.0.len())
    }

    fn forward(&self, x: &Tensor, state: &mut State, _compute: &Compute) -> Result<Tensor> {
        let (sequences, positions, dim) = x.dims3()?;
        let mut x = x.clone();
        for (index, layer) in self.0.iter().enumerate() {
            // a slot is empty at the start, or has one row that all sequences share, or one row
            // each
            let slot = |slot: usize| match state.get(slot) {
                Some(row) => row.broadcast_as((sequences, dim)),
                None => Tensor::zeros((sequences, dim), x.dtype(), x.device()),
            };
            let (mut h, mut c) = (slot(2 * index)?, slot(2 * index + 1)?);
            let mut rows = Vec::with_capacity(positions);
            for position in 0..positions {
                let row = x.narrow(1, position, 1)?.squeeze(1)?;
                (h, c) = layer.step(&row, &h, &c, dim)?;
                rows.push(h.clone());
            }
            x = (x + Tensor::stack(&rows, 1)?)?;
            state.set(2 * index, h);
            state.set(2 * index + 1, c);
        }
        state.advance(positions);
        Ok(x)
    }
}

/// A registry that knows `block_type: lstm`.
pub(crate) fn registry() -> BlockRegistry {
    let mut registry = BlockRegistry::default();
    registry.register::<Lstm>();
    registry
}

/// A two-stage model: Mamba2 over patches of 8 bytes, the LSTM inside a patch.
pub(crate) fn config() -> ModelConfig {
    let lstm = Lstm {
        forget_bias: 1.0,
        pos_emb_type: Some(PositionEmbedding::Fixed),
    };
    ModelConfig::new([32, 8])
        .dims([64, 64])
        .layers([1, 1])
        .block(0, Mamba2::new(16, 16))
        .block(1, lstm)
}

/// Trains for some steps on one batch of text and returns the loss before and after.
pub(crate) fn train(model: &Mblm, steps: usize) -> Result<(f64, f64)> {
    let text: Vec<u32> = include_str!("lstm_stage.rs")
        .bytes()
        .take(4 * 256)
        .map(u32::from)
        .collect();
    let ids = Ids::new(&text, 4, 256);
    let mut gradients = Gradients::zeros(model.parameters())?;
    let mut optimizer = Adam::default().build(model.parameters())?;
    let before = model.loss(ids, None)?.mean;
    for _ in 0..steps {
        model.loss_and_gradients(ids, None, TrainingPass::default(), &mut gradients)?;
        optimizer.step(&gradients, 3e-3, Some(1.0))?;
        gradients.clear()?;
    }
    Ok((before, model.loss(ids, None)?.mean))
}

#[allow(dead_code, reason = "the tests include this file for its block, not its main")]
fn main() -> Result<()> {
    // the registry is for configurations that name the block: those of files
    let model = Mblm::new(&config(), &registry(), &Seeded(1), DType::F32, &Device::Cpu)?;
    let (before, after) = train(&model, 60)?;
    println!("loss before {before:.3}, after 60 steps {after:.3} nats per byte");
    Ok(())
}
