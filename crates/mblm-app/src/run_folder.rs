//! The folder of a run: creating it, finding the one to resume, and its configuration.
//!
//! The path is `output_dir/name_model_<run id>`; the run id is the environment's `JOB_ID`, else the
//! time.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use mblm::checkpoint::{WEIGHTS_FILE, atomic};
use mblm::config::{Experiment, IoConfig, ResumeConfig, Summary};
use mblm::train::{Outcome, SavedState, States};

use crate::command::Context;
use crate::options::model_path;
use crate::output::note;
use crate::usage::Usage;

/// The file name of the configuration in a run's folder.
pub const CONFIG: &str = "config.yaml";

/// The file that holds the folder in which a run began. Relative paths of the run's configuration
/// are relative to that folder.
const BEGAN_IN: &str = ".began_in";

/// Finds the data of a run that is resumed from another folder than it began in: a relative path is
/// looked up in the current folder first, then in the folder where the run began.
pub fn find_data(run: &Path, io: &mut IoConfig) {
    if io.dataset_dir.is_absolute() || io.dataset_dir.exists() {
        return;
    }
    let Ok(began_in) = std::fs::read_to_string(run.join(BEGAN_IN)) else {
        return;
    };
    let there = Path::new(&began_in).join(&io.dataset_dir);
    if there.exists() {
        tracing::warn!(
            "the data are taken from {}, where the run began: here is no {}",
            there.display(),
            io.dataset_dir.display()
        );
        io.dataset_dir = there;
    }
}

/// Returns the given configuration, else the configuration of the run to which the model (a run's
/// folder, model or state) belongs. `what` completes the error message: the facts that the
/// configuration is needed for.
pub fn config_of(model: &Path, given: Option<&Path>, what: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_path_buf());
    }
    let full = std::fs::canonicalize(model).map_err(|error| mblm::Error::file(model, error))?;
    // RUN, or RUN/models/batch_N
    let places = [Some(full.as_path()), full.ancestors().nth(2)];
    let found = places
        .into_iter()
        .flatten()
        .map(|folder| folder.join(CONFIG))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        Usage(format!(
            "{}: no config.yaml of a run is beside this model, so nothing says {what}; give the configuration that it was \
             trained with by --config",
            model.display()
        ))
        .into()
    })
}

/// A run's folder, locked by this process, and the state from which the run resumes.
pub struct RunFolder {
    /// The folder's path.
    pub path: PathBuf,
    /// The state to resume from; `None` for a new run.
    pub state: Option<SavedState>,
    /// Whether an earlier process created the folder.
    pub resumed: bool,
    /// The lock; `None` on ranks that share the folder of rank 0.
    _lock: Option<File>,
}

/// The folder that `--resume` means.
pub enum Resume {
    /// A new folder.
    No,
    /// The folder of the newest run of the same name, else a new folder.
    Auto,
    /// A run's folder, and the state to resume from if it is not the newest.
    Path {
        /// The run's folder.
        run: PathBuf,
        /// The state, if one was named.
        state: Option<PathBuf>,
    },
}

impl RunFolder {
    /// The folder that another process has locked and shares with this one.
    pub(crate) fn shared(path: PathBuf, state: Option<SavedState>) -> Self {
        Self {
            path,
            resumed: state.is_some(),
            state,
            _lock: None,
        }
    }
}

impl Resume {
    /// Parses the argument of `--resume`: a run's folder, one of its states, or `auto`.
    pub fn parse(argument: Option<&Path>) -> Result<Self> {
        let Some(path) = argument else { return Ok(Self::No) };
        if path == Path::new("auto") {
            return Ok(Self::Auto);
        }
        // `latest` and folders of runs mean the newest run, as for models
        let path = match path.to_str() {
            Some(text) => model_path(text).map_err(|message| Usage(format!("--resume {message}")))?,
            None => path.to_path_buf(),
        };
        let path =
            std::fs::canonicalize(&path).map_err(|error| Usage(format!("--resume {}: {error}", path.display())))?;
        // RUN/states/batch_N
        if let (true, Some(run)) = (path.join("state.json").is_file(), path.ancestors().nth(2)) {
            return Ok(Self::Path {
                run: run.to_path_buf(),
                state: Some(path),
            });
        }
        if !path.join(CONFIG).is_file() {
            return Err(Usage(format!(
                "--resume {}: expected a run's folder or one of its states, but it has no {CONFIG}",
                path.display()
            ))
            .into());
        }
        Ok(Self::Path { run: path, state: None })
    }

