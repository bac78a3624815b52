//! The portable archive: the rows of one namespace in the order of their keys, without the namespace's prefix.
//!
//! ```text
//! archive  = "dunlin" 00 version(1 byte) manifest rows* end
//! block    = kind(1 byte) raw_length(u32) stored_length(u32) checksum(u64) stored      integers little endian
//! checksum = XXH64, seed 0, over kind, both lengths and the stored bytes
//! stored   = the raw bytes as one LZ4 block, or as they are where that is not shorter
//! manifest = kind 1: a JSON object, {"row_version": …, "namespace": "…"}
//! rows     = kind 2: (key_length key value_length value)*, lengths as varints; keys rise through the whole archive
//! end      = kind 3: the number of rows (u64), the number of raw bytes in rows blocks (u64)
//! ```
//!
//! An archive is a function of the rows: the same rows give the same bytes, wherever they are written. What does not
//! belong to it, like the time when it was written, does not stand in it. LZ4 block format: the specification of
//! that name in the LZ4 project; XXH64: the specification of xxHash.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::hash::Hasher as _;

use twox_hash::XxHash64;

use crate::protocol::json::{Value, put_json_str};
use crate::rows::ROW_VERSION;
use crate::wire::{Put as _, Reader};

const MAGIC: &[u8; 7] = b"dunlin\0";

/// The version of the archives that this build writes, and the newest that it reads.
pub const ARCHIVE_VERSION: u8 = 1;

/// Rows are gathered to blocks of about this many raw bytes.
const BLOCK_BYTES: usize = 64 << 10;

/// The most raw bytes of a block. A row longer than [`BLOCK_BYTES`] has a block to itself.
const BLOCK_BYTES_MAX: u32 = 4 << 20;

const KIND_MANIFEST: u8 = 1;
const KIND_ROWS: u8 = 2;
const KIND_END: u8 = 3;

/// Kind, lengths and checksum.
const HEAD_BYTES: usize = 1 + 4 + 4 + 8;

/// Spells an archive, row by row.
#[derive(Debug)]
pub struct ArchiveWriter {
    /// What is spelt and not taken yet.
    out: Vec<u8>,
    block: Vec<u8>,
    rows: u64,
    raw_bytes: u64,
}

impl ArchiveWriter {
    /// Begins the archive of the namespace that is called so.
    pub fn new(namespace: &str) -> Self {
        let mut writer = Self {
            out: Vec::new(),
            block: Vec::new(),
            rows: 0,
            raw_bytes: 0,
        };
        writer.out.extend_from_slice(MAGIC);
        writer.out.push(ARCHIVE_VERSION);
        let mut manifest = format!("{{\"row_version\":{ROW_VERSION},\"namespace\":").into_bytes();
        put_json_str(namespace, &mut manifest);
        manifest.push(b'}');
        writer.put_block(KIND_MANIFEST, &manifest);
        writer
    }

    /// Appends a row, whose key is given without the namespace.
    pub fn row(&mut self, key: &[u8], value: &[u8]) {
        if !self.block.is_empty() && self.block.len() + key.len() + value.len() > BLOCK_BYTES {
            self.end_block();
        }
        self.block.put_bytes(key);
        self.block.put_bytes(value);
        self.rows += 1;
    }

    /// Appends the end.
    pub fn finish(&mut self) {
        self.end_block();
        let mut end = Vec::with_capacity(16);
        end.extend_from_slice(&self.rows.to_le_bytes());
        end.extend_from_slice(&self.raw_bytes.to_le_bytes());
        self.put_block(KIND_END, &end);
    }

    /// How many bytes there are to take.
    pub fn ready_bytes(&self) -> usize {
        self.out.len()
    }

    /// Takes the next bytes of the archive, at most `bytes_max`.
    pub fn take(&mut self, bytes_max: usize) -> Vec<u8> {
        let rest = self.out.split_off(bytes_max.min(self.out.len()));
        core::mem::replace(&mut self.out, rest)
    }

