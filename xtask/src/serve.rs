//! `cargo xtask serve`: from the sources to a running broker.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::{root, steps, target_directory};

/// What the server is told unless the caller says otherwise.
const DEFAULTS: [(&str, &str); 2] = [("--listen", "127.0.0.1:8787"), ("--data", "./data")];

/// Builds everything and becomes the server, which itself says where the console is once it listens.
pub(crate) fn serve(arguments: &[String]) -> Result<()> {
    steps::build_all(None)?;
    let mut command = Command::new(target_directory()?.join("release/dunlin"));
    command
        .arg("serve")
        .args(with_defaults(arguments))
        .current_dir(root());
    println!("starting the broker; Ctrl-C stops it");
    become_program(command)
}

/// Replaces this process, so that signals and the exit code are the program's.
pub(crate) fn become_program(mut command: Command) -> Result<()> {
    let error = command.exec();
    let program = command.get_program().to_string_lossy();
    Err(anyhow!("cannot start {program}: {error}"))
}

fn with_defaults(arguments: &[String]) -> Vec<String> {
    let given = |flag: &str| {
        arguments
            .iter()
            .any(|argument| argument.split('=').next() == Some(flag))
    };
    DEFAULTS
        .iter()
        .filter(|(flag, _)| !given(flag))
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .chain(arguments.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        with_defaults(&arguments).join(" ")
    }

    #[test]
    fn serves_on_loopback_with_data_beside_it() {
        assert_eq!(completed(&[]), "--listen 127.0.0.1:8787 --data ./data");
    }

    #[test]
    fn a_given_flag_replaces_its_default() {
        assert_eq!(
            completed(&["--listen", "127.0.0.1:0"]),
            "--data ./data --listen 127.0.0.1:0"
        );
        assert_eq!(
            completed(&["--data=/srv/dunlin", "--shards", "2"]),
            "--listen 127.0.0.1:8787 --data=/srv/dunlin --shards 2"
        );
    }
}
