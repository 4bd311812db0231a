//! `mblm init`: a commented configuration for the user's data.
//!
//! Fills `template.yaml` with the values of the [`Size`] that fits the data: larger for more data
//! and for a GPU.

pub(crate) mod args;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::checkpoint::atomic;
use mblm::config::Experiment;

use self::args::InitArgs;
use crate::command::{Command, Context, Section, parse};
use crate::file_kinds::total_size;
use crate::output;
use crate::usage::Usage;

const TEMPLATE: &str = include_str!("template.yaml");
/// The share of held-out data in large data sets.
const HELD_OUT: f64 = 0.05;
/// The limits of held-out data in bytes: enough for a reliable loss, and not more than an
/// evaluation reads.
const HELD_OUT_BYTES: (f64, f64) = (200e3, 20e6);

/// `mblm init`.
pub(crate) struct Init;

impl Command for Init {
    fn name(&self) -> &'static str {
        "init"
    }

    fn section(&self) -> Section {
        Section::Start
    }

    fn arguments(&self, command: clap::Command, _: &Context) -> clap::Command {
        InitArgs::augment_args(command)
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        run(&parse(matches)?, context)
    }
}

/// The settings that depend on the size of the data.
struct Size {
    patches: usize,
    patch: usize,
    dims: [usize; 2],
    layers: [usize; 2],
    mamba: bool,
    batch: usize,
    lr: &'static str,
    /// The maximum number of bytes to train on.
    most: f64,
    /// The maximum number of passes through the data.
    passes: f64,
}

impl Size {
    /// Chooses the size for `bytes` bytes of data.
    fn of(bytes: u64, gpu: bool) -> Self {
        let base = Self {
            patches: 128,
            patch: 4,
            dims: [192, 128],
            layers: [3, 2],
            mamba: false,
            batch: 8,
            lr: "3e-3",
            most: 8e6,
            passes: 10.0,
        };
        match (gpu, bytes) {
            (false, 0..10_000_000) => base,
            (false, _) => Self {
                patches: 256,
                patch: 8,
                dims: [256, 256],
                layers: [6, 2],
                lr: "1e-3",
                most: 50e6,
                passes: 4.0,
                ..base
            },
            (true, 0..100_000_000) => Self {
                patches: 512,
                patch: 8,
                dims: [512, 512],
                layers: [12, 4],
                mamba: true,
                batch: 16,
                lr: "1e-3",
                most: 1e9,
                passes: 10.0,
            },
            (true, _) => Self {
                patches: 1024,
                patch: 8,
                dims: [1024, 1024],
                layers: [16, 8],
                mamba: true,
                batch: 16,
                lr: "4e-4",
                most: 10e9,
                passes: 4.0,
            },
        }
    }

    /// The YAML lines of the first stage's block.
    fn global_block(&self) -> String {
        match self.mamba {
            true => "    - block_type: mamba2 # the stage that carries context between patches, in linear time\n      \
                     d_state: 64\n      d_conv: 4\n      expand: 2\n      headdim: 64\n      pos_emb_type: null\n"
                .into(),
            false => format!(
                "    - block_type: transformer # the stage that carries context between patches\n      attn_head_dims: 32\n      \
                 attn_num_heads: {}\n      attn_use_rot_embs: true\n      pos_emb_type: null # any number of patches\n",
                self.dims[0] / 32
            ),
        }
    }
}

fn run(args: &InitArgs, context: &Context) -> Result<ExitCode> {
    let output = &args.output;
    if output.exists() && !args.force {
        return Err(Usage(format!("{}: is there already; --force replaces it", output.display())).into());
    }
    let text = configuration(args)?;
    // check that the program can read the configuration
    Experiment::from_yaml_str_with(&text, &output.display().to_string(), &[], context.blocks())?;
    atomic::write(output, |out| out.write_all(text.as_bytes()))?;
    output::line(&format!("wrote {}", output.display()))?;
    if !context.quiet() {
        let next = match &args.data {
            Some(_) => format!("try: mblm train {} --minutes 10", output.display()),
            None => format!("next: set io.dataset_dir in {0}, then mblm train {0}", output.display()),
        };
        output::note(&next);
    }
    Ok(ExitCode::SUCCESS)
}

/// Fills the template.
fn configuration(args: &InitArgs) -> Result<String> {
    let bytes = match &args.data {
        None => 0,
        Some(data) => match total_size(data)? {
            0 => return Err(Usage(format!("{}: expected data to train on, found 0 bytes", data.display())).into()),
            bytes => bytes,
        },
    };
    let size = Size::of(bytes, args.gpu);
    let known = bytes.max(1) as f64;
    let share = HELD_OUT
        .max(HELD_OUT_BYTES.0 / known)
        .min(0.2)
        .min(HELD_OUT_BYTES.1 / known);
    let target = match bytes {
        0 => size.most,
        _ => size.most.min(size.passes * known).max(100_000.0),
    };
    let name = args
        .data
        .as_deref()
        .and_then(Path::file_stem)
        .map(|stem| stem.to_string_lossy());
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let data = args.data.as_deref().unwrap_or(Path::new("data.txt")).to_string_lossy();
    let values = [
        ("{file}", args.output.display().to_string()),
        (
            "{name}",
            quoted(name.as_deref().filter(|name| !name.is_empty()).unwrap_or("model")),
        ),
        ("{data}", quoted(&data)),
        ("{held_out}", format!("{}", (share * 1e4).round().max(1.0) / 1e4)),
        ("{context}", (size.patches * size.patch).to_string()),
        ("{patches}", size.patches.to_string()),
        ("{patch}", size.patch.to_string()),
        ("{wide}", size.dims[0].to_string()),
        ("{narrow}", size.dims[1].to_string()),
        ("{deep}", size.layers[0].to_string()),
        ("{shallow}", size.layers[1].to_string()),
        ("{global}", size.global_block()),
        ("{local_heads}", (size.dims[1] / 32).to_string()),
        ("{target}", output::grouped(target as u64)),
        (
            "{passes}",
            match bytes {
                0 => "as many as that is".into(),
                _ => format!("{:.1}", target / known),
            },
        ),
        ("{batch}", size.batch.to_string()),
        ("{lr}", size.lr.into()),
    ];
    let mut text = TEMPLATE.to_string();
    for (place, value) in values {
        text = text.replace(place, &value);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mblm::blocks::BlockRegistry;

    #[test]
    fn every_size_is_a_configuration() {
        for bytes in [1, 5_000, 3_000_000, 50_000_000, 1 << 40] {
            for gpu in [false, true] {
                let folder = tempfile::tempdir().unwrap();
                let data = folder.path().join("my data: \"1\".txt");
                let file = std::fs::File::create(&data).unwrap();
                file.set_len(bytes).unwrap();
                let args = InitArgs {
                    data: Some(data.clone()),
                    gpu,
                    output: "mblm.yaml".into(),
                    force: false,
                };
                let text = configuration(&args).unwrap();
                let experiment =
                    Experiment::from_yaml_str_with(&text, "mblm.yaml", &[], &BlockRegistry::default()).unwrap();
                assert_eq!(experiment.io.dataset_dir, data);
                assert!(!text.contains("{") || !text.contains("{file}"), "{text}");
                let model = experiment.params.architecture.model();
                assert_eq!(model.context(), experiment.params.input_seq_len);
            }
        }
    }
}
