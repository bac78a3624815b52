//! The bytes in which inputs and effects cross the boundary of a WebAssembly instance, and in which the
//! conformance tests compare runtimes. Not a client protocol: both sides are always built from one source.
//!
//! Integers are varints, byte strings are length-prefixed (see `wire`), an enum is one byte.
//!
//! ```text
//! step input   = (length input)*
//! step output  = next_timeout (0: none) can_sleep (length effect)*
//! rows         = (key value)*
//!
//! input  = 1 connection encoding namespace user device rights ip    connect
//!        | 2 connection bytes-to-the-end                            frame
//!        | 3 connection                                             disconnect
//!        | 4 connection clean                                       restored
//!        | 5 connection at                                          seen
//!        | 6 ticket ok rows                                         loaded
//!        | 7 available commit_latency_ms                            storage
//!        | 8                                                        drain
//!        | 9                                                        timeout
//! effect = 1 sequence durability (op)*                              write
//!            op = 1 key value | 2 key | 3 from to                   put, delete, delete range
//!        | 2 ticket from to reverse rows_max bytes_max              load
//!        | 3 applied synced count (connection prefix)* body         send; body runs to the end
//!        | 4 connection code reason                                 close
//!        | 5 kind namespace topic                                   notify
//! ```

use alloc::string::String;
use alloc::vec::Vec;

use crate::broker::Broker;
use crate::effect::{After, CloseCode, Durability, Effect, Event, Op, Recipient};
use crate::ids::{ConnectionId, Ticket, Timestamp, WriteSequence};
use crate::input::{Claims, Encoding, Input, LoadFailed, Rights, Row};
use crate::wire::{Malformed, Put, Reader, put_framed};

/// Appends one length-prefixed input.
pub fn encode_input(input: &Input<'_>, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    match input {
        Input::Connect {
            connection,
            encoding,
            claims,
            ip,
        } => {
            body.push(1);
            body.put_u64(connection.0);
            body.push(matches!(encoding, Encoding::Json).into());
            body.put_bytes(claims.namespace.as_bytes());
            body.put_bytes(claims.user.as_bytes());
            body.put_bytes(claims.device.as_bytes());
            body.push(claims.rights.0);
            body.put_bytes(ip);
        }
        Input::Frame { connection, bytes } => {
            body.push(2);
            body.put_u64(connection.0);
            body.extend_from_slice(bytes);
        }
        Input::Disconnect { connection } => {
            body.push(3);
            body.put_u64(connection.0);
        }
        Input::Restored { connection, clean } => {
            body.push(4);
            body.put_u64(connection.0);
            body.push((*clean).into());
        }
        Input::Seen { connection, at } => {
            body.push(5);
            body.put_u64(connection.0);
            body.put_u64(at.0);
        }
        Input::Loaded { ticket, result } => {
            body.push(6);
            body.put_u64(ticket.0);
            body.push(result.is_ok().into());
            for row in result.iter().flatten() {
                body.put_bytes(&row.key);
                body.put_bytes(&row.value);
            }
        }
        Input::Storage {
            available,
            commit_latency_ms,
        } => {
            body.push(7);
            body.push((*available).into());
            body.put_u64((*commit_latency_ms).into());
        }
        Input::Drain => body.push(8),
        Input::Timeout => body.push(9),
    }
    out.put_bytes(&body);
}

