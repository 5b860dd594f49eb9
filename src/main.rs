//! Command line → configuration → one command → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    rowstream::cli::main(std::env::args_os(), std::env::vars().collect())
}
