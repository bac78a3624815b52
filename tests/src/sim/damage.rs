//! Rows that are not what any version writes: the broker refuses to begin with them, and says which row it is.

use std::sync::Arc;

use dunlin_core::rows::{Scope, scope_of};
use dunlin_core::{Op, Row};
use dunlin_host::{Drive, DriveError, EngineError, MemoryStore, ShardSpan, Store as _};

use super::engine::SimEngine;
use super::rng::Rng;

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
        Err(DriveError::Engine(EngineError::Restore(told))) if told.contains(&key) => Ok(true),
        Err(error) => Err(format!("row {key} is refused without its name: {error}")),
        // What has lost only a part, or a bit, may be a sound row of another content: a store's checksums tell.
        Ok(_) if what > 1 => Ok(false),
        Ok(_) => Err(format!(
            "a broker begins with row {key} as {:02x?}",
            row.value
        )),
    }
}