/// Reads the next length-prefixed input.
pub fn decode_input<'a>(batch: &mut Reader<'a>) -> Result<Input<'a>, Malformed> {
    let mut body = Reader::new(batch.bytes()?);
    let input = match body.u8()? {
        1 => Input::Connect {
            connection: ConnectionId(body.u64()?),
            encoding: if flag(&mut body)? {
                Encoding::Json
            } else {
                Encoding::Binary
            },
            claims: Claims {
                namespace: String::from(body.str()?),
                user: String::from(body.str()?),
                device: String::from(body.str()?),
                rights: Rights(body.u8()?),
            },
            ip: body.bytes()?.to_vec(),
        },
        2 => {
            let connection = ConnectionId(body.u64()?);
            let bytes = body.rest();
            return Ok(Input::Frame { connection, bytes });
        }
        3 => Input::Disconnect {
            connection: ConnectionId(body.u64()?),
        },
        4 => Input::Restored {
            connection: ConnectionId(body.u64()?),
            clean: flag(&mut body)?,
        },
        5 => Input::Seen {
            connection: ConnectionId(body.u64()?),
            at: Timestamp(body.u64()?),
        },
        6 => {
            let ticket = Ticket(body.u64()?);
            let ok = flag(&mut body)?;
            let rows = decode_rows(&mut body)?;
            Input::Loaded {
                ticket,
                result: if ok { Ok(rows) } else { Err(LoadFailed) },
            }
        }
        7 => Input::Storage {
            available: flag(&mut body)?,
            commit_latency_ms: body.u32()?,
        },
        8 => Input::Drain,
        9 => Input::Timeout,
        _ => return Err(Malformed),
    };
    body.end()?;
    Ok(input)
}

/// Reads pairs to the end of `bytes`.
pub fn decode_rows(bytes: &mut Reader<'_>) -> Result<Vec<Row>, Malformed> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        rows.push(Row {
            key: bytes.bytes()?.to_vec(),
            value: bytes.bytes()?.to_vec(),
        });
    }
    Ok(rows)
}

/// Appends one length-prefixed effect.
pub fn encode_effect(effect: &Effect, out: &mut Vec<u8>) {
    let size_hint = match effect {
        Effect::Send {
            to, prefixes, body, ..
        } => 8 + 2 * to.len() + prefixes.len() + body.len(),
        Effect::Write { ops, .. } => ops.iter().map(Op::size_bytes).sum(),
        _ => 0,
    };
    out.reserve(size_hint + 16);
    put_framed(out, size_hint, |out| put_effect(effect, out));
}

fn put_effect(effect: &Effect, body: &mut Vec<u8>) {
    match effect {
        Effect::Write {
            sequence,
            durability,
            ops,
        } => {
            body.push(1);
            body.put_u64(sequence.0);
            body.push(*durability as u8);
            for op in ops {
                match op {
                    Op::Put { key, value } => {
                        body.push(1);
                        body.put_bytes(key);
                        body.put_bytes(value);
                    }
                    Op::Delete { key } => {
                        body.push(2);
                        body.put_bytes(key);
                    }
                    Op::DeleteRange { from, to } => {
                        body.push(3);
                        body.put_bytes(from);
                        body.put_bytes(to);
                    }
                }
            }
        }
        Effect::Load {
            ticket,
            from,
            to,
            reverse,
            rows_max,
            bytes_max,
        } => {
            body.push(2);
            body.put_u64(ticket.0);
            body.put_bytes(from);
            body.put_bytes(to);
            body.push((*reverse).into());
            body.put_u64((*rows_max).into());
            body.put_u64((*bytes_max).into());
        }
        Effect::Send {
            after,
            to,
            prefixes,
            body: tail,
        } => {
            body.push(3);
            body.put_u64(after.applied.0);
            body.put_u64(after.synced.0);
            body.put_u64(to.len() as u64);
            let mut start = 0;
            for recipient in to {
                let end = recipient.prefix_end as usize;
                body.put_u64(recipient.connection.0);
                body.put_bytes(&prefixes[start..end]);
                start = end;
            }
            body.extend_from_slice(tail);
        }
        Effect::Close {
            connection,
            code,
            reason,
        } => {
            body.push(4);
            body.put_u64(connection.0);
            body.put_u64(code.number().into());
            body.put_bytes(reason.as_bytes());
        }
        Effect::Notify(event) => {
            body.push(5);
            let (kind, namespace, topic) = match event {
                Event::TopicCreated { namespace, topic } => (1, namespace, topic),
                Event::TopicDeleted { namespace, topic } => (2, namespace, topic),
                Event::RowUnreadable { namespace, topic } => (3, namespace, topic),
                Event::DeadLettersAlert { namespace, group } => (4, namespace, group),
            };
            body.push(kind);
            body.put_bytes(namespace.as_bytes());
            body.put_bytes(topic.as_bytes());
        }
    }
}