    /// Returns the configuration file of the run that was named.
    pub fn config(&self) -> Option<PathBuf> {
        match self {
            Self::Path { run, .. } => Some(run.join(CONFIG)),
            _ => None,
        }
    }

    /// Opens the folder of the run to resume; returns `None` if a new run begins.
    pub fn find(self, experiment: &Experiment, context: &Context) -> Result<Option<RunFolder>> {
        let (run, state) = match self {
            Self::No => (None, None),
            Self::Auto => (newest_run(&experiment.io)?, None),
            Self::Path { run, state } => (Some(run), state),
        };
        run.map(|run| go_on(run, state, experiment, context)).transpose()
    }
}

/// Creates a new folder for the run that `io` names, and writes its configuration as YAML. With
/// `JOB_ID` the folder may exist if it holds no run. Without `JOB_ID`, the run id is the first
/// second from now on whose folder does not exist.
pub fn create(io: &IoConfig, config: &str) -> Result<RunFolder> {
    let (path, lock) = new_folder(io)?;
    write_config(&path, config)?;
    if let Some(folder) = std::env::current_dir().ok().as_deref().and_then(Path::to_str) {
        atomic::write(&path.join(BEGAN_IN), |out| out.write_all(folder.as_bytes()))?;
    }
    Ok(RunFolder {
        path,
        state: None,
        resumed: false,
        _lock: Some(lock),
    })
}

fn new_folder(io: &IoConfig) -> Result<(PathBuf, File)> {
    let IoConfig {
        output_dir, name_model, ..
    } = io;
    check_name(io)?;
    let named = |id: &dyn std::fmt::Display| output_dir.join(format!("{name_model}_{id}"));
    let failed = |folder: &Path, error| mblm::Error::file(folder, format!("cannot make the run's folder: {error}"));
    // a name such as `group/run` has folders above it, as in the published package
    atomic::make_folder(named(&0).parent().unwrap_or(output_dir))?;
    let path = match job_id() {
        Some(id) => {
            let folder = named(&id);
            atomic::make_folder(&folder)?;
            if folder.join(CONFIG).exists() {
                return Err(Usage(format!(
                    "the run of JOB_ID={id} is there already, in {}; go on with --resume auto, or remove it",
                    folder.display()
                ))
                .into());
            }
            folder
        }
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let mut id = now.map_or(0, |elapsed| elapsed.as_secs());
            loop {
                let folder = named(&id);
                match std::fs::create_dir(&folder) {
                    Ok(()) => break folder,
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => id += 1,
                    Err(error) => return Err(failed(&folder, error).into()),
                }
            }
        }
    };
    let lock = atomic::lock(&path)?;
    Ok((path, lock))
}

/// Fails for a name or job id that would lead out of the output folder.
pub fn check_name(io: &IoConfig) -> Result<(), Usage> {
    let job = job_id().map(|id| ("the environment's JOB_ID", id));
    for (what, name) in [("io.name_model", io.name_model.clone())].into_iter().chain(job) {
        let inside = Path::new(&name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside || name.is_empty() || name.ends_with('/') || name.contains('\0') {
            return Err(Usage(format!(
                "{what} is {name:?}: expected a name for the run's folder within {}, without `..`, such as my-run or group/my-run",
                io.output_dir.display()
            )));
        }
    }
    Ok(())
}

fn job_id() -> Option<String> {
    std::env::var("JOB_ID").ok().filter(|id| !id.is_empty())
}

/// Returns the folder of the job, else the folder of the newest run of the same name; `None` if
/// there is none.
fn newest_run(io: &IoConfig) -> Result<Option<PathBuf>> {
    if let Some(id) = job_id() {
        let run = io.output_dir.join(format!("{}_{id}", io.name_model));
        return Ok(run.join(CONFIG).is_file().then_some(run));
    }
    let first = io.output_dir.join(format!("{}_", io.name_model));
    let (Some(parent), Some(prefix)) = (first.parent(), first.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    let entries = match std::fs::read_dir(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(|error| mblm::Error::file(parent, error))?,
    };
    let mut runs = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| mblm::Error::file(parent, error))?;
        let name = entry.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.parse::<u64>().ok());
        if let (Some(id), true) = (id, entry.path().join(CONFIG).is_file()) {
            runs.push((id, entry.path()));
        }
    }
    Ok(runs.into_iter().max().map(|(_, run)| run))
}

