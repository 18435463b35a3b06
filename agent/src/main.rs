//! The `weft` binary: reads the command line, picks the role it names, and turns what comes of it into an exit code.
//!
//! 0: done. 1: it did not work, and standard error says why. 2: the command line is wrong.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let done = cli::run(cli::Cli::parse());
    weft::telemetry::logging::finish();
    match done {
        Ok(output) => print(&output.text, output.code),
        Err(error) => {
            // Standard error may be gone; the exit code still says it.
            let _ = writeln!(io::stderr(), "weft: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. A reader that has had enough (`weft dump | head`) is no failure.
fn print(text: &str, code: ExitCode) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "weft: cannot write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}
