//! Effects as text that people review: canonical, and complete where it matters.
//!
//! ```text
//! write 3 async                                        sequence and durability
//!   put chat:messages 1/0/0 span 2: 0 #1 "a", 1 #2 "b" offset, sequence and payload of each message
//!   put chat:partition 1/0 (21 bytes, 5f2c11d0)        length and FNV-1a hash of anything else
//!   delete chat:connection 7
//!   delete chat:messages 1/0/0 .. chat:messages 1/0/8  a range without its end
//! load 1 chat:messages 1/0/0 .. chat:messages 1/0/9, 64 rows, 262144 bytes, reverse
//! send 7 after applied 3 synced 3 {frame}
//!   and {frame}                                        in the same message
//!   also 8 {frame}                                     another recipient of the same effect
//! close 7 4008 reason
//! notify topic_created chat a/b
//! timeout at 5000, awake                             what only memory knows of is due then, or later
//! ```
//!
//! Forty and more equal characters in a row are written as in scenarios, `{{a 40}}`.

use std::collections::BTreeMap;

use dunlin_core::frame::{Item, Record};
use dunlin_core::{
    After, ConnectionId, Durability, Effect, Encoding, Event, Op, Reader, WriteSequence, abi,
};

use super::keys::{is_messages, key_text};
use crate::codec::reply_lines;

/// From how many on equal characters are counted instead of written.
const RUN_MIN: usize = 40;

/// Which encoding every connection speaks.
pub(crate) type Encodings = BTreeMap<ConnectionId, Encoding>;

/// What one step put out, decoded.
pub(crate) struct Output {
    pub(crate) timeout: u64,
    pub(crate) can_sleep: bool,
    pub(crate) effects: Vec<Effect>,
}

impl Output {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader::new(bytes);
        let wrong = |_| "the output does not spell effects".to_owned();
        let timeout = reader.u64().map_err(wrong)?;
        let can_sleep = reader.u8().map_err(wrong)? != 0;
        let mut effects = Vec::new();
        while !reader.is_empty() {
            effects.push(abi::decode_effect(&mut reader).map_err(wrong)?);
        }
        Ok(Self {
            timeout,
            can_sleep,
            effects,
        })
    }

    /// Its lines, as they stand behind `> `.
    pub(crate) fn lines(&self, encodings: &Encodings) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        for effect in &self.effects {
            render(effect, encodings, &mut lines)?;
        }
        if self.timeout != 0 {
            let awake = if self.can_sleep { "" } else { ", awake" };
            lines.push(format!("timeout at {}{awake}", self.timeout));
        }
        Ok(lines.iter().map(|line| without_runs(line)).collect())
    }
}

fn render(effect: &Effect, encodings: &Encodings, lines: &mut Vec<String>) -> Result<(), String> {
    match effect {
        Effect::Write {
            sequence,
            durability,
            ops,
        } => {
            let durability = match durability {
                Durability::None => "none",
                Durability::Async => "async",
                Durability::Sync => "sync",
            };
            lines.push(format!("write {} {durability}", sequence.0));
            lines.extend(ops.iter().map(|op| format!("  {}", op_text(op))));
        }
        Effect::Load {
            ticket,
            from,
            to,
            reverse,
            rows_max,
            bytes_max,
        } => lines.push(format!(
            "load {} {} .. {}, {rows_max} rows, {bytes_max} bytes{}",
            ticket.0,
            key_text(from),
            key_text(to),
            if *reverse { ", reverse" } else { "" }
        )),
        Effect::Send {
            after,
            to,
            prefixes,
            body,
        } => {
            let mut start = 0;
            for (index, recipient) in to.iter().enumerate() {
                let end = recipient.prefix_end as usize;
                let message = [&prefixes[start..end], body].concat();
                start = end;
                let connection = recipient.connection;
                let encoding = encodings
                    .get(&connection)
                    .ok_or_else(|| format!("a send to the unknown connection {}", connection.0))?;
                for (part, frame) in reply_lines(*encoding, &message)?.into_iter().enumerate() {
                    lines.push(match (index, part) {
                        (0, 0) => format!("send {}{} {frame}", connection.0, after_text(*after)),
                        (_, 0) => format!("  also {} {frame}", connection.0),
                        _ => format!("  and {frame}"),
                    });
                }
            }
        }
        Effect::Close {
            connection,
            code,
            reason,
        } => lines.push(format!("close {} {} {reason}", connection.0, code.number())),
        Effect::Notify(event) => {
            let (kind, namespace, topic) = match event {
                Event::TopicCreated { namespace, topic } => ("topic_created", namespace, topic),
                Event::TopicDeleted { namespace, topic } => ("topic_deleted", namespace, topic),
                Event::RowUnreadable { namespace, topic } => ("row_unreadable", namespace, topic),
                Event::DeadLettersAlert { namespace, group } => {
                    ("dead_letters_alert", namespace, group)
                }
            };
            lines.push(format!("notify {kind} {namespace} {topic}"));
        }
    }
    Ok(())
}

fn after_text(after: After) -> String {
    let part = |name: &str, sequence: WriteSequence| match sequence.0 {
        0 => String::new(),
        sequence => format!(" {name} {sequence}"),
    };
    let parts = part("applied", after.applied) + &part("synced", after.synced);
    if parts.is_empty() {
        return parts;
    }
    format!(" after{parts}")
}

fn op_text(op: &Op) -> String {
    match op {
        Op::Put { key, value } => {
            let messages = is_messages(key).then(|| messages_text(value)).flatten();
            let value =
                messages.unwrap_or_else(|| format!("({} bytes, {:08x})", value.len(), hash(value)));
            format!("put {} {value}", key_text(key))
        }
        Op::Delete { key } => format!("delete {}", key_text(key)),
        Op::DeleteRange { from, to } => format!("delete {} .. {}", key_text(from), key_text(to)),
    }
}

/// A row of packed messages: version, span, first sequence and its distance to the last, the same for the times, and
/// the records.
fn messages_text(value: &[u8]) -> Option<String> {
    let mut reader = Reader::new(value);
    let mut head = [0; 6];
    for number in &mut head {
        *number = reader.u64().ok()?;
    }
    let mut records = Vec::new();
    while !reader.is_empty() {
        let record = Record::take_fields(&mut Reader::new(reader.bytes().ok()?)).ok()?;
        let payload = String::from_utf8_lossy(record.payload);
        let key = record.key.map_or(String::new(), |key| format!(" {key}:"));
        records.push(format!(
            "{} #{}{key} {payload:?}",
            record.offset, record.sequence
        ));
    }
    Some(format!("span {}: {}", head[1], records.join(", ")))
}

/// FNV-1a, 32 bits.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

fn without_runs(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let run = rest.chars().take_while(|one| *one == first).count();
        let (run_text, after) = rest.split_at(run * first.len_utf8());
        if run >= RUN_MIN {
            out.push_str(&format!("{{{{{first} {run}}}}}"));
        } else {
            out.push_str(run_text);
        }
        rest = after;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_counted() {
        let run = "ä".repeat(40);
        assert_eq!(without_runs(&format!("x{run}y")), "x{{ä 40}}y");
        let short = "a".repeat(39);
        assert_eq!(without_runs(&short), short);
    }

    #[test]
    fn what_is_waited_for_is_told() {
        let after = |applied, synced| {
            after_text(After {
                applied: WriteSequence(applied),
                synced: WriteSequence(synced),
            })
        };
        assert_eq!(after(0, 0), "");
        assert_eq!(after(3, 0), " after applied 3");
        assert_eq!(after(3, 2), " after applied 3 synced 2");
    }
}
