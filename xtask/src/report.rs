//! What a step writes: a log file with everything, and on the screen only signs of life and the closing lines of tests.
//!
//! A command is over when its process is over. A process that it leaves behind does not hold the driver up: it is an
//! error of that command.

use core::time::Duration;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::root;

/// Silence on the screen is broken this often.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(15);
/// How long a process may go on holding the output of a command that has ended.
const LEFT_OVERS_AFTER: Duration = Duration::from_secs(10);
/// Longer than any command takes on a slow machine with nothing built: what takes longer hangs.
const COMMAND_LIMIT: Duration = Duration::from_secs(40 * 60);
/// A failed step shows this much of its log; the rest is in the file.
const SHOWN_LINES_MAX: usize = 400;

/// Lines of cargo's and Node's test runners that sum up a run, shown even when all is well.
const CLOSING_LINES: [&str; 10] = [
    "     Running ",
    "   Doc-tests ",
    "test result: ",
    "# tests ",
    "# pass ",
    "# fail ",
    "# skipped ",
    "ℹ tests ",
    "ℹ pass ",
    "ℹ fail ",
];

/// The output of one step.
pub(crate) struct Report {
    path: PathBuf,
    log: File,
    lines: Vec<String>,
    started: Instant,
    shown: Instant,
}

enum Event {
    Line(String),
    OutputEnded,
    Exited(std::io::Result<ExitStatus>),
}

impl Report {
    /// Starts the report of the step `name`, with its log in `directory`.
    pub(crate) fn new(directory: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join(format!("{name}.log"));
        let log =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let now = Instant::now();
        Ok(Self {
            path,
            log,
            lines: Vec::new(),
            started: now,
            shown: now,
        })
    }

    /// Time since the step began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs a command line (words separated by spaces) at the top of the repository.
    pub(crate) fn run(&mut self, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a command line is not empty"));
        command.args(words);
        self.run_command(command)
    }

    /// Runs a command at the top of the repository and waits for its end.
    ///
    /// # Errors
    /// When it cannot start, ends with anything but success, hangs, or leaves a process behind that still holds its
    /// output.
    pub(crate) fn run_command(&mut self, mut command: Command) -> Result<()> {
        let line = shown_as(&command);
        self.write(format!("$ {line}"))?;

        let (output, input) = pipe().context("cannot create a pipe")?;
        command
            .current_dir(root())
            .envs(ENVIRONMENT)
            .stdin(Stdio::null())
            .stdout(input.try_clone().context("cannot share a pipe")?)
            .stderr(input);
        let mut child = command.spawn().with_context(|| {
            let program = command.get_program().to_string_lossy().into_owned();
            format!("cannot start {program}: is it installed and on the PATH?")
        })?;
        // The command holds the writing ends of the pipe, and with them its output would never end.
        drop(command);

        let id = child.id();
        let (events, received) = channel();
        let exits = events.clone();
        thread::spawn(move || read_lines(output, &events));
        thread::spawn(move || exits.send(Event::Exited(child.wait())));

        let status = self.follow(&received, &line, id)?;
        if !status.success() {
            bail!("`{line}` failed ({status})");
        }
        Ok(())
    }

    /// Shows why a step failed: its log, or the end of it.
    pub(crate) fn show_failure(&self) {
        let lines: Vec<&String> = self
            .lines
            .iter()
            .filter(|line| !is_progress(line))
            .collect();
        let hidden = lines.len().saturating_sub(SHOWN_LINES_MAX);
        if hidden > 0 {
            println!(
                "({hidden} lines before these are in {})",
                self.path.display()
            );
        }
        for line in &lines[hidden..] {
            println!("{line}");
        }
    }

