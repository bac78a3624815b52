//! The few things that the journal asks of a file system, so that tests can run it on disks that fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// How much a new file is written and made durable at a time: a longer burst would hold up the commits beside it.
const FILL_BYTES: u64 = 1024 * 1024;

/// One directory of files.
pub trait Disk: Send + Sync {
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new file of `size_bytes` zeros, which takes the room that it will need now. Its bytes are durable after its
    /// [`DiskFile::sync`], its name after [`Disk::sync_directory`]. What a failure leaves of it may be listed.
    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// A file that exists.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file, durably after [`Disk::sync_directory`]. Who has it open may go on using it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// The whole file.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Writes all of `bytes` at a position within the file. They survive this process, not yet the machine; after an
    /// error any part of them may be there.
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written before. After an error nobody knows what of it is.
    fn sync(&self) -> io::Result<()>;
}

/// A real directory.
#[derive(Debug)]
pub struct DirectoryDisk {
    path: PathBuf,
}

impl DirectoryDisk {
    /// The directory `path`, which is created if it does not exist.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { path })
    }

    /// The directory `path`, which exists.
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Disk for DirectoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create(&self, name: &str, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path.join(name))?;
        // Written and not only reserved: a sync of bytes that were written before changes no metadata.
        let zeros = vec![0; FILL_BYTES as usize];
        let mut filled = 0;
        while filled < size_bytes {
            let part = FILL_BYTES.min(size_bytes - filled);
            file.write_all_at(&zeros[..part as usize], filled)?;
            file.sync_data()?;
            filled += part;
        }
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn read(&self) -> io::Result<Vec<u8>> {
        let size_bytes = self.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(size_bytes).map_err(io::Error::other)?];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
