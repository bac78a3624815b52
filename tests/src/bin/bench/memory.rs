//! What idle things take: bytes that are allocated for them and not given back, and the time of a step in which nothing
//! happens. Of the native core; a guest's allocator is its own.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use std::alloc::System;

use dunlin_core::ConnectionId;
use dunlin_core::frame::{Command, Publish};
use dunlin_host::Engines;

use crate::{BATCH, Bench, configure, join, publish_command, put, put_acks};

/// How many keys or topics are idle, and beside how few that is held: as many as a batch has messages, so that a queue
/// deals out all of them.
const IDLE: u64 = 10_000;
const FEW: u64 = BATCH as u64;

/// Counts what this thread has allocated, so that a broker can be weighed.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    // A thread that ends has nobody left to tell.
    let _ = ALLOCATED.try_with(|bytes| {
        bytes.set(
            bytes
                .get()
                .wrapping_add(more as u64)
                .wrapping_sub(less as u64),
        );
    });
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What is idle in a broker.
#[derive(Clone, Copy)]
enum Idle {
    /// Keys of a topic that keeps the order of keys.
    Keys,
    /// The same, each with a message that a queue has worked off.
    QueueKeys,
    /// Topics with a message each.
    Topics,
}

/// Prints what each of 10,000 idle things takes, and what a step costs beside them and beside few.
pub(crate) fn rows(native: &Engines) {
    for (name, idle, bound) in [
        ("an idle key of a topic", Idle::Keys, 200),
        ("an idle key of a queue", Idle::QueueKeys, 200),
        ("an idle topic with a message", Idle::Topics, 0),
    ] {
        let [few, many] = [FEW, IDLE].map(|count| {
            let before = ALLOCATED.get();
            let mut bench = Bench::new(native.start(1).expect("the engine starts"));
            leave_idle(&mut bench, idle, count);
            let bytes = ALLOCATED.get().wrapping_sub(before);
            (bytes, step_ns(&mut bench))
        });
        let each = many.0.wrapping_sub(few.0) as i64 as f64 / (IDLE - FEW) as f64;
        let bound = match bound {
            0 => String::new(),
            bound => format!("  (at most {bound} B)"),
        };
        println!(
            "{name:<58} {each:>10.1} B; an empty step takes {:.0} ns beside {IDLE}, {:.0} beside {FEW}{bound}",
            many.1, few.1
        );
    }
}

/// Publishes as many messages in all cases, to so many keys or topics in turn.
fn leave_idle(bench: &mut Bench, idle: Idle, count: u64) {
    let publisher = bench.connect();
    let ordering = match idle {
        Idle::Keys | Idle::QueueKeys => "per_key",
        Idle::Topics => "none",
    };
    configure(bench, publisher, "a/b", 1, ordering);
    let member = bench.connect();
    if matches!(idle, Idle::QueueKeys) {
        let mut batch = Vec::new();
        join(&mut batch, member, "queue", None);
        bench.step(&batch);
    }
    let step = BATCH as u64;
    for first in (0..IDLE).step_by(BATCH) {
        let mut batch = Vec::new();
        for index in first..first + step {
            publish_one(&mut batch, publisher, idle, index % count);
        }
        bench.step(&batch);
        if matches!(idle, Idle::QueueKeys) {
            let mut batch = Vec::new();
            put_acks(&mut batch, member, first + 1, step);
            bench.step(&batch);
        }
    }
}

fn publish_one(batch: &mut Vec<u8>, publisher: ConnectionId, idle: Idle, index: u64) {
    let (topic, key) = match idle {
        Idle::Keys | Idle::QueueKeys => (String::from("a/b"), Some(format!("key-{index}"))),
        Idle::Topics => (format!("idle/{index}"), None),
    };
    let Command::Publish(publish) = publish_command(&topic) else {
        unreachable!("it is a publish")
    };
    let key = key.as_deref();
    put(
        batch,
        publisher,
        &Command::Publish(Publish { key, ..publish }),
    );
}

/// Nanoseconds of a step without an input, the best of several.
fn step_ns(bench: &mut Bench) -> f64 {
    (0..20)
        .map(|_| bench.time_all(&vec![Vec::new(); 100], 1))
        .fold(f64::INFINITY, f64::min)
}
