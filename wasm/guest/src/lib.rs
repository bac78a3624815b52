//! The broker as an import-free WebAssembly module: the same file runs under wasmtime and in a Durable Object.
//!
//! One instance is one broker. The host asks for the input buffer with [`dunlin_input`], writes there, calls one of
//! the functions, and reads [`dunlin_output_len`] bytes at the address that it returns, before the next call.
//! The bytes are those of `dunlin_core::abi`. Every impossible input is a trap, after which the instance is dropped.
//!
//! | export | input | output |
//! |---|---|---|
//! | `dunlin_start` | seed (8 bytes, little endian), configuration (JSON) | empty, or what is wrong with it |
//! | `dunlin_restore` | rows | empty, or what is wrong with them |
//! | `dunlin_step(now)` | inputs | next timeout, effects |
//! | `dunlin_stats` | | JSON |

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;

use dunlin_core::{Broker, Reader, Timestamp, abi};

/// What one instance holds.
struct Instance {
    /// Never dropped: the memory goes with the instance, and the code to take it apart would only be carried along.
    broker: Option<&'static mut Broker>,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// What only one thread ever sees.
struct Alone<T>(T);

// SAFETY: a WebAssembly instance has one thread, and nothing else calls this library.
unsafe impl<T> Sync for Alone<T> {}

static INSTANCE: Alone<RefCell<Instance>> = Alone(RefCell::new(Instance {
    broker: None,
    input: Vec::new(),
    output: Vec::new(),
}));

#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic is a trap. Without the standard library nothing carries the texts that nobody could read here.
#[cfg(target_family = "wasm")]
#[panic_handler]
fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// The version of this interface; a host refuses a module with another.
#[unsafe(no_mangle)]
pub extern "C" fn dunlin_abi_version() -> u32 {
    1
}

/// Makes the input buffer `len` bytes long and returns its address.
#[unsafe(no_mangle)]
pub extern "C" fn dunlin_input(len: u32) -> u32 {
    with(|instance| {
        instance.input.clear();
        instance.input.resize(len as usize, 0);
        instance.input.as_ptr() as u32
    })
}

/// How many bytes the last call put out.
#[unsafe(no_mangle)]
pub extern "C" fn dunlin_output_len() -> u32 {
    with(|instance| instance.output.len() as u32)
}

/// Creates the broker. See the table above.
#[unsafe(no_mangle)]
pub extern "C" fn dunlin_start() -> u32 {
    call(|instance| {
        let (seed, config) = instance
            .input
            .split_first_chunk()
            .expect("the input begins with a seed");
        let config = core::str::from_utf8(config).expect("the configuration is UTF-8");
        match Broker::new(config, u64::from_le_bytes(*seed)) {
            Ok(broker) => instance.broker = Some(Box::leak(Box::new(broker))),
            Err(error) => instance.output.extend_from_slice(error.0.as_bytes()),
        }
    })
}

/// Feeds stored rows. See the table above.
#[unsafe(no_mangle)]
pub extern "C" fn dunlin_restore() -> u32 {
    call(|instance| {
        let broker = instance.broker.as_mut().expect("the broker is started");
        let rows = abi::decode_rows(&mut Reader::new(&instance.input)).expect("the rows are whole");
        if let Err(error) = broker.restore(rows) {
            instance.output.extend_from_slice(error.0.as_bytes());
        }
    })
}

/// Handles a batch of inputs, ends it, and puts out its effects. `now` is in milliseconds.
#[unsafe(no_mangle)]
pub extern "C" fn dunlin_step(now: f64) -> u32 {
    call(|instance| {
        let broker = instance.broker.as_mut().expect("the broker is started");
        abi::step(
            broker,
            Timestamp(now as u64),
            &instance.input,
            &mut instance.output,
        )
        .expect("the inputs are whole");
    })
}

/// Counters and gauges as JSON.
#[unsafe(no_mangle)]
pub extern "C" fn dunlin_stats() -> u32 {
    call(|instance| {
        let broker = instance.broker.as_ref().expect("the broker is started");
        instance
            .output
            .extend_from_slice(broker.stats_json().as_bytes());
    })
}

fn with<T>(body: impl FnOnce(&mut Instance) -> T) -> T {
    body(&mut INSTANCE.0.borrow_mut())
}

fn call(body: impl FnOnce(&mut Instance)) -> u32 {
    with(|instance| {
        instance.output.clear();
        body(instance);
        instance.output.as_ptr() as u32
    })
}
