//! The program `dunlin`. See `dunlin --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dunlin_host::run()
}
