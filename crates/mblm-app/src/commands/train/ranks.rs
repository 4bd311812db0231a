//! The ranks of a run: the processes that `mpirun` or `srun` started together train one model.
//!
//! Rank 0 prints, finds or makes the run's folder, and writes its files. The other ranks print
//! errors alone, each with its rank. A rank that fails ends the job, since the others would wait
//! for it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use candle_core::Device;
use mblm::config::Experiment;
use mblm::group::{Alone, Group, Launch, Watched};
use mblm::train::{Event, Observer, SavedState, workers_of};

use crate::output;
use crate::report::report;
use crate::run_folder::RunFolder;
use crate::usage::Usage;

/// Returns the place of this process among those that were launched together; `None` alone.
///
/// # Errors
/// An environment that contradicts itself.
pub(crate) fn launch() -> Result<Option<Launch>> {
    Launch::from_env(|name| std::env::var(name).ok()).map_err(|error| Usage(error.to_string()).into())
}

/// The ranks of a run, and the watchdog over their collectives.
pub(super) struct Ranks {
    pub(super) group: Arc<dyn Group>,
    watched: Option<Arc<Watched>>,
}

impl Ranks {
    fn alone() -> Self {
        Self {
            group: Arc::new(Alone),
            watched: None,
        }
    }

    /// Watches the collectives of `group`: a process that waits longer than `timeout` for another
    /// rank ends with exit code 75, and 10 seconds after a SIGTERM.
    #[cfg(feature = "mpi")]
    fn watched(group: Arc<dyn Group>, timeout: Duration) -> Result<Self> {
        let action = mblm::group::watchdog::end_process(&group);
        let watched = Arc::new(Watched::new(group, timeout, action));
        let told = watched.clone();
        // SAFETY: `terminated` reads a clock and stores into an atomic, which is async-signal-safe
        unsafe { signal_hook::low_level::register(signal_hook::consts::SIGTERM, move || told.terminated())? };
        Ok(Self {
            group: watched.clone(),
            watched: Some(watched),
        })
    }

    /// An observer that tells the watchdog how far the run is.
    pub(super) fn observer(&self) -> Steps<'_> {
        Steps {
            watched: self.watched.as_deref(),
            steps: 0,
        }
    }
}

/// Tells the watchdog the step and the newest saved state.
pub(super) struct Steps<'a> {
    watched: Option<&'a Watched>,
    steps: u64,
}

impl Observer for Steps<'_> {
    fn event(&mut self, event: &Event<'_>) -> mblm::Result<()> {
        let Some(watched) = self.watched else { return Ok(()) };
        match event {
            Event::Batch(report) if report.worker == 0 => {
                self.steps += u64::from(report.norm.is_some());
                watched.at_step(self.steps);
            }
            Event::StateSaved { folder, .. } => watched.last_state(format!("{} is whole", folder.display())),
            _ => {}
        }
        Ok(())
    }
}

/// Runs `work` on every rank, and ends the ranks together.
///
/// # Errors
/// Those of `work` for a process alone, and of joining the group.
pub(super) fn run(timeout: Duration, work: impl FnOnce(&Ranks) -> Result<ExitCode>) -> Result<ExitCode> {
    let Some(launch) = launch()? else {
        return work(&Ranks::alone());
    };
    let ranks = join(&launch, timeout)?;
    let group = &ranks.group;
    match work(&ranks) {
        Ok(code) => {
            group.end()?;
            Ok(code)
        }
        Err(error) => {
            if group.rank() > 0 {
                output::note(&format!("rank {}: the run ends because of an error:", group.rank()));
            }
            group.abort(report(&error).into())
        }
    }
}