    fn end_block(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let block = core::mem::take(&mut self.block);
        self.raw_bytes += block.len() as u64;
        self.put_block(KIND_ROWS, &block);
        self.block = block;
        self.block.clear();
    }

    fn put_block(&mut self, kind: u8, raw: &[u8]) {
        let packed = lz4_flex::block::compress(raw);
        let stored = if packed.len() < raw.len() {
            packed.as_slice()
        } else {
            raw
        };
        let head = BlockHead {
            kind,
            raw_bytes: raw.len() as u32,
            stored_bytes: stored.len() as u32,
        };
        head.put(stored, &mut self.out);
        self.out.extend_from_slice(stored);
    }
}

#[derive(Clone, Copy, Debug)]
struct BlockHead {
    kind: u8,
    raw_bytes: u32,
    stored_bytes: u32,
}

impl BlockHead {
    fn checksum(self, stored: &[u8]) -> u64 {
        let mut hasher = XxHash64::with_seed(0);
        hasher.write(&[self.kind]);
        hasher.write(&self.raw_bytes.to_le_bytes());
        hasher.write(&self.stored_bytes.to_le_bytes());
        hasher.write(stored);
        hasher.finish()
    }

    fn put(self, stored: &[u8], out: &mut Vec<u8>) {
        out.push(self.kind);
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.stored_bytes.to_le_bytes());
        out.extend_from_slice(&self.checksum(stored).to_le_bytes());
    }
}

/// An archive cannot be used; the text says where it is wrong, in what way, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveError(pub String);

/// Reads an archive from pieces of any size.
#[derive(Debug, Default)]
pub struct ArchiveReader {
    buffer: Vec<u8>,
    /// How much of the buffer is read, and which byte of the archive its first one is.
    read: usize,
    buffer_at: u64,
    namespace: Option<String>,
    last_key: Vec<u8>,
    rows: u64,
    raw_bytes: u64,
    begun: bool,
    ended: bool,
}

impl ArchiveReader {
    /// A reader at the beginning of an archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.buffer_at += self.read as u64;
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The namespace that the archive was written from, once its manifest is read.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// How many rows were read so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Reads the next block of rows and gives each of them, its key without the namespace, to `each`, which returns
    /// what is wrong with a row. False when it takes more pieces to go on, or the archive is at its end.
    pub fn next_rows(
        &mut self,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
    ) -> Result<bool, ArchiveError> {
        if !self.begin()? {
            return Ok(false);
        }
        loop {
            let at = self.position();
            if self.ended {
                return if self.rest().is_empty() {
                    Ok(false)
                } else {
                    Err(damaged(at, "bytes follow its end"))
                };
            }
            let Some((kind, raw)) = self.next_block()? else {
                return Ok(false);
            };
            match kind {
                KIND_MANIFEST if self.namespace.is_none() => {
                    self.namespace = Some(manifest(&raw).map_err(|why| damaged(at, &why))?);
                }
                KIND_ROWS if self.namespace.is_some() => {
                    self.take_rows(&raw, &mut each)
                        .map_err(|why| damaged(at, &why))?;
                    return Ok(true);
                }
                KIND_END if self.namespace.is_some() => {
                    let mut end = [0; 16];
                    end[..8].copy_from_slice(&self.rows.to_le_bytes());
                    end[8..].copy_from_slice(&self.raw_bytes.to_le_bytes());
                    if raw != end {
                        return Err(damaged(at, "its end counts other rows than it has"));
                    }
                    self.ended = true;
                }
                _ => {
                    return Err(damaged(
                        at,
                        &format!("a block of kind {kind} has no place there"),
                    ));
                }
            }
        }
    }

