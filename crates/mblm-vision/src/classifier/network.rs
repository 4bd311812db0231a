//! The network. Each convolution halves the image and is followed by a group norm (Wu and He 2018):
//! subtract the mean of a group of channels, divide by its deviation. The LSTM (Hochreiter and
//! Schmidhuber) starts with an open forget gate.
//!
//! ```text
//! [i | f | g | o] = W x_t + U h_{t−1} + b;   c_t = σ(f) c_{t−1} + σ(i) tanh(g);   h_t = σ(o) tanh(c_t)
//! ```

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::rnn::{self, LSTMConfig, RNN};
use candle_nn::{Conv2d, Conv2dConfig, Embedding, GroupNorm, Linear, Module, VarBuilder};
use mblm::checkpoint::atomic::NewFolder;
use mblm::checkpoint::{self, Folder};
use mblm::data::Batch;
use mblm::model::{
    Builder, Gradients, Init, Loss, ModelBatch, Parameter, ParameterSource, Parameters, TrainingPass, Watch,
};
use mblm::train::{BatchEvaluation, Metric, TimedLoss, Trainable, model_batch};
use mblm::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::{ClassifierExperiment, CnnLstmConfig, GROUP};
use super::words::Words;
use crate::clevr::ANSWERS;

/// The kind in a model folder's `config.json`.
const KIND: &str = "cnn_lstm";
/// Red, green, blue.
const COLOURS: usize = 3;
const EPSILON: f64 = 1e-5;

/// The network's entry in a model folder's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Description {
    network: CnnLstmConfig,
    words: Words,
    height: usize,
    width: usize,
}

/// The network.
pub struct CnnLstm {
    description: Description,
    convolutions: Vec<Convolution>,
    embedding: Parameter,
    lstm: [Parameter; 3],
    hidden: [Parameter; 2],
    answers: [Parameter; 2],
    parameters: Parameters,
    device: Device,
}

struct Convolution {
    /// (out, in, 3, 3)
    weight: Parameter,
    /// Scale and shift of the norm, (out).
    norm: [Parameter; 2],
}

/// A batch on the device.
struct Input {
    /// (b, t)
    words: Tensor,
    /// (b, 3, h, w), values around 0.
    images: Tensor,
    /// (b)
    answers: Tensor,
}

impl CnnLstm {
    /// Returns a float32 network for images of `height` × `width` pixels.
    ///
    /// # Errors
    /// Invalid sizes, or parameters that the source lacks.
    pub fn new(
        network: &CnnLstmConfig,
        words: Words,
        (height, width): (usize, usize),
        source: &dyn ParameterSource,
        device: &Device,
    ) -> Result<Self> {
        ClassifierExperiment::check_network(network)?;
        if height == 0 || width == 0 || height.max(width) > 1 << 15 || !words.is_sound() {
            return Err(Error::config("an image without pixels, or an empty list of words"));
        }
        let builder = Builder::new(source, DType::F32, device);
        let (mut inputs, mut high, mut wide) = (COLOURS, height, width);
        let mut convolutions = Vec::new();
        for (index, &outputs) in network.channels.iter().enumerate() {
            let scope = builder.scope("convolutions").scope(index);
            let deviation = (2.0 / (9 * inputs) as f64).sqrt();
            convolutions.push(Convolution {
                weight: scope.parameter("weight", &[outputs, inputs, 3, 3], Init::Normal(deviation))?,
                norm: [
                    scope.parameter("scale", &[outputs], Init::Ones)?,
                    scope.parameter("shift", &[outputs], Init::Zeros)?,
                ],
            });
            (inputs, high, wide) = (outputs, high.div_ceil(2), wide.div_ceil(2));
        }
        let embedding = builder.parameter("words", &[words.count(), network.word_dims], Init::Normal(1.0))?;
        let recurrent = builder.scope("lstm");
        let (dims, lstm_dims) = (network.word_dims, network.lstm_dims);
        let lstm = [
            recurrent.parameter("input", &[4 * lstm_dims, dims], Init::linear(lstm_dims))?,
            recurrent.parameter("recurrent", &[4 * lstm_dims, lstm_dims], Init::linear(lstm_dims))?,
            recurrent.parameter("bias", &[4 * lstm_dims], Init::linear(lstm_dims))?,
        ];
        let linear = |name: &str, inputs: usize, outputs: usize| -> Result<[Parameter; 2]> {
            let scope = builder.scope(name);
            let weight = scope.parameter("weight", &[outputs, inputs], Init::linear(inputs))?;
            Ok([weight, scope.parameter("bias", &[outputs], Init::linear(inputs))?])
        };
        let hidden = linear("hidden", inputs * high * wide + lstm_dims, network.hidden_dims)?;
        let answers = linear("answers", network.hidden_dims, ANSWERS.len())?;
        Ok(Self {
            description: Description {
                network: network.clone(),
                words,
                height,
                width,
            },
            convolutions,
            embedding,
            lstm,
            hidden,
            answers,
            parameters: builder.parameters(),
            device: device.clone(),
        })
    }

