//! Ready-made experiments: two-stage byte models for training on any file or folder without a
//! configuration. Their hierarchies are in `presets/`.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::experiment::Experiment;
use super::io::IoConfig;
use super::model::{Architecture, ModelConfig};
use super::precision::Precision;
use super::suggest;
use super::train::TrainConfig;
use crate::{Error, Result};

/// A ready-made experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// 1.2 M parameters, 512 bytes of context: minutes on a laptop.
    Tiny,
    /// 5.5 M parameters, 2048 bytes of context: hours on a laptop.
    Small,
    /// 33 M parameters, 8192 bytes of context: an hour on a GPU.
    Medium,
}

impl Preset {
    /// All presets, smallest first.
    pub const ALL: [Self; 3] = [Self::Tiny, Self::Small, Self::Medium];

    /// Returns the preset's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Medium => "medium",
        }
    }

    /// Returns the experiment that trains this preset on `data`, a file or folder of any content,
    /// with its runs in `output_dir`.
    ///
    /// A twentieth of the data is held out for validation.
    pub fn experiment(self, data: &Path, output_dir: &Path) -> Experiment {
        let size = self.size();
        let io = IoConfig {
            name_model: self.name().to_string(),
            output_dir: output_dir.to_path_buf(),
            ..IoConfig::new(data)
        };
        let train = TrainConfig {
            target_elements: size.target_bytes,
            batch_size: size.batch_size,
            shuffle_train: true,
            max_eval_steps: Some(16),
            lr: size.lr,
            max_grad_norm: Some(1.0),
            precision: Precision::Fastest,
            ..TrainConfig::default()
        };
        Experiment::new(Architecture::Decoder(size.model()), data)
            .with_io(io)
            .with_train(train)
    }

    fn size(self) -> Size {
        match self {
            Self::Tiny => Size {
                model: include_str!("presets/tiny.yaml"),
                batch_size: 16,
                lr: 2e-3,
                target_bytes: 3_000_000,
            },
            Self::Small => Size {
                model: include_str!("presets/small.yaml"),
                batch_size: 8,
                lr: 1e-3,
                target_bytes: 50_000_000,
            },
            Self::Medium => Size {
                model: include_str!("presets/medium.yaml"),
                batch_size: 8,
                lr: 6e-4,
                target_bytes: 500_000_000,
            },
        }
    }
}

/// The values in which presets differ.
struct Size {
    /// The keys of the hierarchy, as YAML.
    model: &'static str,
    batch_size: usize,
    lr: f64,
    target_bytes: u64,
}

impl Size {
    fn model(&self) -> ModelConfig {
        serde_saphyr::from_str(self.model).expect("a preset's file is part of the program, and a test reads it")
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::name);
                Error::config(format!("unknown preset {name:?}{}", suggest::hint(name, &known)))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Preset;
    use crate::config::Experiment;

    #[test]
    fn presets_are_valid_and_survive_yaml() {
        for (preset, millions) in [(Preset::Tiny, 1.2), (Preset::Small, 5.5), (Preset::Medium, 32.9)] {
            let experiment = preset.experiment(Path::new("my.txt"), Path::new("runs"));
            experiment.validate().unwrap();
            let yaml = experiment.to_yaml_string().unwrap();
            assert_eq!(Experiment::from_yaml_str(&yaml, "preset", &[]).unwrap(), experiment);
            let total = experiment.params.architecture.parameter_counts().total as f64;
            assert_eq!((total / 1e5).round() / 10.0, millions);
            assert_eq!(preset.name().parse::<Preset>().unwrap(), preset);
        }
    }

    #[test]
    fn a_misspelt_preset_names_the_nearest() {
        let error = "smal".parse::<Preset>().unwrap_err().to_string();
        assert_eq!(error, "unknown preset \"smal\"; did you mean \"small\"?");
    }
}
