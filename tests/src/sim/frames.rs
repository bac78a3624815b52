//! Frames as they come from the broker, and what is common to all of them.

use dunlin_core::frame::{Receipts, Reply, Transacted};
use dunlin_core::{Durability, Reader};

use super::archive::Check;

/// The frames in one message, in binary, without their lengths.
pub(super) fn frames_in(json: bool, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if json {
        return super::json::frames_of(bytes);
    }
    let mut reader = Reader::new(bytes);
    let mut frames = Vec::new();
    while !reader.is_empty() {
        frames.push(
            reader
                .bytes()
                .map_err(|_| "a message that is not frames".to_owned())?
                .to_vec(),
        );
    }
    Ok(frames)
}

pub(super) fn decode(frame: &[u8]) -> Result<Reply<'_>, String> {
    Reply::decode(frame).map_err(|error| format!("a frame that is none ({error:?}): {frame:02x?}"))
}

/// The command that a reply answers; 0 for `hello`, which has no number.
pub(super) const fn request_of(reply: &Reply<'_>) -> Option<u64> {
    Some(match reply {
        Reply::Welcome(_) => 0,
        Reply::Receipt(reply) => reply.request,
        Reply::Receipts(reply) => reply.request,
        Reply::Subscribed(reply) => reply.request,
        Reply::Done(reply) => reply.request,
        Reply::Failed(reply) => reply.request,
        Reply::Page(reply) => reply.request,
        Reply::TopicDescription(reply) => reply.request,
        Reply::Topics(reply) => reply.request,
        Reply::Pong(reply) => reply.request,
        Reply::GroupDescription(reply) => reply.request,
        Reply::Joined(reply) => reply.request,
        Reply::Settled(reply) => reply.request,
        Reply::Groups(reply) => reply.request,
        Reply::DeadLetters(reply) => reply.request,
        Reply::Affected(reply) => reply.request,
        Reply::Limits(reply) => reply.request,
        Reply::SessionDescription(reply) => reply.request,
        Reply::Mailbox(reply) => reply.request,
        Reply::Devices(reply) => reply.request,
        Reply::UserDescription(reply) => reply.request,
        Reply::Users(reply) => reply.request,
        Reply::Rules(reply) => reply.request,
        Reply::Explanation(reply) => reply.request,
        Reply::Transacted(reply) => reply.request,
        Reply::PresencePage(reply) => reply.request,
        Reply::NamespaceDescription(reply) => reply.request,
        Reply::Namespaces(reply) => reply.request,
        Reply::Scheduled(reply) => reply.request,
        Reply::Response(reply) => reply.request,
        Reply::Delivery(_)
        | Reply::Gap(_)
        | Reply::Ended(_)
        | Reply::Resync(_)
        | Reply::GoingAway(_)
        | Reply::ArchivePart(_)
        | Reply::Imported(_)
        | Reply::Assignment(_)
        | Reply::PresenceEvents(_) => return None,
    })
}

pub(super) fn last_sequence(reply: &Reply<'_>) -> Option<u64> {
    match reply {
        Reply::Receipt(receipt) if !receipt.duplicate => Some(receipt.sequence),
        Reply::Receipts(Receipts { receipts, .. })
        | Reply::Transacted(Transacted { receipts, .. }) => receipts
            .iter()
            .flatten()
            .filter(|place| !place.duplicate)
            .map(|place| place.sequence)
            .max(),
        _ => None,
    }
}

pub(super) fn level(word: &str) -> Result<Durability, String> {
    match word {
        "none" => Ok(Durability::None),
        "async" => Ok(Durability::Async),
        "sync" => Ok(Durability::Sync),
        _ => Err(format!("a level \"{word}\"")),
    }
}

pub(super) fn check_code(code: &str, allowed: &[&str]) -> Check {
    if allowed.contains(&code) {
        Ok(())
    } else {
        Err(format!("refused with \"{code}\""))
    }
}