    /// Returns whether a model folder holds this network rather than a byte model.
    pub fn is_in(path: &Path) -> bool {
        Folder::open(path).is_ok_and(|folder| folder.kind == KIND)
    }

    /// Opens a model folder, or a run's best model.
    ///
    /// # Errors
    /// Files that are missing or damaged, or another kind of model.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let folder = Folder::open(path)?;
        if folder.kind != KIND {
            let message = format!("expected a {KIND} model, found a {} of bytes", folder.kind);
            return Err(Error::file(path, message));
        }
        let Description {
            network,
            words,
            height,
            width,
        } = serde_json::from_value(folder.config)
            .map_err(|error| Error::file(path, format!("config.json: {error}")))?;
        Self::new(&network, words, (height, width), &folder.weights, device)
    }

    /// Returns all parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the known words.
    pub fn words(&self) -> &Words {
        &self.description.words
    }

    /// Returns the number of values of an image: 3 · height · width.
    pub fn values(&self) -> usize {
        COLOURS * self.description.height * self.description.width
    }

    /// Moves a batch of [`ImageQuestions`](super::ImageQuestions) to the device.
    fn input(&self, batch: &ModelBatch) -> Result<Input> {
        let (count, values) = (self.words().longest(), self.values());
        let expected = count + values + 1;
        if batch.len != expected {
            let found = batch.len;
            return Err(Error::input(format!(
                "expected samples of {expected} ids (words, values of an image, an answer), found {found}"
            )));
        }
        let rows = batch.ids.chunks_exact(expected);
        let (mut words, mut images, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows.take(batch.batch) {
            words.extend_from_slice(&row[..count]);
            images.extend(
                row[count..count + values]
                    .iter()
                    .map(|value| (*value as f32 - 127.5) / 64.0),
            );
            answers.push(row[count + values]);
        }
        let rows = answers.len();
        let Description { height, width, .. } = self.description;
        Ok(Input {
            words: Tensor::from_vec(words, (rows, count), &self.device)?,
            images: Tensor::from_vec(images, (rows, COLOURS, height, width), &self.device)?,
            answers: Tensor::from_vec(answers, rows, &self.device)?,
        })
    }

    /// Returns the logits of the answers (b, 28), with gradients if `training`.
    fn logits(&self, input: &Input, training: bool) -> Result<Tensor> {
        let of = |parameter: &Parameter| match training {
            true => parameter.tracked().clone(),
            false => parameter.value().clone(),
        };
        let halving = Conv2dConfig {
            padding: 1,
            stride: 2,
            ..Conv2dConfig::default()
        };
        let mut x = input.images.clone();
        for Convolution { weight, norm } in &self.convolutions {
            x = Conv2d::new(of(weight), None, halving).forward(&even(&x)?)?;
            let [scale, shift] = norm.each_ref().map(of);
            let channels = x.dim(1)?;
            x = GroupNorm::new(scale, shift, channels, channels / GROUP, EPSILON)?
                .forward(&x)?
                .relu()?;
        }
        let question = self.question(&input.words, &of)?;
        let x = Tensor::cat(&[&x.flatten_from(1)?, &question], 1)?; // (b, C h w + d)
        let linear = |[weight, bias]: &[Parameter; 2]| Linear::new(of(weight), Some(of(bias)));
        let hidden = linear(&self.hidden).forward(&x)?.relu()?;
        Ok(linear(&self.answers).forward(&hidden)?)
    }

    /// Returns the LSTM's last output (b, d).
    fn question(&self, words: &Tensor, of: &dyn Fn(&Parameter) -> Tensor) -> Result<Tensor> {
        let CnnLstmConfig {
            word_dims, lstm_dims, ..
        } = self.description.network;
        let embedded = Embedding::new(of(&self.embedding), word_dims).forward(words)?; // (b, t, e)
        let [input, recurrent, bias] = self.lstm.each_ref().map(of);
        // an open forget gate: 1 is added to the bias of the second of the four gates
        let open: Vec<f32> = (0..4 * lstm_dims)
            .map(|row| f32::from(u8::from(row / lstm_dims == 1)))
            .collect();
        let open = Tensor::from_vec(open, 4 * lstm_dims, &self.device)?;
        let tensors = [
            ("weight_ih_l0", input),
            ("weight_hh_l0", recurrent),
            ("bias_ih_l0", bias),
            ("bias_hh_l0", open),
        ];
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name.to_string(), tensor))
            .collect();
        let layer = VarBuilder::from_tensors(tensors, DType::F32, &self.device);
        let lstm = rnn::lstm(word_dims, lstm_dims, LSTMConfig::default(), layer)?;
        let states = lstm.seq(&embedded)?;
        let last = states.last().ok_or_else(|| Error::input("a question without words"))?;
        Ok(last.h().clone())
    }

    /// Returns the index in [`ANSWERS`] of the best answer to each question of a batch.
    ///
    /// # Errors
    /// A failing device.
    pub fn answer(&self, batch: &Batch) -> Result<Vec<usize>> {
        let input = self.input(&model_batch(batch))?;
        let best: Vec<u32> = self.logits(&input, false)?.argmax(1)?.to_vec1()?;
        Ok(best.into_iter().map(|index| index as usize).collect())
    }
}

