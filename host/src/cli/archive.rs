//! `dunlin export` and `dunlin import`.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use dunlin_core::frame::{self, Command, Reply};
use dunlin_core::http::{IMPORT_PART_BYTES, REQUEST};
use dunlin_core::{ArchiveReader, ErrorCode};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::client::{Client, told};
use super::serve::config_json;
use super::{Target, print_line};
use crate::engine::{EngineKind, Engines};
use crate::offline::Offline;
use crate::store::NativeStore;

/// Where the namespace is.
#[derive(Args, Debug)]
struct Place {
    #[command(flatten)]
    target: Target,
    /// The data directory of a broker that is not running, instead of the address of one that is
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    data: Option<PathBuf>,
    /// With --data: the JSON file with the broker's bounds, as for `dunlin serve`
    #[arg(long, value_name = "FILE", requires = "data")]
    config: Option<PathBuf>,
}

/// The flags of `dunlin export`.
#[derive(Args, Debug)]
pub(super) struct Export {
    #[command(flatten)]
    place: Place,
    /// Overwrites FILE if it exists
    #[arg(long)]
    force: bool,
    /// Where the archive goes; `-` is standard output
    file: PathBuf,
}

/// The flags of `dunlin import`.
#[derive(Args, Debug)]
pub(super) struct Import {
    #[command(flatten)]
    place: Place,
    /// The archive; `-` is standard input
    file: PathBuf,
}

impl Export {
    pub(super) async fn run(self) -> Result<()> {
        let mut destination = Destination::open(&self.file, self.force)?;
        if let Some(data) = &self.place.data
            && !data.join("FORMAT").is_file()
        {
            bail!(
                "--data {} is not a data directory of dunlin: it has no FORMAT file",
                data.display()
            );
        }
        let mut broker = self.place.open().await?;
        let exported = tokio::select! {
            exported = fetch(&mut broker, &mut destination) => exported,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted; the archive is not whole")),
        };
        broker.close().await;
        let Exported { bytes, rows } = exported?;
        let namespace = &self.place.target.namespace;
        if destination.finish(self.force)? {
            let file = self.file.display();
            print_line(&format!(
                "namespace \"{namespace}\", {rows} rows: {bytes} bytes in {file}"
            ))?;
        }
        Ok(())
    }
}

impl Import {
    pub(super) async fn run(self) -> Result<()> {
        let source: Box<dyn Read + Send> = if is_standard(&self.file) {
            Box::new(io::stdin())
        } else {
            let file = File::open(&self.file);
            Box::new(file.with_context(|| self.cannot_be_read())?)
        };
        let mut broker = self.place.open().await?;
        let mut given = Given::default();
        let imported = tokio::select! {
            imported = given.all(&mut broker, source) => imported.map_err(|error| match error {
                GiveError::Source(error) => anyhow!(error).context(self.cannot_be_read()),
                GiveError::Refused(error) => error,
            }),
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted; nothing was imported")),
        };
        if imported.is_err() && given.parts > 0 {
            // An end that comes too early is refused, and what was given is deleted at once. Whatever keeps the broker
            // from hearing it, it gives the import up by itself.
            let _ = given.part(&mut broker, b"", true).await;
        }
        broker.close().await;
        let rows = imported?;
        let namespace = &self.place.target.namespace;
        print_line(&format!("imported {rows} rows into \"{namespace}\""))?;
        Ok(())
    }

    fn cannot_be_read(&self) -> String {
        format!("the archive {} cannot be read", self.file.display())
    }
}

impl Place {
    async fn open(&self) -> Result<Broker> {
        let Some(data) = &self.data else {
            let client = Client::connect(&self.target).await?;
            return Ok(Broker::Running(Box::new(client)));
        };
        // Linked directly it starts at once; nothing else tells it from the guest.
        let engines = Engines::new(EngineKind::Native, &config_json(self.config.as_deref())?)?;
        let store = Arc::new(NativeStore::open(data)?);
        let offline = Offline::start(engines, store, &self.target.namespace).await?;
        Ok(Broker::Offline(offline))
    }
}

/// Who exports and imports.
enum Broker {
    Running(Box<Client>),
    Offline(Offline),
}

impl Broker {
    /// The frame that answers a command about archives.
    async fn ask(&mut self, command: &Command<'_>) -> Result<Bytes> {
        let client = match self {
            Self::Running(client) => client,
            Self::Offline(offline) => {
                let answer = offline.transfer.ask(command).await;
                return answer.map_err(|refusal| {
                    let told = told(&refusal.body);
                    anyhow!(told.unwrap_or_else(|| "the broker gave no answer".to_owned()))
                });
            }
        };
        client.ask(command).await
    }

    async fn close(self) {
        match self {
            Self::Running(client) => client.close().await,
            Self::Offline(offline) => offline.stop().await,
        }
    }
}

struct Exported {
    bytes: u64,
    rows: u64,
}

