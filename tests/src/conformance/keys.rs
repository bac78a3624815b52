//! Keys of stored rows as text, from what `dunlin_core::rows` says about their shape.

use dunlin_core::rows::{Scope, scope_of};

/// The tables by their number; integers follow, of as many bytes as the digits say.
const TABLES: [(u8, &str, &[usize]); 21] = [
    (0x01, "namespace", &[]),
    (0x02, "topic", &[4]),
    (0x03, "partition", &[4, 4]),
    (0x04, "segment", &[4, 4, 8]),
    (0x05, "connection", &[8]),
    (0x06, "import", &[]),
    (0x07, "group", &[4]),
    (0x08, "member", &[4, 8]),
    (0x09, "group_offset", &[4, 4, 4]),
    (0x0a, "group_window", &[4, 4, 4, 8]),
    (0x0b, "schedule", &[8, 8]),
    (0x0c, "dedup", &[4, 8]),
    (0x0d, "producer", &[4, 8, 8]),
    (0x0e, "limit", &[1]),
    (0x0f, "limiter", &[1]),
    (0x11, "rule", &[]),
    (0x12, "device", &[4]),
    (0x13, "quota", &[]),
    (0x14, "usage", &[4]),
    (MESSAGES, "messages", &[4, 4, 8]),
    (0x81, "scheduled", &[8, 8]),
];

/// The table of packed messages.
pub(crate) const MESSAGES: u8 = 0x80;

/// `NAMESPACE:TABLE N/N/N`, or hex where it is no such key. Ends of ranges may have fewer numbers.
pub(crate) fn key_text(key: &[u8]) -> String {
    let namespace = match scope_of(key) {
        Some(Scope::Store) => return format!("store:{}", String::from_utf8_lossy(&key[1..])),
        Some(Scope::State(namespace) | Scope::Messages(namespace)) => namespace,
        None => return hex(key),
    };
    let mut rest = &key[1 + namespace.len()..];
    let Some((_, name, sizes)) = TABLES.iter().find(|(table, ..)| *table == rest[0]) else {
        return format!("{namespace}:{}", hex(rest));
    };
    rest = &rest[1..];
    let mut text = format!("{namespace}:{name}");
    for (index, size) in sizes.iter().enumerate() {
        let Some((bytes, after)) = rest.split_at_checked(*size) else {
            break;
        };
        let number = bytes
            .iter()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        text.push(if index == 0 { ' ' } else { '/' });
        text.push_str(&number.to_string());
        rest = after;
    }
    if !rest.is_empty() {
        text.push('+');
        text.push_str(&hex(rest));
    }
    text
}

/// Whether a key is that of packed messages.
pub(crate) fn is_messages(key: &[u8]) -> bool {
    matches!(scope_of(key), Some(Scope::Messages(namespace)) if key[1 + namespace.len()] == MESSAGES)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
