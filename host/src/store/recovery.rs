//! From the files of the journal back to what they say: all of it, or all up to the place where a crash tore it.
//!
//! A record that is not right is the end of the journal if nothing shows that it was durable once: a crash leaves
//! such tails, and nobody was promised what they held. The tail is cut off and told. If a later record says that
//! the bad one was durable, the disk has lost what was promised, and nothing is opened or changed.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::io;

use super::StoreError;
use super::base::Reached;
use super::disk::Disk;
use super::overlay::Overlay;
use super::segment::{Found, HEADER_BYTES, Segment, decode, find, name_of, number_of, search};

/// What was found in the journal at an open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// How many records were read, one for each batch.
    pub records: u64,
    /// How many changes they made.
    pub changes: u64,
    /// The torn tail, if there was one.
    pub cut: Option<Cut>,
    /// How long it took; zero where nobody measured it.
    pub took: Duration,
}

/// What a crash left half written, and what was cut off therefore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file of the journal.
    pub file: String,
    /// The byte at which its right records end.
    pub position: u64,
    /// How many bytes behind it were not zero, in this file and later ones.
    pub bytes: u64,
}

impl fmt::Display for Recovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "journal: {} batches with {} changes read",
            self.records, self.changes
        )?;
        if !self.took.is_zero() {
            write!(out, " in {} ms", self.took.as_millis())?;
        }
        match &self.cut {
            None => Ok(()),
            Some(cut) => write!(
                out,
                "; a torn tail of {} bytes, of which nothing says that it was durable, is cut off at byte {} of {}",
                cut.bytes, cut.position, cut.file
            ),
        }
    }
}

/// A segment with the changes that its records make.
pub(super) struct Filled {
    pub(super) segment: Segment,
    pub(super) overlay: Overlay,
    /// Where its records end.
    pub(super) end: usize,
    /// Its last record.
    pub(super) last: u64,
}

/// The journal as it was found; nothing is changed yet.
#[derive(Default)]
pub(super) struct Examined {
    /// Segments with records, oldest first.
    pub(super) filled: VecDeque<Filled>,
    /// Segments for records to come.
    pub(super) spares: VecDeque<Segment>,
    /// The last record.
    pub(super) last: u64,
    /// The last record that changes anything.
    pub(super) last_change: u64,
    /// The number that the next new segment gets.
    pub(super) next_number: u64,
    pub(super) recovery: Recovery,
    /// The last record that is known to have been durable before.
    pub(super) durable: u64,
    /// Segments without a record that were not finished, or not used when their turn came.
    useless: Vec<u64>,
    /// The segment that ends in a torn tail, if it has no right record, and all behind it.
    torn: Vec<Segment>,
}

/// Where the right records end before the journal does.
struct Tear {
    number: u64,
    position: usize,
    /// The record that should stand here.
    sequence: u64,
    /// What is not zero from here on, in bytes.
    bytes: u64,
}

/// Reads the whole journal, which goes on where the base ends.
pub(super) fn examine(disk: &dyn Disk, reached: Reached) -> Result<Examined, StoreError> {
    let through = reached.record;
    let mut numbers: Vec<_> = disk
        .list()
        .map_err(|error| unreadable("its directory", &error))?
        .iter()
        .filter_map(|name| number_of(name))
        .collect();
    numbers.sort_unstable();
    let next_segment = reached.next_segment.unwrap_or(0);
    if next_segment > 0 && !numbers.contains(&next_segment) {
        return Err(StoreError(format!(
            "journal file {} is missing, with what was written last; bring it back, or restore the data directory from a backup",
            name_of(next_segment)
        )));
    }
    let mut found = Examined {
        last: through,
        last_change: through,
        durable: through,
        next_number: numbers.last().map_or(1, |last| last + 1),
        ..Examined::default()
    };
    let mut tear: Option<Tear> = None;
    for number in numbers {
        let name = name_of(number);
        let opened = disk.open(&name);
        let (file, bytes) = opened
            .and_then(|file| file.read().map(|bytes| (file, bytes)))
            .map_err(|error| unreadable(&name, &error))?;
        let behind_header = &bytes[HEADER_BYTES.min(bytes.len())..];
        let segment = match Segment::from_header(number, file, &bytes) {
            Some(segment) => segment,
            None if not_zero(behind_header) == 0 => {
                found.useless.push(number);
                continue;
            }
            None => return Err(damaged(&name, 0, "its header is not what was written")),
        };
        let mark = segment.mark;
        let mut from = HEADER_BYTES;
        if let Some(tear) = &mut tear {
            tear.bytes += not_zero(behind_header);
            found.torn.push(segment);
        } else {
            tear = found.read(segment, &bytes)?;
            from = tear.as_ref().map_or(from, |tear| tear.position);
        }
        let Some(tear) = &tear else {
            continue;
        };
        let known = search(mark, &bytes, from).map(|record| record.durable);
        if known.max().unwrap_or(0).max(found.durable) >= tear.sequence {
            return Err(damaged(
                &name_of(tear.number),
                tear.position,
                &format!(
                    "batch {} should stand there and was durable, as what was written later says",
                    tear.sequence
                ),
            ));
        }
    }
    if found.last < through {
        return Err(damaged(
            found
                .filled
                .back()
                .map_or(String::new(), |last| name_of(last.segment.number))
                .as_str(),
            found.filled.back().map_or(0, |last| last.end),
            &format!(
                "batch {} should stand there and is in the store already",
                found.last + 1
            ),
        ));
    }
    found.recovery.cut = tear.map(|tear| Cut {
        file: name_of(tear.number),
        position: tear.position as u64,
        bytes: tear.bytes,
    });
    Ok(found)
}

