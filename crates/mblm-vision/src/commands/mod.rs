//! Commands about images: questions about them, data sets of them, generated images, the CNN + LSTM
//! baseline.
//!
//! All register through [`mblm_app::command`].
//!
//! | file | holds |
//! |---|---|
//! | `baseline` | runs of the CNN + LSTM baseline |
//! | `clevr_synth` | `mblm data clevr-synth` |
//! | `pictures` | `mblm generate --pictures` |
//! | `sheet` | a contact sheet of wrong answers |
//! | `vqa` | `mblm vqa eval` |

mod baseline;
mod clevr_synth;
mod images;
mod sheet;
mod tasks;
mod vqa;

use mblm_app::App;
use mblm_app::command::{Group, Section};

/// Adds these commands to the application.
pub fn extend(app: App) -> App {
    app.tasks(crate::register)
        .group(
            Group::new("vqa", "Ask a model questions about images (data set clevr)")
                .within(Section::Tasks)
                .behind("data"),
        )
        .command(vqa::VqaEval)
        .command(clevr_synth::ClevrSynth)
        .generate_mode(images::ImageFolder)
        .run_kind(baseline::Baseline)
        .task_commands(tasks::Clevr)
        .task_commands(tasks::ImageFolder)
}