/// Joins the group of all processes of the launch.
#[cfg(feature = "mpi")]
fn join(launch: &Launch, timeout: Duration) -> Result<Ranks> {
    use mblm::group::launch::threads_per_rank;
    use mblm::group::{LaunchedBy, Mpi};

    if launch.engine == LaunchedBy::Torchrun {
        return Err(Usage(format!(
            "this process is rank {} of {} of torchrun, which launches ranks on GPUs, for NCCL: expected mpirun or srun, \
             since this program has MPI alone",
            launch.rank, launch.size
        ))
        .into());
    }
    // the cores of a host are shared by its ranks, unless the user says otherwise
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        mblm::use_threads(threads_per_rank(cores, launch.local_size, false, None));
    }
    Ranks::watched(Arc::new(Mpi::start(Some(launch))?), timeout)
}

/// Fails: the program was built without an engine for several processes.
#[cfg(not(feature = "mpi"))]
fn join(launch: &Launch, _: Duration) -> Result<Ranks> {
    Err(Usage(format!(
        "this process is rank {} of {}, started by {:?}, but this program was built for one process: build it with `--features \
         mpi`, or start it alone",
        launch.rank, launch.size, launch.engine
    ))
    .into())
}

/// Refuses what several ranks cannot do, and fails unless all ranks have the same configuration and
/// version.
pub(super) fn check(group: &dyn Group, experiment: &Experiment, device: &Device) -> Result<()> {
    if group.size() == 1 {
        return Ok(());
    }
    if !device.is_cpu() {
        return Err(
            Usage("several ranks on GPUs need NCCL, which this program has not: expected --device cpu".into()).into(),
        );
    }
    if experiment.io.dataset_dir.as_os_str() == "-" {
        return Err(Usage("--data -: expected a file or a folder, since every rank reads the data".into()).into());
    }
    let own = [env!("CARGO_PKG_VERSION").to_string(), experiment.to_yaml_string()?];
    for (what, own) in ["the version of the program", "the configuration"].into_iter().zip(own) {
        let all = group.gather(own.as_bytes())?;
        if let Some(rank) = all.iter().position(|other| *other != all[0]) {
            return Err(Usage(format!(
                "{what} of rank {rank} is not that of rank 0: expected the same on all ranks"
            ))
            .into());
        }
    }
    Ok(())
}

/// Sets the number of workers if the configuration leaves it open: that of the resumed state, else
/// one for each rank. Then makes all ranks train as long as rank 0 (`--minutes` measures).
pub(super) fn settle(group: &dyn Group, experiment: &mut Experiment, state: Option<&SavedState>) -> Result<()> {
    let train = &mut experiment.train;
    if train.workers.is_none() {
        let workers = state.map_or(group.size(), |saved| saved.state.workers);
        train.workers = (workers > 1).then_some(workers);
    }
    workers_of(group, train.worker_count())?;
    let length = group.broadcast(0, &train.target_elements.to_le_bytes())?;
    train.target_elements = u64::from_le_bytes(length[..].try_into().unwrap_or_default());
    Ok(())
}

/// Returns rank 0's folder on all ranks. `find` looks for the folder of a run to resume; `None`
/// means that a new one is to be made.
pub(super) fn found(group: &dyn Group, find: impl FnOnce() -> Result<Option<RunFolder>>) -> Result<Option<RunFolder>> {
    if group.size() == 1 {
        return find();
    }
    let own = match group.rank() {
        0 => find()?,
        _ => None,
    };
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let told = own.as_ref().map(|folder| {
        let state = folder.state.as_ref().map(|saved| text(&saved.folder));
        (text(&folder.path), state)
    });
    let told = group.broadcast(0, &serde_json::to_vec(&told)?)?;
    let told: Option<(PathBuf, Option<PathBuf>)> = serde_json::from_slice(&told)?;
    match (group.rank(), told) {
        (0, _) => Ok(own),
        (_, None) => Ok(None),
        (_, Some((path, state))) => {
            let state = state.map(|folder| SavedState::open(&folder)).transpose()?;
            Ok(Some(RunFolder::shared(path, state)))
        }
    }
}

/// Makes the folder of a new run on rank 0, and returns it on all ranks.
pub(super) fn created(group: &dyn Group, create: impl FnOnce() -> Result<RunFolder>) -> Result<RunFolder> {
    let folder = found(group, || create().map(Some))?;
    folder.context("rank 0 made no folder for the run")
}
