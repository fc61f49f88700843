//! Node's threads: named, and none of them may die alone.

use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{Builder, JoinHandle},
};

/// Exit code of a member that met something it cannot go on from in its own state: `EX_SOFTWARE` of `sysexits.h`.
pub const EXIT_STATE: i32 = 70;

/// Stops the process. What was promised is on disk, and what is not on disk was not promised, so there is nothing to
/// tidy up; a member that went on might do harm.
pub(super) fn stop_process(code: i32, why: &dyn Display) -> ! {
    tracing::error!(target: "conclave", "this member stops: {why}");
    eprintln!("conclave: this member stops: {why}");
    // At once: an exit would run what C++ libraries have for it, under threads that still use them.
    signal_hook::low_level::exit(code)
}

/// Starts a thread that takes the process down if it panics: with one thread gone the others would wait for ever.
/// (A release build aborts on a panic before this is reached.)
pub fn spawn<R: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> R + Send + 'static,
) -> std::io::Result<JoinHandle<R>> {
    Builder::new().name(name.to_owned()).spawn(move || match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(_) => stop_process(EXIT_STATE, &format_args!("its thread {name} panicked")),
    })
}
