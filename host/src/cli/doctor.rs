//! `dunlin doctor`: whether a data directory or an archive is whole, without changing it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use dunlin_core::rows::{Scope, scope_of};
use dunlin_core::{ArchiveReader, NamespaceSummary, NamespaceVerifier, Row};

use super::print_line;
use crate::store::Inspection;

/// How much of an archive is read at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The flags of `dunlin doctor`.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// A data directory that no server uses, or an archive
    path: PathBuf,
}

impl Doctor {
    pub(super) fn run(&self) -> Result<()> {
        let shown = self.path.display();
        if !self.path.exists() {
            bail!("{shown} does not exist; name a data directory or an archive");
        }
        let wrong = if self.path.is_file() {
            archive(&self.path)?
        } else {
            directory(&self.path)?
        };
        if wrong > 0 {
            bail!(
                "{shown} is damaged: {wrong} of what was checked {} wrong; restore it from a backup",
                if wrong == 1 { "is" } else { "are" }
            );
        }
        print_line(&format!("{shown}: nothing is wrong"))?;
        Ok(())
    }
}

/// Prints what is right and what is wrong with a data directory; how much is wrong.
fn directory(path: &Path) -> Result<u64> {
    let inspection = Inspection::open(path)?;
    let mut wrong = 0;
    match inspection.journal() {
        Ok(recovery) => print_line(&format!("right: {recovery}"))?,
        Err(error) => {
            wrong += 1;
            print_line(&format!("wrong: {error}"))?;
        }
    }
    let journal_is_right = wrong == 0;
    let mut rows = Rows::default();
    let read = inspection.rows(|row| rows.take(&row));
    rows.end_namespace();
    match read {
        Ok(()) => print_line(&format!("right: {} rows can be read", rows.count))?,
        Err(error) => {
            wrong += 1;
            print_line(&format!(
                "wrong: of the rows {} can be read, then: {error}",
                rows.count
            ))?;
        }
    }
    if !journal_is_right {
        // Rows without the changes in front of them need not fit one another.
        print_line("skipped: whether the rows fit one another, without the journal")?;
        return Ok(wrong);
    }
    for (is_right, told) in rows.told {
        wrong += u64::from(!is_right);
        print_line(&format!(
            "{}: {told}",
            if is_right { "right" } else { "wrong" }
        ))?;
    }
    Ok(wrong)
}

/// Prints what is right or wrong with an archive; how much is wrong.
fn archive(path: &Path) -> Result<u64> {
    let read = || format!("{} cannot be read", path.display());
    let mut file = File::open(path).with_context(read)?;
    let mut reader = ArchiveReader::new();
    let mut verifier = None;
    let mut piece = vec![0; PIECE_BYTES];
    let outcome = loop {
        let size_bytes = file.read(&mut piece).with_context(read)?;
        if size_bytes == 0 {
            break reader.finish();
        }
        reader.push(&piece[..size_bytes]);
        let taken = loop {
            let taken = reader.next_rows(|key, value| {
                // The name is in no row: it is only for what is told.
                let verifier = verifier.get_or_insert_with(|| NamespaceVerifier::new("archive"));
                verifier.row(key, value)
            });
            match taken {
                Ok(true) => {}
                other => break other,
            }
        };
        if let Err(error) = taken {
            break Err(error);
        }
    };
    let name = reader.namespace().unwrap_or("?").to_owned();
    let verdict = outcome.map_err(|error| error.0).and_then(|()| {
        let mut verifier = verifier.unwrap_or_else(|| NamespaceVerifier::new(&name));
        verifier.finish()
    });
    match verdict {
        Ok(summary) => {
            print_line(&format!("right: {}", told(&name, summary)))?;
            Ok(0)
        }
        Err(problem) => {
            print_line(&format!("wrong: {problem}"))?;
            Ok(1)
        }
    }
}

/// Goes through all rows of a store, one namespace after the other.
#[derive(Default)]
struct Rows {
    count: u64,
    current: Option<Checked>,
    /// What is right (true) or wrong, in the order in which it was found.
    told: Vec<(bool, String)>,
}

struct Checked {
    name: String,
    /// Empty once something was wrong.
    verifier: Option<NamespaceVerifier>,
}

impl Rows {
    fn take(&mut self, row: &Row) {
        self.count += 1;
        let name = match scope_of(&row.key) {
            Some(Scope::State(name) | Scope::Messages(name)) => name,
            Some(Scope::Store) => return self.end_namespace(),
            None => {
                let told = format!("key {:02x?}, which no version has written", row.key);
                return self.told.push((false, told));
            }
        };
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.name != name)
        {
            self.end_namespace();
        }
        let current = self.current.get_or_insert_with(|| Checked {
            name: name.to_owned(),
            verifier: Some(NamespaceVerifier::new(name)),
        });
        let Some(verifier) = &mut current.verifier else {
            return;
        };
        // A key begins with the length of the name, one byte, and the name.
        if let Err(problem) = verifier.row(&row.key[1 + name.len()..], &row.value) {
            current.verifier = None;
            let told = format!(
                "namespace {name:?}: {problem}, in the row with key {:02x?}",
                row.key
            );
            self.told.push((false, told));
        }
    }

    fn end_namespace(&mut self) {
        let Some(Checked {
            name,
            verifier: Some(mut verifier),
        }) = self.current.take()
        else {
            return;
        };
        self.told.push(match verifier.finish() {
            Ok(summary) => (true, told(&name, summary)),
            Err(problem) => (false, format!("namespace {name:?}: {problem}")),
        });
    }
}

fn told(name: &str, summary: NamespaceSummary) -> String {
    let mut told = format!(
        "namespace {name:?}: {} topics, {} messages",
        summary.topics, summary.messages
    );
    if summary.leftover_rows > 0 {
        told += &format!(
            "; {} rows of trimmed messages are still to be deleted",
            summary.leftover_rows
        );
    }
    if summary.import_broken_off {
        told += "; an import was broken off, and its rows are deleted at the next start";
    }
    told
}
