//! Rows as they should be and as they should not: what a broker leaves behind fits together, what lacks a part is
//! noticed, and with what no version writes a broker does not begin, but says which row it is.

use std::sync::Arc;

use dunlin_core::rows::{Scope, scope_of};
use dunlin_core::{NamespaceVerifier, Op, Row};
use dunlin_host::{Drive, DriveError, EngineError, MemoryStore, ShardSpan, Store as _};

use super::archive::Check;
use super::engine::SimEngine;
use super::rng::Rng;

/// What a segment's row is in: see the tables in the core's `rows.rs`.
const TABLE_SEGMENT: u8 = 0x04;

/// Looks at the rows of a namespace as a doctor does, and once more without one of them.
pub(super) fn check_whole(rng: &mut Rng, rows: &[Row], namespace: &str) -> Check {
    let own: Vec<(&[u8], &[u8])> = rows
        .iter()
        .filter(|row| {
            let scope = scope_of(&row.key);
            matches!(scope, Some(Scope::State(name) | Scope::Messages(name)) if name == namespace)
        })
        .map(|row| (&row.key[1 + namespace.len()..], &*row.value))
        .collect();
    verify(namespace, &own)
        .map_err(|told| format!("the rows of \"{namespace}\" do not fit: {told}"))?;
    // A segment that compaction has emptied, of no bytes in a few rows, is missed by nobody.
    let segments: Vec<usize> = (0..own.len())
        .filter(|index| matches!(own[*index], ([TABLE_SEGMENT, ..], [.., bytes, _]) if *bytes != 0))
        .collect();
    if segments.is_empty() {
        return Ok(());
    }
    let mut lacking = own;
    let (key, value) = lacking.remove(*rng.pick(&segments));
    match verify(namespace, &lacking) {
        Err(_) => Ok(()),
        Ok(()) => Err(format!(
            "nobody misses row {key:02x?} of \"{namespace}\", which was {value:02x?}"
        )),
    }
}

fn verify(namespace: &str, rows: &[(&[u8], &[u8])]) -> Check {
    let mut verifier = NamespaceVerifier::new(namespace);
    for (key, value) in rows {
        verifier
            .row(key, value)
            .map_err(|told| format!("row {key:02x?}: {told}"))?;
    }
    verifier.finish().map(drop)
}

/// Restores a broker from a copy of `rows` of which one is not sound; whether it was refused.
pub(super) fn check_refusal(rng: &mut Rng, rows: &[Row], config: &str) -> Result<bool, String> {
    let state: Vec<usize> = (0..rows.len())
        .filter(|index| {
            let scope = scope_of(&rows[*index].key);
            matches!(scope, Some(Scope::Store | Scope::State(_)))
        })
        .collect();
    if state.is_empty() {
        return Ok(false);
    }
    let mut rows = rows.to_vec();
    let row = &mut rows[*rng.pick(&state)];
    let what = rng.below(4);
    match what {
        0 => row.value.clear(),
        // Its version.
        1 => row.value[0] = 0x7f,
        2 => row
            .value
            .truncate(rng.below(row.value.len() as u64) as usize),
        _ => {
            let position = rng.below(row.value.len() as u64) as usize;
            row.value[position] ^= 1 << rng.below(8);
        }
    }
    let row = row.clone();
    let puts = rows
        .into_iter()
        .map(|Row { key, value }| Op::Put { key, value });
    let store = MemoryStore::default();
    store
        .apply(&puts.collect::<Vec<_>>())
        .map_err(|error| error.0)?;
    let (engine, _tap) = SimEngine::new(config, 1)?;
    let key: String = row.key.iter().map(|byte| format!("{byte:02x}")).collect();
    match Drive::restore(Box::new(engine), Arc::new(store), ShardSpan::ALL) {
        Err(DriveError::Engine(EngineError::Restore(told)))
            if told.contains(&key)
                || what > 1
                    && ["stored row ", "namespace "]
                        .iter()
                        .any(|part| told.contains(part)) =>
        {
            // What was a bit of one row may be found when the next one does not fit, or when they make no whole.
            Ok(true)
        }
        Err(error) => Err(format!("row {key} is refused without its name: {error}")),
        // What has lost only a part, or a bit, may be a sound row of another content: a store's checksums tell.
        Ok(_) if what > 1 => Ok(false),
        Ok(_) => Err(format!(
            "a broker begins with row {key} as {:02x?}",
            row.value
        )),
    }
}