/// Reads the next length-prefixed effect.
pub fn decode_effect(batch: &mut Reader<'_>) -> Result<Effect, Malformed> {
    let mut body = Reader::new(batch.bytes()?);
    let effect = match body.u8()? {
        1 => {
            let sequence = WriteSequence(body.u64()?);
            let durability = match body.u8()? {
                0 => Durability::None,
                1 => Durability::Async,
                2 => Durability::Sync,
                _ => return Err(Malformed),
            };
            let mut ops = Vec::new();
            while !body.is_empty() {
                ops.push(match body.u8()? {
                    1 => Op::Put {
                        key: body.bytes()?.to_vec(),
                        value: body.bytes()?.to_vec(),
                    },
                    2 => Op::Delete {
                        key: body.bytes()?.to_vec(),
                    },
                    3 => Op::DeleteRange {
                        from: body.bytes()?.to_vec(),
                        to: body.bytes()?.to_vec(),
                    },
                    _ => return Err(Malformed),
                });
            }
            Effect::Write {
                sequence,
                durability,
                ops,
            }
        }
        2 => Effect::Load {
            ticket: Ticket(body.u64()?),
            from: body.bytes()?.to_vec(),
            to: body.bytes()?.to_vec(),
            reverse: flag(&mut body)?,
            rows_max: body.u32()?,
            bytes_max: body.u32()?,
        },
        3 => {
            let after = After {
                applied: WriteSequence(body.u64()?),
                synced: WriteSequence(body.u64()?),
            };
            let mut to = Vec::new();
            let mut prefixes = Vec::new();
            for _ in 0..body.u64()? {
                let connection = ConnectionId(body.u64()?);
                prefixes.extend_from_slice(body.bytes()?);
                let prefix_end = u32::try_from(prefixes.len()).map_err(|_| Malformed)?;
                to.push(Recipient {
                    connection,
                    prefix_end,
                });
            }
            let tail = body.rest().to_vec();
            return Ok(Effect::Send {
                after,
                to,
                prefixes,
                body: tail,
            });
        }
        4 => Effect::Close {
            connection: ConnectionId(body.u64()?),
            code: match body.u32()? {
                1002 => CloseCode::Protocol,
                1009 => CloseCode::TooLarge,
                4001 => CloseCode::Unauthorised,
                4002 => CloseCode::GoingAway,
                4003 => CloseCode::Kicked,
                4008 => CloseCode::Policy,
                _ => return Err(Malformed),
            },
            reason: String::from(body.str()?),
        },
        5 => {
            let kind = body.u8()?;
            let namespace = String::from(body.str()?);
            let topic = String::from(body.str()?);
            Effect::Notify(match kind {
                1 => Event::TopicCreated { namespace, topic },
                2 => Event::TopicDeleted { namespace, topic },
                3 => Event::RowUnreadable { namespace, topic },
                4 => Event::DeadLettersAlert {
                    namespace,
                    group: topic,
                },
                _ => return Err(Malformed),
            })
        }
        _ => return Err(Malformed),
    };
    body.end()?;
    Ok(effect)
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

/// One whole step as an instance does it: every input of the batch, a flush, then the next timeout, whether the broker
/// can sleep until then, and all effects.
pub fn step(
    broker: &mut Broker,
    now: Timestamp,
    batch: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut batch = Reader::new(batch);
    while !batch.is_empty() {
        broker.handle(now, decode_input(&mut batch)?);
    }
    broker.flush();
    out.put_u64(broker.poll_timeout().map_or(0, |at| at.0));
    out.push(broker.can_sleep().into());
    while let Some(effect) = broker.poll_effect() {
        encode_effect(&effect, out);
    }
    Ok(())
}