/// Pads x (b, C, h, w) with zeros to an even number of rows and columns, which candle's gradient of
/// a convolution with stride 2 requires.
fn even(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    Ok(x.pad_with_zeros(2, 0, height % 2)?.pad_with_zeros(3, 0, width % 2)?)
}

impl Trainable for CnnLstm {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the mean loss per answer and the number of right answers.
    fn evaluate(&self, batch: &ModelBatch) -> Result<BatchEvaluation> {
        let input = self.input(batch)?;
        let logits = self.logits(&input, false)?;
        let (found, truth) = (logits.argmax(1)?.to_vec1::<u32>()?, input.answers.to_vec1::<u32>()?);
        let right = found.iter().zip(&truth).filter(|(found, truth)| found == truth).count();
        Ok(BatchEvaluation {
            loss: Loss {
                mean: f64::from(cross_entropy(&logits, &input.answers)?.to_scalar::<f32>()?),
                count: truth.len(),
                weighted: false,
            },
            metric: Some(Metric {
                name: Metric::ACCURACY,
                sum: right as f64,
                count: truth.len(),
            }),
        })
    }

    fn differentiate(
        &self,
        batch: &ModelBatch,
        pass: TrainingPass,
        gradients: &mut Gradients,
        _: Watch<'_>,
    ) -> Result<TimedLoss> {
        let input = self.input(batch)?;
        let loss = cross_entropy(&self.logits(&input, true)?, &input.answers)?;
        let mean = f64::from(loss.to_scalar::<f32>()?);
        let begun = Instant::now();
        let graph = loss.backward()?;
        for parameter in self.parameters.iter() {
            if let Some(gradient) = graph.get(parameter.tracked()) {
                gradients.of(parameter).add(&(gradient * pass.scale)?)?;
            }
        }
        Ok(TimedLoss {
            loss: Loss {
                mean,
                count: input.answers.dim(0)?,
                weighted: false,
            },
            backward: begun.elapsed(),
        })
    }

