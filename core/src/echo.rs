//! Echoes: who does not want to hear its own messages, and how a stored message tells whose it is.
//!
//! A connection that says so in its `hello` marks what it publishes with its source, and its own subscriptions pass
//! over what has that mark, live and from history. The mark stands behind the fields of a record, under a tag that
//! readers of records pass over; no client is shown it.

use alloc::vec::Vec;

use crate::connection::Connection;
use crate::error::{ErrorCode, Refusal};
use crate::hash::digest;
use crate::ids::Incarnation;
use crate::wire::{Malformed, Put as _, Reader};

/// Who published a message, as far as echoes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source(u64);

/// What a mark begins with: its tag, and the length of what follows.
const MARK: [u8; 2] = [0x40, 8];
const MARK_BYTES: usize = MARK.len() + 8;

/// What sources are digests of, beside other digests that are stored.
const KIND_CONNECTION: u64 = 5;
const KIND_DEVICE: u64 = 6;

impl Source {
    /// The source of what a connection publishes that said this of echoes in its `hello`, if it minds them.
    pub(crate) fn of(
        connection: &Connection,
        life: Incarnation,
        echo: Option<&str>,
    ) -> Result<Option<Self>, Refusal> {
        let claims = &connection.claims;
        let mut bytes = Vec::new();
        let kind = match echo.unwrap_or("all") {
            "all" => return Ok(None),
            "connection" => {
                bytes.put_u64(life.0);
                bytes.put_u64(connection.id.0);
                KIND_CONNECTION
            }
            "device" if claims.device.is_empty() => {
                let message = "\"echo\" device needs a connection with a user and a device";
                return Err(Refusal::new(ErrorCode::InvalidArgument, message));
            }
            "device" => {
                bytes.put_bytes(claims.user.as_bytes());
                bytes.put_bytes(claims.device.as_bytes());
                KIND_DEVICE
            }
            word => {
                return Err(Refusal::wrong_word(
                    "echo",
                    word,
                    "all, connection or device",
                ));
            }
        };
        Ok(Some(Self(digest(kind, &bytes).0)))
    }

    /// Marks a record.
    pub(crate) fn mark(self, record: &mut Vec<u8>) {
        record.extend_from_slice(&MARK);
        record.extend_from_slice(&self.0.to_be_bytes());
    }

    /// A record without its mark, and whose it is if it has one.
    pub(crate) fn split(record: &[u8]) -> (&[u8], Option<Self>) {
        let parted = record.split_last_chunk::<MARK_BYTES>();
        match parted.filter(|(fields, mark)| mark.starts_with(&MARK) && is_whole(fields)) {
            Some((fields, mark)) => {
                let digest = mark
                    .last_chunk()
                    .map_or(0, |bytes| u64::from_be_bytes(*bytes));
                (fields, Some(Self(digest)))
            }
            None => (record, None),
        }
    }

    /// As it is stored with a connection.
    pub(crate) fn put(self, row: &mut Vec<u8>) {
        row.put_u64(self.0);
    }

    /// Reads the same.
    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let source = Self(reader.u64()?);
        reader.end()?;
        Ok(source)
    }
}

/// Whether a record ends where these bytes do: what looks like a mark may be the end of a payload.
fn is_whole(fields: &[u8]) -> bool {
    let mut reader = Reader::new(fields);
    let walk = |reader: &mut Reader<'_>| {
        for _ in 0..3 {
            reader.u64()?;
        }
        reader.bytes()?;
        while !reader.is_empty() {
            reader.u8()?;
            reader.bytes()?;
        }
        Ok::<(), Malformed>(())
    };
    walk(&mut reader).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::read_record;
    use crate::protocol::field::Item as _;
    use crate::protocol::frame::Record;

    fn record(payload: &[u8], id: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::new();
        Record {
            offset: 1,
            sequence: 2,
            timestamp: 3,
            payload,
            key: None,
            content_type: None,
            headers: None,
            id,
            expires_at: None,
            reply_to: None,
            priority: None,
        }
        .put_fields(&mut bytes);
        bytes
    }

    #[test]
    fn a_mark_is_found_and_nothing_else_is_taken_for_one() {
        let mut mark = Vec::new();
        Source(7).mark(&mut mark);
        let id = core::str::from_utf8(&mark).unwrap();
        for (payload, id) in [
            (&b""[..], None),
            (&mark[..], None),
            (&mark[..], Some(id)),
            (&b"x"[..], Some(id)),
        ] {
            let plain = record(payload, id);
            assert_eq!(Source::split(&plain), (&plain[..], None));
            let mut marked = plain.clone();
            Source(9).mark(&mut marked);
            assert_eq!(Source::split(&marked), (&plain[..], Some(Source(9))));
            assert_eq!(read_record(&marked).unwrap().payload, payload);
        }
        assert_eq!(Source::split(&mark), (&mark[..], None));
    }
}