/// Fetches all parts. What was written is what was read as an archive here, to its end.
async fn fetch(broker: &mut Broker, destination: &mut Destination) -> Result<Exported> {
    let mut reader = ArchiveReader::new();
    let mut progress = Progress::new();
    let (mut export, mut part) = (0, 0);
    loop {
        let command = Command::Export(frame::Export {
            request: REQUEST,
            export,
            part,
        });
        let frame = broker.ask(&command).await?;
        let Ok(Reply::ArchivePart(given)) = Reply::decode(&frame) else {
            bail!("the broker answers `export` with something else");
        };
        (export, part) = (given.export, part + 1);
        reader.push(given.bytes);
        while reader
            .next_rows(|_, _| Ok(()))
            .map_err(|error| anyhow!(error.0))?
        {}
        if given.last && reader.rows() == 0 {
            bail!(
                "{}: this namespace was never used; check its name",
                ErrorCode::UnknownNamespace.as_str()
            );
        }
        destination.write(given.bytes)?;
        progress.add(given.bytes.len());
        if given.last {
            reader.finish().map_err(|error| anyhow!(error.0))?;
            return Ok(Exported {
                bytes: progress.bytes,
                rows: reader.rows(),
            });
        }
    }
}

/// An import under way.
#[derive(Default)]
struct Given {
    import: u64,
    parts: u64,
}

/// Why an import cannot go on.
enum GiveError {
    Source(io::Error),
    Refused(anyhow::Error),
}

impl Given {
    /// Gives all of the archive; how many rows it had.
    async fn all(
        &mut self,
        broker: &mut Broker,
        source: Box<dyn Read + Send>,
    ) -> Result<u64, GiveError> {
        let mut pieces = pieces(source);
        let mut progress = Progress::new();
        let mut next = async || pieces.recv().await.transpose().map_err(GiveError::Source);
        let mut piece = next().await?.unwrap_or_default();
        loop {
            // The broker has to be told which part is the last.
            let following = next().await?;
            let rows = self.part(broker, &piece, following.is_none()).await;
            let rows = rows.map_err(GiveError::Refused)?;
            progress.add(piece.len());
            match following {
                Some(following) => piece = following,
                None => return Ok(rows),
            }
        }
    }

    /// Gives the next part; how many rows were read so far.
    async fn part(&mut self, broker: &mut Broker, bytes: &[u8], last: bool) -> Result<u64> {
        let command = Command::Import(frame::Import {
            request: REQUEST,
            import: self.import,
            part: self.parts,
            last,
            bytes,
        });
        let frame = broker.ask(&command).await?;
        let Ok(Reply::Imported(imported)) = Reply::decode(&frame) else {
            bail!("the broker answers `import` with something else");
        };
        self.import = imported.import;
        self.parts += 1;
        Ok(imported.rows)
    }
}

/// The source in parts, read by a thread, so that an interruption does not wait for standard input.
fn pieces(mut source: Box<dyn Read + Send>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(IMPORT_PART_BYTES);
            let mut part = Read::take(&mut source, IMPORT_PART_BYTES as u64);
            let read = part.read_to_end(&mut piece);
            let failed = read.is_err();
            // Behind the end, or an error, nothing comes; and nothing is read for nobody.
            if matches!(read, Ok(0)) || sender.blocking_send(read.map(|_| piece)).is_err() || failed
            {
                return;
            }
        }
    });
    receiver
}

/// Where an archive goes. A file has its name only once it is whole.
enum Destination {
    Standard,
    File(NamedTempFile, PathBuf),
}

impl Destination {
    fn open(path: &Path, force: bool) -> Result<Self> {
        if is_standard(path) {
            if io::stdout().is_terminal() {
                bail!("an archive is nothing for a terminal; name a file, or redirect the output");
            }
            return Ok(Self::Standard);
        }
        let shown = path.display();
        if path.exists() {
            if !path.is_file() {
                bail!("{shown} is not a file; choose another name");
            }
            if !force {
                bail!("{shown} exists; choose another name, or overwrite it with --force");
            }
        }
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        // What others may do with it is the business of the umask, as with any file.
        let file = tempfile::Builder::new()
            .prefix(&name)
            .suffix(".part")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder_of(path))
            .with_context(|| format!("{shown} cannot be written"))?;
        Ok(Self::File(file, path.to_owned()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            // Not the error itself: a reader that is gone is no success here.
            Self::Standard => io::stdout()
                .write_all(bytes)
                .map_err(|error| anyhow!("standard output cannot be written: {error}")),
            Self::File(file, path) => file
                .write_all(bytes)
                .with_context(|| format!("{} cannot be written", path.display())),
        }
    }

    /// Makes it durable, under its name. Whether it is a file.
    fn finish(self, force: bool) -> Result<bool> {
        let (file, path) = match self {
            Self::Standard => {
                let flushed = io::stdout().flush();
                return flushed
                    .map(|()| false)
                    .map_err(|error| anyhow!("standard output cannot be written: {error}"));
            }
            Self::File(file, path) => (file, path),
        };
        let named = file.as_file().sync_all().and_then(|()| {
            let named = if force {
                file.persist(&path)
            } else {
                file.persist_noclobber(&path)
            };
            named.map_err(|error| error.error)?;
            File::open(folder_of(&path))?.sync_all()
        });
        named.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(true)
    }
}

/// How far it is, for somebody who watches.
struct Progress {
    bytes: u64,
    watched: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            bytes: 0,
            watched: io::stderr().is_terminal(),
        }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.watched {
            eprint!("\r{} MiB ", self.bytes >> 20);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.watched {
            eprint!("\r\x1b[K");
        }
    }
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn folder_of(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}
