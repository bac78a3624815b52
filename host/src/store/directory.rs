//! The directory that a broker keeps its data in: who owns it, and in which version it is written.
//!
//! ```text
//! LOCK      held by the process that uses the directory; says which
//! FORMAT    the version, one line
//! journal/  what was written last
//! rows/     what was written before
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::StoreError;

/// The version of the directory that this build writes. It takes over one of version 1, which had no journal of its own:
/// from then on a dunlin that would not read the journal refuses the directory.
pub const FORMAT_VERSION: u32 = 2;

/// A data directory that this process owns until the value is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    // The operating system gives the lock up with the process, however that ends.
    _lock: File,
}

impl DataDirectory {
    /// Takes possession of `path`, which is created if it does not exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display();
        let failed = |what: &str, error: &io::Error| {
            StoreError(format!(
                "data directory {shown} {what}: {error}; choose another with --data, or mend its permissions"
            ))
        };
        fs::create_dir_all(path).map_err(|error| failed("cannot be created", &error))?;
        let had_lock = path.join("LOCK").exists();
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("LOCK"))
            .map_err(|error| failed("cannot be written", &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only for the message: who owns it may be unreadable.
                let _ = lock.read_to_string(&mut owner);
                let owner = owner.trim();
                return Err(StoreError(format!(
                    "data directory {shown} is in use by another dunlin process (pid {}); stop it, or choose another directory with --data",
                    if owner.is_empty() { "unknown" } else { owner }
                )));
            }
            Err(TryLockError::Error(error)) => return Err(failed("cannot be locked", &error)),
        }
        if let Some(name) = foreign(path).map_err(|error| failed("cannot be read", &error))? {
            if !had_lock {
                // Nothing of ours stays in a directory of somebody else's; what cannot be removed does no harm.
                let _ = fs::remove_file(path.join("LOCK"));
            }
            return Err(StoreError(format!(
                "data directory {shown} is not dunlin's: it has no FORMAT file, but {name:?}; choose another with --data, one that is empty or new"
            )));
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(|error| failed("cannot be written", &error))?;
        check_format(path).map_err(|problem| match problem {
            Ok(text) => StoreError(format!("data directory {shown} {text}")),
            Err(error) => failed("cannot be read", &error),
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Takes possession of `path` to look at it. Nothing is created or changed.
    pub(super) fn look(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display();
        let told = |what: String| StoreError(format!("data directory {shown} {what}"));
        let version = match fs::read_to_string(path.join("FORMAT")) {
            Ok(text) => text,
            Err(error) => {
                return Err(told(format!(
                    "has no FORMAT file that can be read: {error}; name the directory that --data of the server names"
                )));
            }
        };
        if !matches!(version.trim().parse(), Ok(1..=FORMAT_VERSION)) {
            return Err(told(format!(
                "is of version {:?} and this dunlin reads versions 1 to {FORMAT_VERSION}; use the dunlin that wrote it, or restore it from a backup",
                version.trim()
            )));
        }
        let lock = File::open(path.join("LOCK"))
            .map_err(|error| told(format!("cannot be locked: {error}; restore its LOCK file")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(told(
                "is in use by a dunlin process; stop it first, or look at a copy".to_owned(),
            )),
            Err(TryLockError::Error(error)) => Err(told(format!("cannot be locked: {error}"))),
        }
    }

    /// Where the journal keeps its files.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where fjall keeps its files.
    pub fn rows(&self) -> PathBuf {
        self.path.join("rows")
    }
}

/// What shows that a directory without a version is somebody else's. A start that was cut short leaves a lock and perhaps
/// a version that was not renamed yet; `rows` has words of its own; `lost+found` is in the root of every file system.
fn foreign(path: &Path) -> io::Result<Option<String>> {
    if path.join("FORMAT").exists() {
        return Ok(None);
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let ours = [
            "LOCK",
            "FORMAT.new",
            "journal",
            "rows",
            "rows.new",
            "lost+found",
        ];
        if !ours.iter().any(|known| name == *known) {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Writes the version into a new directory, and refuses one of another version.
fn check_format(path: &Path) -> Result<(), Result<String, io::Error>> {
    let file = path.join("FORMAT");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.join("rows").exists() || path.join("journal").exists() {
                return Err(Ok(
                    "has data but no FORMAT file; it is damaged, restore it from a backup"
                        .to_owned(),
                ));
            }
            return write_format(path, &file).map_err(Err);
        }
        Err(error) => return Err(Err(error)),
    };
    match text.trim().parse::<u32>() {
        Ok(FORMAT_VERSION) => Ok(()),
        Ok(1) => write_format(path, &file).map_err(Err),
        Ok(version) if version > FORMAT_VERSION => Err(Ok(format!(
            "is of version {version} and this dunlin reads version {FORMAT_VERSION}; use the newer dunlin that wrote it"
        ))),
        _ => Err(Ok(format!(
            "has a FORMAT file that says {:?} instead of a version; it is damaged, restore it from a backup",
            text.trim()
        ))),
    }
}

/// Renamed into place, so that a crash leaves either no version or a whole one.
fn write_format(path: &Path, file: &Path) -> io::Result<()> {
    let new = path.join("FORMAT.new");
    let mut handle = File::create(&new)?;
    writeln!(handle, "{FORMAT_VERSION}")?;
    handle.sync_all()?;
    fs::rename(&new, file)?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        DataDirectory::open(path).unwrap_err().0
    }

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/data");
        let first = DataDirectory::open(&path).unwrap();
        let told = refusal(&path);
        assert!(told.contains("in use by another dunlin process"), "{told}");
        assert!(told.contains(&std::process::id().to_string()), "{told}");
        drop(first);
        DataDirectory::open(&path).unwrap();
    }

    #[test]
    fn a_directory_of_another_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let format = folder.path().join("FORMAT");
        for (text, named) in [
            ("3\n", "version 3"),
            ("4294967295\n", "version 4294967295"),
            ("0\n", "damaged"),
            ("-1\n", "damaged"),
            ("", "damaged"),
            ("99999999999\n", "damaged"),
            ("one\n", "damaged"),
        ] {
            fs::write(&format, text).unwrap();
            let told = refusal(folder.path());
            assert!(told.contains(named), "{text:?}: {told}");
            assert_eq!(fs::read_to_string(&format).unwrap(), text);
        }
    }

    #[test]
    fn a_directory_that_lost_its_version_is_not_taken_for_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("rows")).unwrap();
        assert!(refusal(folder.path()).contains("no FORMAT file"));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("letters.txt"), "dear").unwrap();
        let told = refusal(folder.path());
        assert!(told.contains("is not dunlin's"), "{told}");
        assert!(told.contains("letters.txt"), "{told}");
        assert!(told.contains("--data"), "{told}");
        let left = fs::read_dir(folder.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["letters.txt"]);
    }

    #[test]
    fn a_start_that_was_cut_short_and_the_root_of_a_file_system_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("LOCK"), "1\n").unwrap();
        fs::write(folder.path().join("FORMAT.new"), "").unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        DataDirectory::open(folder.path()).unwrap();
        assert!(folder.path().join("FORMAT").exists());
    }

    #[test]
    fn a_path_that_cannot_be_written_is_refused() {
        // Not even root makes files there.
        let told = refusal(Path::new("/sys"));
        assert!(told.contains("cannot be written"), "{told}");
        assert!(told.contains("--data"), "{told}");
    }

    #[test]
    fn a_path_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = refusal(&file.path().join("data"));
        assert!(told.contains("cannot be created"), "{told}");
        assert!(told.contains("--data"), "{told}");
    }
}
