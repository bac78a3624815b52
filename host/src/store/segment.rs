//! One file of the journal: a header, records one after the other, and zeros up to its end.
//!
//! ```text
//! header    "dunlinWJ"  crc u32  version u32  number u64  size u64  mark u64
//! record    mark u64  crc u32  length u32  sequence u64  durable u64  operations, padded with zeros to 8 bytes
//! ```
//!
//! Integers are little-endian; a CRC32C covers everything behind it. Every segment has a mark of its own, which no
//! client can know: so what a client publishes is never taken for a record when a damaged file is searched for more.

use std::io;

use dunlin_core::Op;

use super::StoreError;
use super::disk::{Disk, DiskFile};

/// The bytes before the first record.
pub(super) const HEADER_BYTES: usize = 40;

/// The bytes before the operations of a record.
pub(super) const RECORD_HEAD_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"dunlinWJ";
const VERSION: u32 = 1;
const ALIGNMENT: usize = 8;

/// A segment that records are written to, or were.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) size_bytes: u64,
    pub(super) mark: u64,
    pub(super) file: Box<dyn DiskFile>,
}

impl Segment {
    /// A new segment, durable and empty.
    pub(super) fn create(
        disk: &dyn Disk,
        number: u64,
        size_bytes: u64,
        mark: u64,
    ) -> io::Result<Self> {
        let file = disk.create(&name_of(number), size_bytes)?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&VERSION.to_le_bytes());
        for field in [number, size_bytes, mark] {
            header.extend_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&header[12..]);
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        file.write_at(0, &header)?;
        file.sync()?;
        disk.sync_directory()?;
        Ok(Self {
            number,
            size_bytes,
            mark,
            file,
        })
    }

    /// What the header in `bytes` says, if it is one and of the segment with this number.
    pub(super) fn from_header(number: u64, file: Box<dyn DiskFile>, bytes: &[u8]) -> Option<Self> {
        let read = |at: usize| u64_at(bytes, at);
        let right = bytes.len() >= HEADER_BYTES
            && &bytes[..8] == MAGIC
            && u32_at(bytes, 8) == crc32c::crc32c(&bytes[12..HEADER_BYTES])
            && u32_at(bytes, 12) == VERSION
            && read(16) == number;
        if !right {
            return None;
        }
        Some(Self {
            number,
            size_bytes: read(24),
            mark: read(32),
            file,
        })
    }
}

/// The file name of a segment.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:016x}.log")
}

/// The number of the segment with this file name, if it is one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

/// A record as it was read and found right.
pub(super) struct Record<'a> {
    pub(super) sequence: u64,
    /// The last record that was known to be durable when this one was written.
    pub(super) durable: u64,
    pub(super) operations: &'a [u8],
    /// Where the next one begins.
    pub(super) end: usize,
}

/// What stands at a place where a record could.
pub(super) enum Found<'a> {
    Record(Record<'a>),
    /// Zeros up to the end of the segment: nothing was written here.
    End,
    /// Something else.
    Bad,
}

/// Looks for a record at `at`, in the bytes of a whole segment.
pub(super) fn find<'a>(segment: &Segment, bytes: &'a [u8], at: usize) -> Found<'a> {
    let rest = &bytes[at..];
    if let Some(record) = record_at(segment.mark, bytes, at) {
        return Found::Record(record);
    }
    let whole = bytes.len() as u64 >= segment.size_bytes;
    if rest.iter().all(|byte| *byte == 0) && (whole || !rest.is_empty()) {
        Found::End
    } else {
        Found::Bad
    }
}

/// Every right record from `from` on, wherever it stands: for what may lie behind something bad.
pub(super) fn search<'a>(
    mark: u64,
    bytes: &'a [u8],
    from: usize,
) -> impl Iterator<Item = Record<'a>> {
    let mut at = from.next_multiple_of(ALIGNMENT);
    core::iter::from_fn(move || {
        while at + RECORD_HEAD_BYTES <= bytes.len() {
            if let Some(record) = record_at(mark, bytes, at) {
                at = record.end;
                return Some(record);
            }
            at += ALIGNMENT;
        }
        None
    })
}

fn record_at(mark: u64, bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let head = bytes.get(at..at + RECORD_HEAD_BYTES)?;
    if u64_at(head, 0) != mark {
        return None;
    }
    let length = usize::try_from(u32_at(head, 12)).ok()?;
    let start = at + RECORD_HEAD_BYTES;
    let end = start
        .checked_add(length)?
        .checked_next_multiple_of(ALIGNMENT)?;
    let covered = bytes.get(at + 12..end)?;
    if crc32c::crc32c(covered) != u32_at(head, 8) {
        return None;
    }
    Some(Record {
        sequence: u64_at(head, 16),
        durable: u64_at(head, 24),
        operations: &bytes[start..start + length],
        end,
    })
}

/// A record without its head, which [`seal`] writes.
pub(super) fn encode(ops: &[Op]) -> Result<Vec<u8>, StoreError> {
    let mut out = vec![0; RECORD_HEAD_BYTES];
    for op in ops {
        match op {
            Op::Put { key, value } => {
                out.push(0);
                put_bytes(key, &mut out);
                put_bytes(value, &mut out);
            }
            Op::Delete { key } => {
                out.push(1);
                put_bytes(key, &mut out);
            }
            Op::DeleteRange { from, to } => {
                out.push(2);
                put_bytes(from, &mut out);
                put_bytes(to, &mut out);
            }
        }
    }
    let length = u32::try_from(out.len() - RECORD_HEAD_BYTES).map_err(|_| {
        StoreError("a batch of 4 GiB or more cannot be stored; write less at once".to_owned())
    })?;
    out[12..16].copy_from_slice(&length.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    Ok(out)
}

/// Writes the head of a record that was encoded.
pub(super) fn seal(record: &mut [u8], mark: u64, sequence: u64, durable: u64) {
    record[..8].copy_from_slice(&mark.to_le_bytes());
    record[16..24].copy_from_slice(&sequence.to_le_bytes());
    record[24..32].copy_from_slice(&durable.to_le_bytes());
    let crc = crc32c::crc32c(&record[12..]);
    record[8..12].copy_from_slice(&crc.to_le_bytes());
}

/// The operations of a record; `None` if they are not spelt as [`encode`] does.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    while let Some((&tag, rest)) = bytes.split_first() {
        bytes = rest;
        let key = take_bytes(&mut bytes)?;
        ops.push(match tag {
            0 => Op::Put {
                key,
                value: take_bytes(&mut bytes)?,
            },
            1 => Op::Delete { key },
            2 => Op::DeleteRange {
                from: key,
                to: take_bytes(&mut bytes)?,
            },
            _ => return None,
        });
    }
    Some(ops)
}

/// The length is checked by [`encode`] for all together.
fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_bytes(from: &mut &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = from.split_at_checked(4)?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u32_at(length, 0)).ok()?)?;
    *from = rest;
    Some(bytes.to_vec())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into();
    u32::from_le_bytes(field.expect("four bytes are four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..at + 8].try_into();
    u64::from_le_bytes(field.expect("eight bytes are eight bytes"))
}