    /// Takes the events of a command until both its process and its output have ended.
    fn follow(&mut self, events: &Receiver<Event>, line: &str, id: u32) -> Result<ExitStatus> {
        let limit = Instant::now() + COMMAND_LIMIT;
        let mut exited: Option<(ExitStatus, Instant)> = None;
        let mut output_ended = false;
        loop {
            if let Some((status, at)) = exited {
                if output_ended {
                    return Ok(status);
                }
                if at.elapsed() > LEFT_OVERS_AFTER {
                    bail!(
                        "`{line}` ended ({status}) but left a process running that holds its output"
                    );
                }
            } else if Instant::now() > limit {
                // Ends what hangs; the waiting thread reaps it.
                let _ = Command::new("kill").arg(id.to_string()).status();
                bail!(
                    "`{line}` has not ended after {} minutes",
                    COMMAND_LIMIT.as_secs() / 60
                );
            }
            match events.recv_timeout(Duration::from_secs(1)) {
                Ok(Event::Line(text)) => self.write(text)?,
                Ok(Event::OutputEnded) => output_ended = true,
                Ok(Event::Exited(status)) => {
                    exited = Some((status.context("cannot wait for a command")?, Instant::now()));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("`{line}` was lost: the threads that follow it have ended");
                }
            }
            self.show_sign_of_life();
        }
    }

    fn write(&mut self, line: String) -> Result<()> {
        writeln!(self.log, "{line}")
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        if CLOSING_LINES.iter().any(|start| line.starts_with(start)) {
            println!("{line}");
            self.shown = Instant::now();
        }
        self.lines.push(line);
        Ok(())
    }

    fn show_sign_of_life(&mut self) {
        if self.shown.elapsed() < SIGN_OF_LIFE_EVERY {
            return;
        }
        let last = self.lines.iter().rev().find(|line| !line.trim().is_empty());
        let last = last.map_or("", |line| line.trim());
        let shortened: String = last.chars().take(100).collect();
        println!("        {:>4} s  {shortened}", self.elapsed().as_secs());
        self.shown = Instant::now();
    }
}

/// Cargo's lines about what it is working on, which explain no failure.
fn is_progress(line: &str) -> bool {
    const VERBS: [&str; 7] = [
        "Blocking",
        "Checking",
        "Compiling",
        "Downloaded",
        "Downloading",
        "Finished",
        "Locking",
    ];
    let word = line.split_whitespace().next();
    line.starts_with("  ") && word.is_some_and(|word| VERBS.contains(&word))
}

/// Tools that would ask, phone home or draw progress bars are told not to.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("CARGO_TERM_PROGRESS_WHEN", "never"),
    ("CI", "true"),
    ("CLOUDFLARE_CF_FETCH_ENABLED", "false"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("WRANGLER_SEND_ERROR_REPORTS", "false"),
    ("WRANGLER_SEND_METRICS", "false"),
];

fn read_lines(output: impl Read, events: &Sender<Event>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while matches!(output.read_until(b'\n', &mut line), Ok(read) if read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        // Whoever follows the command has given up on it: then nobody needs the rest.
        if events.send(Event::Line(text)).is_err() {
            return;
        }
        line.clear();
    }
    let _ = events.send(Event::OutputEnded);
}

fn shown_as(command: &Command) -> String {
    core::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let path = Path::new(word);
            let path = path.strip_prefix(root()).unwrap_or(path);
            path.to_string_lossy().into_owned()
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str) -> Report {
        let own = std::env::current_exe().expect("a test is a program");
        let directory = own.with_file_name("xtask-test-logs");
        Report::new(&directory, name).expect("the log can be written")
    }

    fn failure(name: &str, line: &str) -> String {
        let error = report(name).run(line).expect_err("the command fails");
        format!("{error:#}")
    }

    #[test]
    fn a_failing_command_is_named() {
        let message = failure("false", "false");
        assert!(
            message.starts_with("`false` failed (exit status: 1)"),
            "{message}"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let message = failure("missing", "no-such-program-here --flag");
        assert!(
            message.starts_with("cannot start no-such-program-here"),
            "{message}"
        );
    }

    #[test]
    fn output_of_both_kinds_is_kept_in_order() {
        let mut report = report("output");
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; echo three"]);
        report.run_command(command).expect("the command succeeds");
        assert_eq!(report.lines[1..], ["one", "two", "three"]);
    }
}
