//! Reading configurations, and checking the names in them that only the program can know.

use std::path::Path;

use anyhow::Result;
use mblm::config::Experiment;
use mblm::data::{DatasetArgs, Registry, Split};
use mblm::model::BlockRegistry;

use crate::args::Usage;

/// Reads a configuration file. One that cannot be read is wrong usage, as is one that cannot be used.
pub(crate) fn read(path: &Path, overrides: &[String]) -> Result<Experiment> {
    Experiment::from_file(path, overrides).map_err(|error| match error {
        mblm::Error::File { .. } => Usage(error.to_string()).into(),
        other => other.into(),
    })
}

/// Checks that the experiment's data set and blocks exist, without opening or building any.
pub(crate) fn check_names(experiment: &Experiment, datasets: &Registry, blocks: &BlockRegistry) -> Result<()> {
    let name = experiment.io.dataset_id.as_str();
    if !datasets.names().any(|known| known == name) {
        // fails on the name before it looks at anything else
        datasets.open(name, &DatasetArgs::new("", Split::Train, 1))?;
    }
    Ok(blocks.check(experiment.params.architecture.model())?)
}
