//! The guest module in wasmtime. The calls and their bytes are described in `wasm/guest`.

use dunlin_core::Timestamp;
use wasmtime::{Instance, InstancePre, Linker, Memory, Module, Store, TypedFunc, WasmParams};

use super::{Engine, EngineError};
use crate::embedded;

/// The version of the interface between host and guest that this host speaks.
const ABI_VERSION: u32 = 1;

/// A compiled guest, from which any number of instances start at once.
#[derive(Clone)]
pub struct GuestModule {
    instance: InstancePre<()>,
}

impl GuestModule {
    /// The guest that was built into this binary.
    pub fn embedded() -> Result<Self, EngineError> {
        let bytes = embedded::GUEST.ok_or_else(|| {
            EngineError::Module(
                "this binary was built without it; run `cargo xtask build`, or use `--engine native`"
                    .to_owned(),
            )
        })?;
        match precompiled(bytes) {
            Some(module) => Self::new(&module),
            None => Self::compile(bytes),
        }
    }

    /// Compiles a guest. It may import nothing, and must speak this host's version of the interface.
    pub fn compile(bytes: &[u8]) -> Result<Self, EngineError> {
        Self::new(&dunlin_compiler::compile(bytes).map_err(wrong)?)
    }

    fn new(module: &Module) -> Result<Self, EngineError> {
        let instance = Linker::new(module.engine())
            .instantiate_pre(module)
            .map_err(wrong)?;
        Ok(Self { instance })
    }

    /// An instance with a broker without rows.
    pub fn start(&self, config_json: &str, seed: u64) -> Result<WasmEngine, EngineError> {
        let mut store = Store::new(self.instance.module().engine(), ());
        let instance = self.instance.instantiate(&mut store).map_err(wrong)?;
        let version = instance
            .get_typed_func::<(), u32>(&mut store, "dunlin_abi_version")
            .and_then(|call| call.call(&mut store, ()))
            .map_err(wrong)?;
        if version != ABI_VERSION {
            return Err(EngineError::Module(format!(
                "it speaks version {version} of the interface and this host version {ABI_VERSION}; run `cargo xtask build`"
            )));
        }
        let mut engine = WasmEngine::bind(store, &instance).map_err(wrong)?;
        let mut input = seed.to_le_bytes().to_vec();
        input.extend_from_slice(config_json.as_bytes());
        engine.write_input(&input)?;
        let start = instance
            .get_typed_func(&mut engine.store, "dunlin_start")
            .map_err(wrong)?;
        let refusal = engine.call(&start, ())?;
        if refusal.is_empty() {
            Ok(engine)
        } else {
            Err(EngineError::Config(text(refusal)))
        }
    }
}

/// One guest instance.
pub struct WasmEngine {
    store: Store<()>,
    memory: Memory,
    input: TypedFunc<u32, u32>,
    output_len: TypedFunc<(), u32>,
    restore: TypedFunc<(), u32>,
    step: TypedFunc<f64, u32>,
    stats: TypedFunc<(), u32>,
}

impl WasmEngine {
    fn bind(mut store: Store<()>, instance: &Instance) -> wasmtime::Result<Self> {
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| wasmtime::Error::msg("it exports no memory"))?;
        Ok(Self {
            memory,
            input: instance.get_typed_func(&mut store, "dunlin_input")?,
            output_len: instance.get_typed_func(&mut store, "dunlin_output_len")?,
            restore: instance.get_typed_func(&mut store, "dunlin_restore")?,
            step: instance.get_typed_func(&mut store, "dunlin_step")?,
            stats: instance.get_typed_func(&mut store, "dunlin_stats")?,
            store,
        })
    }

    fn write_input(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let len = u32::try_from(bytes.len()).expect("a batch is bounded far below 4 GiB");
        let at = self.input.call(&mut self.store, len).map_err(trap)? as usize;
        self.memory.data_mut(&mut self.store)[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn call<P: WasmParams>(
        &mut self,
        function: &TypedFunc<P, u32>,
        parameters: P,
    ) -> Result<&[u8], EngineError> {
        let at = function.call(&mut self.store, parameters).map_err(trap)? as usize;
        let len = self.output_len.call(&mut self.store, ()).map_err(trap)? as usize;
        self.memory
            .data(&self.store)
            .get(at..at + len)
            .ok_or_else(|| EngineError::Trap("its output lies outside its memory".to_owned()))
    }
}

impl Engine for WasmEngine {
    fn restore(&mut self, rows: &[u8]) -> Result<(), EngineError> {
        self.write_input(rows)?;
        let refusal = self.call(&self.restore.clone(), ())?;
        if refusal.is_empty() {
            Ok(())
        } else {
            Err(EngineError::Restore(text(refusal)))
        }
    }

    fn step(&mut self, now: Timestamp, inputs: &[u8]) -> Result<&[u8], EngineError> {
        self.write_input(inputs)?;
        // Exact: milliseconds since 1970 stay below 2^53 for 285,000 years.
        self.call(&self.step.clone(), now.0 as f64)
    }

    fn stats(&mut self) -> Result<String, EngineError> {
        self.call(&self.stats.clone(), ()).map(text)
    }
}

/// The machine code of `guest`, if it is in this binary.
fn precompiled(guest: &[u8]) -> Option<Module> {
    // SAFETY: the build put it into this binary, from nowhere else than `precompile`.
    unsafe { dunlin_compiler::load(embedded::GUEST_CODE?, guest) }
}

fn wrong(error: wasmtime::Error) -> EngineError {
    EngineError::Module(format!("{error:#}"))
}

fn trap(error: wasmtime::Error) -> EngineError {
    EngineError::Trap(format!("{error:#}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_compiles_nothing() {
        let Some(guest) = embedded::GUEST else {
            return;
        };
        assert!(
            precompiled(guest).is_some(),
            "the guest's machine code is missing or of another guest; run `cargo xtask build --only host`"
        );
    }
}