    /// Whether everything has been read, to the end that the archive itself names.
    pub fn finish(&self) -> Result<(), ArchiveError> {
        if self.ended && self.rest().is_empty() {
            return Ok(());
        }
        let end = self.buffer_at + self.buffer.len() as u64;
        Err(ArchiveError(format!(
            "the archive is cut off at byte {end}: its end is missing; take another copy"
        )))
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.read..]
    }

    fn position(&self) -> u64 {
        self.buffer_at + self.read as u64
    }

    /// Reads what stands in front of the blocks. False when it is not there yet.
    fn begin(&mut self) -> Result<bool, ArchiveError> {
        if self.begun {
            return Ok(true);
        }
        let rest = self.rest();
        let known = MAGIC.len().min(rest.len());
        if rest[..known] != MAGIC[..known] {
            return Err(ArchiveError(String::from(
                "this is not an archive of dunlin: it does not begin like one",
            )));
        }
        let Some(version) = rest.get(MAGIC.len()) else {
            return Ok(false);
        };
        if *version == 0 || *version > ARCHIVE_VERSION {
            return Err(ArchiveError(format!(
                "the archive is of version {version}, this build reads up to {ARCHIVE_VERSION}: use the dunlin that wrote it, or a newer one"
            )));
        }
        self.read += MAGIC.len() + 1;
        self.begun = true;
        Ok(true)
    }

    /// The next block's kind and raw bytes, when all of it is there.
    fn next_block(&mut self) -> Result<Option<(u8, Vec<u8>)>, ArchiveError> {
        let at = self.position();
        let rest = self.rest();
        let Some((head, rest)) = rest.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let u32_at =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let block = BlockHead {
            kind: head[0],
            raw_bytes: u32_at(1),
            stored_bytes: u32_at(5),
        };
        // Checked before the block is waited for: a damaged length must not make anybody wait for gigabytes.
        if block.raw_bytes > BLOCK_BYTES_MAX || block.stored_bytes > block.raw_bytes {
            return Err(damaged(at, "a block says to be longer than any is"));
        }
        let Some(stored) = rest.get(..block.stored_bytes as usize) else {
            return Ok(None);
        };
        let mut checksum = [0; 8];
        checksum.copy_from_slice(&head[9..]);
        if block.checksum(stored) != u64::from_le_bytes(checksum) {
            return Err(damaged(
                at,
                "a block does not have the checksum that it names",
            ));
        }
        let raw_bytes = block.raw_bytes as usize;
        let raw = if stored.len() == raw_bytes {
            stored.to_vec()
        } else {
            let raw = lz4_flex::block::decompress(stored, raw_bytes);
            raw.ok()
                .filter(|raw| raw.len() == raw_bytes)
                .ok_or_else(|| damaged(at, "a block cannot be decompressed"))?
        };
        self.read += HEAD_BYTES + stored.len();
        Ok(Some((block.kind, raw)))
    }

    fn take_rows(
        &mut self,
        raw: &[u8],
        each: &mut impl FnMut(&[u8], &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut reader = Reader::new(raw);
        while !reader.is_empty() {
            let row = reader.bytes().and_then(|key| Ok((key, reader.bytes()?)));
            let (key, value) = row.map_err(|_| String::from("a block does not hold whole rows"))?;
            if key <= self.last_key.as_slice() {
                return Err(format!("row {} stands before a lower key", self.rows));
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
            each(key, value).map_err(|why| format!("row {} ({}): {why}", self.rows, hex(key)))?;
            self.rows += 1;
        }
        self.raw_bytes += raw.len() as u64;
        Ok(())
    }
}

/// Bytes for people to read.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn damaged(at: u64, what: &str) -> ArchiveError {
    ArchiveError(format!(
        "the archive is damaged at byte {at}: {what}; take another copy"
    ))
}