/// Opens the folder of an earlier run.
fn go_on(run: PathBuf, state: Option<PathBuf>, experiment: &Experiment, context: &Context) -> Result<RunFolder> {
    let lock = atomic::lock(&run)?;
    States::recover(&run)?;
    compare(&run, experiment, context)?;
    let state = match state {
        Some(folder) => Some(SavedState::open(&folder)?),
        None => States::new(&run, experiment.train.keep_states).newest()?,
    };
    Ok(RunFolder {
        path: run,
        state,
        resumed: true,
        _lock: Some(lock),
    })
}

/// Fails if the run began with another model. Otherwise reports which other values have changed.
fn compare(run: &Path, experiment: &Experiment, context: &Context) -> Result<()> {
    let before = serde_json::to_value(crate::config::read(&run.join(CONFIG), &[], context)?)?;
    let now = serde_json::to_value(experiment)?;
    let mut changes = Vec::new();
    for map in ["io", "params", "train"] {
        let (Some(before), Some(now)) = (before[map].as_object(), now[map].as_object()) else {
            continue;
        };
        for key in before.keys().chain(now.keys().filter(|key| !before.contains_key(*key))) {
            if before.get(key) != now.get(key) && (map, key.as_str()) != ("io", "output_dir") {
                let text = |value: Option<&serde_json::Value>| value.map_or("nothing".into(), ToString::to_string);
                changes.push((
                    map,
                    format!("{map}.{key}: {} → {}", text(before.get(key)), text(now.get(key))),
                ));
            }
        }
    }
    let all: Vec<&str> = changes.iter().map(|(_, change)| change.as_str()).collect();
    if changes.iter().any(|(map, _)| *map == "params") {
        return Err(Usage(format!(
            "{}: the run was begun with another model: {}; begin a new run instead, or start it from these weights with \
             the map `resume`",
            run.display(),
            all.join("; ")
        ))
        .into());
    }
    if !all.is_empty() {
        note(&format!("changed since the run was begun: {}", all.join("; ")));
    }
    Ok(())
}

impl RunFolder {
    /// Writes the configuration again, with an addition at its end: the summary, the reason if the
    /// run failed, and the state from which it can be resumed.
    pub fn write_end(
        &self,
        experiment: &Experiment,
        outcome: &mblm::Result<Outcome>,
        mut summary: Summary,
    ) -> Result<()> {
        let mut experiment = experiment.clone();
        match outcome {
            Ok(outcome) => {
                let before = experiment.resume.take().map(|resume| resume.checkpoint_file);
                experiment.resume = Some(ResumeConfig {
                    checkpoint_file: outcome.state_folder.join(WEIGHTS_FILE),
                    next_epoch_index: outcome.next.epoch,
                    next_batch_index: outcome.next.batch,
                    migrate_embeddings: false,
                    rename_modules: false,
                    resumed_from: before.map(|file| file.display().to_string()),
                });
            }
            Err(error) => summary.error = Some(error.to_string()),
        }
        experiment.summary = Some(summary);
        write_config(&self.path, &experiment.to_yaml_string()?)
    }
}

fn write_config(folder: &Path, config: &str) -> Result<()> {
    Ok(atomic::write(&folder.join(CONFIG), |out| {
        out.write_all(config.as_bytes())
    })?)
}
