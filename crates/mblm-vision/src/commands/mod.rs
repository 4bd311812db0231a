//! Commands about images: questions about them, sets of them, images that a model generates, the CNN + LSTM baseline.
//!
//! All of it registers through what [`mblm_app::command`] offers.
//!
//! | file | holds |
//! |---|---|
//! | `baseline` | runs of the CNN + LSTM that byte models are compared with |
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

/// The application with these commands.
pub fn extend(app: App) -> App {
    app.tasks(crate::register)
        .group(
            Group::new("vqa", "Ask a model questions about pictures (data set clevr)")
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