/// The namespace that a manifest names.
fn manifest(raw: &[u8]) -> Result<String, String> {
    let unsound = || String::from("its manifest is not what any version writes");
    let text = core::str::from_utf8(raw).map_err(|_| unsound())?;
    let Ok(Value::Object(members)) = Value::parse(text) else {
        return Err(unsound());
    };
    let member = |name: &str| {
        let found = members.iter().find(|(other, _)| other.as_ref() == name);
        found.map(|(_, value)| value)
    };
    match (member("row_version"), member("namespace")) {
        (Some(Value::Int(version)), Some(Value::Str(namespace))) => {
            if *version == 0 || *version > ROW_VERSION {
                return Err(format!(
                    "its rows are of version {version}, this build reads up to {ROW_VERSION}"
                ));
            }
            Ok(namespace.as_ref().into())
        }
        _ => Err(unsound()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[(&[u8], &[u8])] = &[
        (b"\x01", b"namespace"),
        (b"\x02a", b""),
        (b"\x80a", &[7; 70_000]),
        (b"\x80b", b"short"),
    ];

    fn archive() -> Vec<u8> {
        let mut writer = ArchiveWriter::new("a \"name\"");
        for (key, value) in ROWS {
            writer.row(key, value);
        }
        writer.finish();
        let mut archive = Vec::new();
        while writer.ready_bytes() > 0 {
            archive.extend(writer.take(100));
        }
        archive
    }

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn read(archive: &[u8], piece: usize) -> Result<(Rows, ArchiveReader), ArchiveError> {
        let mut reader = ArchiveReader::new();
        let mut rows = Vec::new();
        for piece in archive.chunks(piece) {
            reader.push(piece);
            while reader.next_rows(|key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                Ok(())
            })? {}
        }
        reader.finish()?;
        Ok((rows, reader))
    }

    #[test]
    fn what_was_written_is_read_from_pieces_of_any_size() {
        let archive = archive();
        assert!(archive.len() < 1_000, "it is compressed: {}", archive.len());
        for piece in [1, 7, 100, archive.len()] {
            let (rows, reader) = read(&archive, piece).unwrap();
            assert_eq!(reader.namespace(), Some("a \"name\""));
            assert_eq!(reader.rows(), 4);
            let rows: Vec<_> = rows
                .iter()
                .map(|(k, v)| (k.as_slice(), v.as_slice()))
                .collect();
            assert_eq!(rows, ROWS);
        }
    }

    #[test]
    fn every_truncation_is_refused_with_its_place() {
        let archive = archive();
        for length in 0..archive.len() {
            let ArchiveError(told) = read(&archive[..length], 50).unwrap_err();
            assert!(
                told.contains(&format!("cut off at byte {length}")),
                "{told}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let archive = archive();
        let mut flipped = archive.clone();
        for at in 0..archive.len() {
            for bit in 0..8 {
                flipped[at] ^= 1 << bit;
                let told = read(&flipped, archive.len()).unwrap_err().0;
                let placed = ["at byte", "not an archive", "is of version"];
                assert!(placed.iter().any(|part| told.contains(part)), "{told}");
                flipped[at] = archive[at];
            }
        }
    }

    #[test]
    fn what_is_not_an_archive_is_told_from_its_first_bytes() {
        for (bytes, part) in [
            (&b"PK\x03\x04"[..], "not an archive of dunlin"),
            (b"dunlin\0\x02", "version 2"),
            (b"dunlin\0\0", "version 0"),
            (b"", "cut off at byte 0"),
        ] {
            let told = read(bytes, 100).unwrap_err().0;
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn rows_out_of_order_and_bytes_behind_the_end_are_refused() {
        let mut writer = ArchiveWriter::new("n");
        writer.row(b"b", b"");
        writer.row(b"a", b"");
        writer.finish();
        let told = read(&writer.take(usize::MAX), 100).unwrap_err().0;
        assert!(told.contains("row 1 stands before a lower key"), "{told}");
        let mut longer = archive();
        longer.push(0);
        let told = read(&longer, usize::MAX).unwrap_err().0;
        assert!(told.contains("bytes follow its end"), "{told}");
    }

    #[test]
    fn what_is_wrong_with_a_row_is_told_with_its_place() {
        let mut reader = ArchiveReader::new();
        reader.push(&archive());
        let told = reader.next_rows(|_, _| Err("is odd".into())).unwrap_err().0;
        assert!(told.contains("row 0 (01): is odd"), "{told}");
    }
}
