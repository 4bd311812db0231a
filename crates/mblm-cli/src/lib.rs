//! The command `mblm` as a library, to build a program with more blocks, data sets and commands.

pub use mblm_app::*;

/// Returns the application with all built-in parts.
pub fn app() -> App {
    let app = App::new();
    #[cfg(feature = "vision")]
    let app = mblm_vision::commands::extend(app);
    app
}
