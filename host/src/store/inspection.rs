//! A data directory as it is, looked at without changing a byte of it.
//!
//! fjall mends and tidies what it opens. So it is given a copy in which the tables, nearly all of the bytes, are links
//! to the real ones: it reads those, and replaces or removes only the links.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use dunlin_core::Row;
use tempfile::TempDir;

use super::base::Base;
use super::overlay::{Overlay, merged};
use super::recovery::{Recovery, examine};
use super::{DataDirectory, DirectoryDisk, FjallBase, RangeRead, StoreError};

/// What is in a data directory that no server uses.
pub struct Inspection {
    base: FjallBase,
    journal: Result<Recovery, StoreError>,
    /// Newest first.
    overlays: Vec<Overlay>,
    copy: TempDir,
    directory: DataDirectory,
}

impl Inspection {
    /// Looks at `path`. An error means that there is nothing to look at, or that its tables cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = DataDirectory::look(path)?;
        if !directory.rows().is_dir() {
            return Err(StoreError(format!(
                "{} is missing, with all but the newest messages; bring it back, or restore the data directory from a backup",
                directory.rows().display()
            )));
        }
        let copied = TempDir::new().and_then(|copy| {
            copy_linked(&directory.rows(), copy.path())?;
            Ok(copy)
        });
        let copy = copied.map_err(|error| {
            StoreError(format!(
                "the store in {} cannot be looked at: {error}; mend its permissions, or make room for temporary files",
                path.display()
            ))
        })?;
        let base = FjallBase::open_idle(copy.path())
            .map_err(|error| of_original(&error, &copy, &directory))?;
        let disk = DirectoryDisk::at(directory.journal());
        let examined = if directory.journal().exists() {
            examine(&disk, base.reached()?)
        } else {
            Ok(Default::default())
        };
        let (journal, overlays) = match examined {
            Ok(found) => {
                let filled = found.filled.into_iter().rev();
                let overlays = filled.map(|filled| filled.overlay).collect();
                (Ok(found.recovery), overlays)
            }
            Err(error) => (Err(error), Vec::new()),
        };
        Ok(Self {
            base,
            journal,
            overlays,
            copy,
            directory,
        })
    }

    /// What the journal holds, or what is wrong with it. In the latter case the rows are those behind it alone.
    pub const fn journal(&self) -> &Result<Recovery, StoreError> {
        &self.journal
    }

    /// Gives every row, in the order of their keys, to `each`. An error is that of the store, which goes no further.
    pub fn rows(&self, mut each: impl FnMut(Row)) -> Result<(), StoreError> {
        let everything = RangeRead {
            from: Vec::new(),
            to: vec![0xff; 2],
            reverse: false,
            rows_max: u32::MAX,
            bytes_max: u32::MAX,
        };
        let overlays: Vec<_> = self.overlays.iter().collect();
        let base = self.base.range(&everything.from, &everything.to, false);
        for row in merged(&overlays, base, &everything) {
            each(row.map_err(|error| of_original(&error, &self.copy, &self.directory))?);
        }
        Ok(())
    }
}

/// What is said of the copy, said of what it is a copy of.
fn of_original(error: &StoreError, copy: &TempDir, directory: &DataDirectory) -> StoreError {
    let copy = copy.path().to_string_lossy();
    let rows = directory.rows();
    StoreError(error.0.replace(&*copy, &rows.to_string_lossy()))
}

/// Links what lies in directories called `tables`, whose files are written once, and copies the rest.
fn copy_linked(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_linked(&entry.path(), &target)?;
        } else if from.ends_with("tables") {
            symlink(fs::canonicalize(entry.path())?, target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
