//! Effects as short lines, for the events that a failure shows.

use dunlin_core::Effect;
use dunlin_core::frame::Reply;

use super::frames::{decode, frames_in};
use super::model::Model;

pub(super) fn effect(effect: &Effect, model: &Model) -> String {
    match effect {
        Effect::Write {
            sequence,
            durability,
            ops,
        } => format!("write {} {durability:?}, {} ops", sequence.0, ops.len()),
        Effect::Load {
            ticket,
            reverse,
            rows_max,
            bytes_max,
            ..
        } => {
            format!(
                "load {} reverse {reverse}, {rows_max} rows, {bytes_max} bytes",
                ticket.0
            )
        }
        Effect::Send {
            after,
            to,
            prefixes,
            body,
        } => {
            let mut start = 0;
            let mut lines = Vec::new();
            for recipient in to {
                let end = recipient.prefix_end as usize;
                let bytes = [&prefixes[start..end], body].concat();
                start = end;
                let id = recipient.connection.0;
                let frames = frames_in(model.is_json(id), &bytes).unwrap_or_default();
                let shown = frames
                    .iter()
                    .map(|frame| decode(frame).map_or_else(|error| error, |reply| short(&reply)));
                lines.push(format!("{id}: {}", shown.collect::<Vec<_>>().join(", ")));
            }
            format!(
                "send after {}/{} to {}",
                after.applied.0,
                after.synced.0,
                lines.join(" and ")
            )
        }
        Effect::Close {
            connection,
            code,
            reason,
        } => format!("close {} {code:?} {reason}", connection.0),
        Effect::Notify(event) => format!("notify {event:?}"),
    }
}

/// Messages by the number in their payload; everything else as it is.
fn short(reply: &Reply<'_>) -> String {
    let number = |payload: &[u8]| {
        let end = payload.iter().position(|byte| *byte == b':').unwrap_or(0);
        format!("message {}", String::from_utf8_lossy(&payload[..end]))
    };
    match reply {
        Reply::Delivery(one) => format!(
            "delivery to {} of {}, \"{}\" {} {} at {}",
            one.subscription,
            number(one.payload),
            one.topic,
            one.partition,
            one.offset,
            one.sequence
        ),
        Reply::Page(page) => {
            let records: Vec<String> = page
                .records
                .iter()
                .flatten()
                .map(|record| {
                    format!(
                        "{} {} at {}",
                        number(record.payload),
                        record.offset,
                        record.sequence
                    )
                })
                .collect();
            format!(
                "page {} of {}..{}, next {}: {}",
                page.request,
                page.log_start_offset,
                page.log_end_offset,
                page.next_offset,
                records.join(", ")
            )
        }
        Reply::GroupDescription(told) => {
            let members = told.members.iter().flatten();
            let members = members.map(|one| {
                format!(
                    "{} on {} with {}",
                    one.member, one.connection, one.in_flight
                )
            });
            let partitions = told.partitions.iter().flatten().map(|one| {
                format!(
                    "\"{}\" {} at {} of {}, {} left, of {}",
                    one.topic,
                    one.partition,
                    one.committed_offset,
                    one.log_end_offset,
                    one.lag,
                    one.member.unwrap_or("nobody")
                )
            });
            format!(
                "group {} \"{}\" {} generation {}: {}; {}",
                told.request,
                told.group,
                told.kind,
                told.generation,
                members.collect::<Vec<_>>().join(", "),
                partitions.collect::<Vec<_>>().join(", ")
            )
        }
        Reply::Assignment(told) => {
            let positions = |list: dunlin_core::frame::List<'_, _>| {
                let list = list.iter().flatten();
                let list = list.map(|one: dunlin_core::frame::Position<'_>| {
                    format!("\"{}\" {} at {}", one.topic, one.partition, one.offset)
                });
                list.collect::<Vec<_>>().join(", ")
            };
            format!(
                "assignment to {} generation {}: {}; to let go: {}",
                told.subscription,
                told.generation,
                positions(told.assigned),
                positions(told.revoked)
            )
        }
        Reply::TopicDescription(told) => {
            format!("topic {} \"{}\" {}", told.request, told.topic, told.kind)
        }
        _ => format!("{reply:?}"),
    }
}
