//! `mblm generate --pictures`: writes the images that a model of data set `pictures` generates, and
//! reports which are valid.
//!
//! The run's configuration determines the form: pixels become a PNG file, the bytes of a JPEG file
//! are written unchanged. An invalid image is reported, and still written.

mod args;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{ArgMatches, Args};
use mblm::bytes::Format as ByteFormat;
use mblm::checkpoint::atomic;
use mblm::data::Split;
use mblm::generate::{Completion, End, Generator, Start};
use mblm::model::Model;
use mblm::train::dataset_args;
use mblm_app::command::{Context, GenerateMode, parse};
use mblm_app::drawing::encode;
use mblm_app::signals::Signals;
use mblm_app::{GenerateArgs, GenerateRules, Usage, config, device, output, progress, run_folder};
use serde_json::{Value, json};

use self::args::ImageArgs;
use crate::commands::tasks::IMAGES;
use crate::image_folder::{Form, Layout};

/// The file extensions: images of pixels, JPEG files, pixels of an incomplete image.
const ENDINGS: [&str; 3] = ["png", "jpg", "bytes"];

/// A sample that is being generated.
#[derive(Clone, Default)]
struct Sample {
    bytes: Vec<u8>,
    end: Option<End>,
}

/// A written sample.
struct Image {
    file: PathBuf,
    bytes: usize,
    /// The reason why it is not a valid image.
    problem: Option<String>,
}

/// `mblm generate --pictures`.
pub(super) struct ImageFolder;

impl GenerateMode for ImageFolder {
    fn arguments(&self, command: clap::Command) -> clap::Command {
        ImageArgs::augment_args(command)
    }

    fn example(&self) -> &str {
        "mblm generate -m RUN --pictures drawn --num-samples 8 --temperature 0.9"
    }

    fn help(&self) -> &str {
        "\
--pictures is for models of data set pictures. A sample may not be a valid image: pixels may end early, JPEG files may be
damaged. All samples are written; a sample that does not decode is reported with the reason."
    }

    fn is_asked(&self, matches: &ArgMatches) -> bool {
        matches.contains_id("pictures")
    }

    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode> {
        let (args, images): (GenerateArgs, ImageArgs) = (parse(matches)?, parse(matches)?);
        match &images.pictures {
            Some(folder) => mblm::on_workers(|| run(&args, &images, folder, context)),
            None => Ok(ExitCode::SUCCESS),
        }
    }
}

fn run(args: &GenerateArgs, images: &ImageArgs, folder: &Path, context: &Context) -> Result<ExitCode> {
    let mut rules = GenerateRules::new(args)?;
    let files = Files { args, folder };
    files.check()?;
    let config = run_folder::config_of(&args.model.model, images.config.as_deref(), "how images become ids")?;
    let experiment = config::read(&config, &[], context)?;
    let device = device::open(&args.compute.device)?;
    let mut model = Model::open(&args.model.model, context.blocks(), &device)?;
    model.use_in(args.compute.precision.into())?;
    config::check_trained(&experiment, &model, IMAGES, "--pictures")?;
    let layout = Layout::new(&dataset_args(&experiment, Split::Train, None))?;
    let model = model.decoder("mblm generate")?;
    rules.stop.ids.extend(layout.ends());
    let prompt = layout.prompt();
    let left = model.config().context().saturating_sub(prompt.len());
    let most = layout.form().bytes().unwrap_or(left).min(left);
    let generator = Generator::new(model.clone())?;
    let signals = Signals::listen()?;
    let started = Instant::now();
    let mut params = rules.params;
    params.max_bytes = most;
    params.format = ByteFormat::Raw;
    params.interrupt = Some(signals.stop.clone());
    let start = Start {
        prompt,
        ..Start::default()
    };
    let mut samples = vec![Sample::default(); args.num_samples];
    let bar = progress::byte_bar(Some((samples.len() * most) as u64), context.quiet());
    for piece in Completion::new(&generator, start, &params, &rules.stop)? {
        let piece = piece?;
        bar.inc(piece.ids.len() as u64);
        let sample = &mut samples[piece.sample];
        sample.bytes.extend(piece.bytes);
        sample.end = piece.end;
    }
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    atomic::make_folder(folder)?;
    let images = samples.iter().enumerate();
    let images: Vec<Image> = images
        .map(|(index, sample)| files.write(index, &sample.bytes, layout.form(), sample.end))
        .collect::<Result<_>>()?;
    report(args, &images, params.seed, seconds)?;
    Ok(signals.exit_code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// The files to write.
struct Files<'a> {
    args: &'a GenerateArgs,
    folder: &'a Path,
}

impl Files<'_> {
    /// Returns the number of a sample, from 1.
    fn number(&self, index: usize) -> u64 {
        self.args.first_sample.saturating_add(index as u64)
    }

    fn path(&self, index: usize, ending: &str) -> PathBuf {
        self.folder.join(format!("picture_{}.{ending}", self.number(index)))
    }

    /// Fails if a file exists that may not be replaced.
    fn check(&self) -> Result<(), Usage> {
        let mut paths = (0..self.args.num_samples).flat_map(|index| ENDINGS.map(|ending| self.path(index, ending)));
        match paths.find(|path| !self.args.force && path.exists()) {
            None => Ok(()),
            Some(path) => Err(Usage(format!(
                "{}: is there already; give another folder, another --first-sample, or --force to replace it",
                path.display()
            ))),
        }
    }

    /// Writes a sample's bytes, and removes the other files of an earlier sample with that number.
    fn write(&self, index: usize, bytes: &[u8], form: Form, end: Option<End>) -> Result<Image> {
        let decoded = form.decode(bytes);
        let (ending, content) = match (form, &decoded) {
            (Form::Jpeg, _) => ("jpg", bytes.to_vec()),
            (Form::Pixels { .. }, Ok(image)) => {
                let (width, height) = (image.width as u32, image.height as u32); // the options allow 65535
                ("png", encode(&image.rgb, width, height)?)
            }
            (Form::Pixels { .. }, Err(_)) => ("bytes", bytes.to_vec()),
        };
        let file = self.path(index, ending);
        atomic::write(&file, |out| out.write_all(&content))?;
        for other in ENDINGS.iter().filter(|other| **other != ending) {
            let path = self.path(index, other);
            if path.is_file() {
                atomic::remove(&path)?;
            }
        }
        let problem = decoded.err().map(|problem| match end {
            Some(End::Interrupted) => format!("interrupted: {problem}"),
            _ => problem,
        });
        Ok(Image {
            file,
            bytes: bytes.len(),
            problem,
        })
    }
}

/// Reports which samples are valid images.
fn report(args: &GenerateArgs, images: &[Image], seed: u64, seconds: f64) -> Result<()> {
    let decode = images.iter().filter(|image| image.problem.is_none()).count();
    if args.json {
        let list = images.iter().map(|image| {
            json!({
                "file": image.file, "bytes": image.bytes, "decodes": image.problem.is_none(),
                "problem": image.problem,
            })
        });
        output::json(json!({
            "seed": seed, "seconds": seconds, "decode": decode, "pictures": list.collect::<Vec<Value>>(),
        }))?;
        return Ok(());
    }
    for image in images {
        if let Some(problem) = &image.problem {
            output::line(&format!("{}: does not decode: {problem}", image.file.display()))?;
        }
    }
    Ok(output::line(&format!("{decode} of {} images decode", images.len()))?)
}
