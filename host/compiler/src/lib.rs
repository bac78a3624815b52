//! The guest module as machine code: compiled by the build, so that a start need not do it, or at the start where
//! that is of no use.
//!
//! Machine code is only ever taken from the binary that runs it, never from a file that is read at run time: nothing
//! can tell code that was meant from code that somebody put there.

use twox_hash::XxHash64;
use wasmtime::{Config, Engine, Module, OptLevel, Result};

/// The bytes in front of the machine code, which say what was compiled.
const HASH_BYTES: usize = 8;

/// Compiles `guest` for this machine: what [`load`] takes, on this machine or one with the same abilities.
pub fn precompile(guest: &[u8]) -> Result<Vec<u8>> {
    let mut artefact = hash(guest).to_vec();
    artefact.extend(engine()?.precompile_module(guest)?);
    Ok(artefact)
}

/// Compiles `guest` for now.
pub fn compile(guest: &[u8]) -> Result<Module> {
    Module::new(&engine()?, guest)
}

/// The module `guest` without compiling it, if `artefact` was made of it by this version of the compiler, and for
/// abilities that this processor has.
///
/// # Safety
/// `artefact` must be what [`precompile`] gave, whenever that was: machine code is not checked, it is run.
pub unsafe fn load(artefact: &[u8], guest: &[u8]) -> Option<Module> {
    let (made_of, code) = artefact.split_first_chunk()?;
    if *made_of != hash(guest) {
        return None;
    }
    let engine = engine().ok()?;
    // SAFETY: the caller knows where it comes from; versions, settings and abilities are compared by wasmtime.
    unsafe { Module::deserialize(&engine, code) }.ok()
}

fn engine() -> Result<Engine> {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    Engine::new(&config)
}

fn hash(guest: &[u8]) -> [u8; HASH_BYTES] {
    XxHash64::oneshot(0, guest).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortest module there is.
    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn only_the_module_that_was_compiled_is_loaded() {
        let artefact = precompile(EMPTY).unwrap();
        let other = [EMPTY, b"\0\x02\x01a"].concat();
        compile(&other).unwrap();
        // SAFETY: made above by `precompile`.
        let loads = |guest: &[u8]| unsafe { load(&artefact, guest) }.is_some();
        assert!(loads(EMPTY));
        assert!(!loads(&other));
    }

    #[test]
    fn what_no_compiler_made_is_refused() {
        let artefact = precompile(EMPTY).unwrap();
        let (head, code) = artefact.split_at(HASH_BYTES);
        let foreign = [head, b"no machine code"].concat();
        for artefact in [&[], head, &foreign, code] {
            // SAFETY: none of these is code, and so none is run.
            assert!(unsafe { load(artefact, EMPTY) }.is_none());
        }
    }
}
