//! `precompile GUEST ARTEFACT`: compiles the guest module for this machine, as a step of the build.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(guest), Some(artefact), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: precompile GUEST ARTEFACT");
        return ExitCode::FAILURE;
    };
    let written = fs::read(&guest)
        .map_err(|error| format!("{} cannot be read: {error}", guest.display()))
        .and_then(|bytes| {
            dunlin_compiler::precompile(&bytes)
                .map_err(|error| format!("{} cannot be compiled: {error:#}", guest.display()))
        })
        .and_then(|code| {
            fs::write(&artefact, code)
                .map_err(|error| format!("{} cannot be written: {error}", artefact.display()))
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
