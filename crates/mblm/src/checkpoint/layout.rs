//! The names of files and folders in model folders and run folders.
//!
//! ```text
//! MODEL/config.json, model.safetensors      a model folder
//! RUN/models/index.json                     the best models, the best first
//! RUN/models/batch_N/                       a model folder
//! RUN/states/batch_N/state.json             a training state, which is a model folder as well
//! ```

use std::path::Path;

/// The name of the configuration in a model folder.
pub const CONFIG_FILE: &str = "config.json";

/// The name of the parameters in a model folder.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The checksums of the files in a model folder.
pub const SUMS_FILE: &str = "SHA256SUMS";

/// The folder of the best models in a run's folder.
pub const MODELS: &str = "models";

/// The list of the best models in that folder, the best first.
pub const INDEX_FILE: &str = "index.json";

/// The folder of training states in a run's folder.
pub const STATES: &str = "states";

/// The counters of a training state in its folder.
pub const STATE_FILE: &str = "state.json";

/// The losses of a run, in its folder.
pub const LOSS_FILE: &str = "loss.csv";

/// The configuration of a run, in its folder.
pub const RUN_CONFIG: &str = "config.yaml";

/// Returns whether a folder is a training run or a saved model, and so not data.
pub fn is_output(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).exists();
    let of_run = [LOSS_FILE, "train.log", MODELS, STATES];
    has(RUN_CONFIG) && of_run.into_iter().any(has) || has(WEIGHTS_FILE) && has(SUMS_FILE)
}