impl Examined {
    /// Reads the records of a segment, up to a tear if there is one.
    fn read(&mut self, segment: Segment, bytes: &[u8]) -> Result<Option<Tear>, StoreError> {
        let mut overlay = Overlay::default();
        let mut position = HEADER_BYTES;
        let first = self.recovery.records;
        let whole = loop {
            let record = match find(&segment, bytes, position) {
                Found::Record(record) => record,
                Found::End => break true,
                Found::Bad => break false,
            };
            // The first one of all may be older: a crash between a checkpoint and the removal of its segment.
            let follows = record.sequence == self.last + 1
                || (self.recovery.records == 0 && record.sequence <= self.last);
            if !follows {
                break false;
            }
            let ops = decode(record.operations).ok_or_else(|| {
                let what = "its record is of a form that this dunlin does not know";
                damaged(&name_of(segment.number), position, what)
            })?;
            self.recovery.records += 1;
            self.recovery.changes += ops.len() as u64;
            self.last = record.sequence;
            if !ops.is_empty() {
                self.last_change = record.sequence;
            }
            ops.into_iter().for_each(|op| overlay.apply(op));
            self.durable = self.durable.max(record.durable);
            position = record.end;
        };
        let tear = (!whole).then(|| Tear {
            number: segment.number,
            position,
            sequence: self.last + 1,
            bytes: not_zero(&bytes[position..]),
        });
        if self.recovery.records > first {
            // Their turn is over: what is written now must not stand in front of this.
            let skipped = self.spares.drain(..).map(|spare| spare.number);
            self.useless.extend(skipped);
            self.filled.push_back(Filled {
                segment,
                overlay,
                end: position,
                last: self.last,
            });
        } else if tear.is_some() {
            self.torn.push(segment);
        } else {
            self.spares.push_back(segment);
        }
        Ok(tear)
    }

    /// The segment in which the records begin that the base does not contain; 0 if there are none.
    pub(super) fn first_segment(&self) -> u64 {
        let first = self.filled.front();
        first.map_or(0, |filled| filled.segment.number)
    }

    /// Makes the files what they were found to be, durably: what is cut off is gone for good, and what is there is
    /// there after a loss of power too.
    pub(super) fn settle(&mut self, disk: &dyn Disk) -> io::Result<()> {
        // The last first, so that whatever remains after a crash in the middle is still a journal with a tear.
        for segment in self.torn.drain(..).rev() {
            disk.remove(&name_of(segment.number))?;
            disk.sync_directory()?;
        }
        for number in self.useless.drain(..) {
            disk.remove(&name_of(number))?;
        }
        disk.sync_directory()?;
        if self.recovery.cut.is_some()
            && let Some(last) = self.filled.back()
        {
            let size = usize::try_from(last.segment.size_bytes).map_err(io::Error::other)?;
            let zeros = vec![0; size.saturating_sub(last.end)];
            last.segment.file.write_at(last.end as u64, &zeros)?;
        }
        for filled in self.filled.iter().filter(|one| one.last > self.durable) {
            filled.write_again(self.durable)?;
        }
        let filled = self.filled.iter().map(|filled| &filled.segment);
        filled
            .chain(&self.spares)
            .try_for_each(|segment| segment.file.sync())
    }
}

impl Filled {
    /// Writes what nobody knows to be durable once more. After a sync that failed the system may show bytes that
    /// are not on the disk, and have forgotten that it has to write them.
    fn write_again(&self, durable: u64) -> io::Result<()> {
        let bytes = self.segment.file.read()?;
        let mut position = HEADER_BYTES;
        let mut from = None;
        while position < self.end {
            let Found::Record(record) = find(&self.segment, &bytes, position) else {
                return Err(io::Error::other(
                    "the disk does not read the same bytes twice",
                ));
            };
            if record.sequence > durable {
                from.get_or_insert(position);
            }
            position = record.end;
        }
        match from {
            Some(from) => self
                .segment
                .file
                .write_at(from as u64, &bytes[from..self.end]),
            None => Ok(()),
        }
    }
}

fn not_zero(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte != 0).count() as u64
}

fn damaged(file: &str, position: usize, what: &str) -> StoreError {
    StoreError(format!(
        "journal file {file} is damaged at byte {position}: {what}; restore the data directory from a backup"
    ))
}

pub(super) fn unreadable(what: &str, error: &io::Error) -> StoreError {
    StoreError(format!(
        "the journal cannot be read: {what}: {error}; mend the disk or its permissions, or restore the data directory from a backup"
    ))
}
