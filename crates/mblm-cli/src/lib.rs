//! The command `mblm`, and the library that it is made of, to build a command with blocks and data sets of one's own.

pub use mblm_app::*;

/// The application that the command runs: all that is built in.
pub fn app() -> App {
    let app = App::new();
    #[cfg(feature = "vision")]
    let app = mblm_vision::commands::extend(app);
    app
}