    fn write(&self, folder: &mut NewFolder) -> Result<()> {
        let config = serde_json::to_value(&self.description).map_err(|error| Error::input(error.to_string()))?;
        checkpoint::fill_folder(folder, KIND, &config, &self.parameters.named_tensors())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mblm::data::Position;
    use mblm::model::Seeded;

    fn network() -> CnnLstm {
        let config = CnnLstmConfig {
            channels: vec![8, 16],
            word_dims: 5,
            lstm_dims: 6,
            hidden_dims: 7,
        };
        let words = Words::of(["how many red cubes", "is there a sphere"]);
        CnnLstm::new(&config, words, (5, 6), &Seeded(3), &Device::Cpu).unwrap()
    }

    fn batch(network: &CnnLstm) -> Batch {
        let rows = [("how many cubes", 2), ("is there a red sphere", 27), ("many", 5)];
        let ids: Vec<u32> = (rows.iter().enumerate())
            .flat_map(|(row, (question, answer))| {
                let mut ids = network.words().numbers(question);
                ids.extend((0..network.values() as u32).map(|value| (value * 37 + row as u32 * 101) % 256));
                ids.push(*answer);
                ids
            })
            .collect();
        Batch {
            len: ids.len() / rows.len(),
            ids,
            rows: rows.len(),
            loss_weights: None,
            labels: None,
            masked: None,
            samples: vec![0, 1, 2],
            position: Position::default(),
            next: Position::default(),
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let network = network();
        let input = network.input(&model_batch(&batch(&network))).unwrap();
        let of = |training| cross_entropy(&network.logits(&input, training).unwrap(), &input.answers).unwrap();
        let graph = of(true).backward().unwrap();
        for parameter in network.parameters().iter() {
            let gradient = graph
                .get(parameter.tracked())
                .unwrap_or_else(|| panic!("{}", parameter.name()));
            // along the gradient, the steepest direction
            let norm = gradient
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
                .sqrt();
            assert!(norm > 0.0, "{}", parameter.name());
            let step = 1e-2_f64;
            let direction = (gradient * (step / f64::from(norm))).unwrap();
            let before = parameter.value().copy().unwrap();
            let at = |value: Tensor| {
                parameter.set(&value).unwrap();
                f64::from(of(false).to_scalar::<f32>().unwrap())
            };
            let (above, below) = (at((&before + &direction).unwrap()), at((&before - &direction).unwrap()));
            parameter.set(&before).unwrap();
            let found = (above - below) / (2.0 * step);
            let error = (found - f64::from(norm)).abs() / f64::from(norm);
            assert!(error < 0.02, "{}: {found} for {norm}", parameter.name());
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_is_no_model_of_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let network = network();
        checkpoint::atomic::write_folder(&path, |new| network.write(new)).unwrap();
        let again = CnnLstm::open(&path, &Device::Cpu).unwrap();
        let batch = model_batch(&batch(&network));
        let logits = |network: &CnnLstm| -> Vec<Vec<f32>> {
            let input = network.input(&batch).unwrap();
            network.logits(&input, false).unwrap().to_vec2().unwrap()
        };
        assert_eq!(logits(&network), logits(&again));
        let error = mblm::model::Model::open(&path, &mblm::blocks::BlockRegistry::default(), &Device::Cpu);
        let message = error.err().unwrap().to_string();
        assert!(message.contains("found the kind `cnn_lstm`"), "{message}");
    }

    #[test]
    fn damaged_descriptions_are_errors() {
        let config = &network().description.network;
        for (longest, words) in [(0u64, vec!["a"]), (1 << 40, vec!["a"]), (3, vec!["b", "a"])] {
            let words: Words = serde_json::from_value(serde_json::json!({"words": words, "longest": longest})).unwrap();
            assert!(CnnLstm::new(config, words, (5, 6), &Seeded(0), &Device::Cpu).is_err());
        }
        for size in [(0, 5), (5, 0), (1 << 20, 5)] {
            assert!(CnnLstm::new(config, Words::of(["a"]), size, &Seeded(0), &Device::Cpu).is_err());
        }
    }
}
