//! The devices of users: which are known, which are here, and when the others were last seen.
//!
//! A device is told by the user and device in its connections' claims. From its first `hello` on it is remembered, with
//! its session if it has one, until it was away for `session_ttl_ms` or has to make room for another of its user.
//! Ephemeral connections (HTTP) are there for a moment and count for nothing here.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use slab::Slab;

use crate::broker::Broker;
use crate::connection::{Connection, check_identity};
use crate::context::Context;
use crate::deadline::Due;
use crate::effect::{CloseCode, Op};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::ids::Timestamp;
use crate::namespace::Namespace;
use crate::restore::unsound;
use crate::rows::{KeyTail, ROW_VERSION};
use crate::session::Session;
use crate::wire::{Malformed, Put as _, Reader};

/// How many devices are forgotten in one batch.
const FORGOTTEN_MAX: u32 = 1024;

pub(crate) struct Device {
    pub(crate) user: Arc<str>,
    pub(crate) name: Box<str>,
    /// Its connections; it is here as long as it has some.
    pub(crate) connections: Vec<u32>,
    /// When its last connection ended; 0 while it has one, and as it was stored then.
    pub(crate) last_seen: Timestamp,
    pub(crate) session: Option<Session>,
    dirty: bool,
}

/// The devices of a namespace, and the connections of its users.
pub(crate) struct Devices {
    pub(crate) entries: Slab<Device>,
    /// The devices of every user, in the order of their names.
    pub(crate) of_users: BTreeMap<Arc<str>, Vec<u32>>,
    /// The connections of every user that has some.
    pub(crate) connected: BTreeMap<Arc<str>, Vec<u32>>,
    /// The devices that are away, by when they were last seen.
    away: BTreeSet<(Timestamp, u32)>,
    /// The entry among the deadlines: when the first of them is forgotten.
    due: Option<Timestamp>,
    dirty: Vec<u32>,
    /// Names the next session. Those of earlier lives must not be taken for ours.
    pub(crate) next_epoch: u64,
}

impl Devices {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            entries: Slab::new(),
            of_users: BTreeMap::new(),
            connected: BTreeMap::new(),
            away: BTreeSet::new(),
            due: None,
            dirty: Vec::new(),
            next_epoch: (seed >> 44 << 32) + 1,
        }
    }

    /// Whether one of them has a session.
    pub(crate) fn has_sessions(&self) -> bool {
        self.entries
            .iter()
            .any(|(_, entry)| entry.session.is_some())
    }

    /// Whether none is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The device of this name, or where it belongs among those of its user.
    pub(crate) fn find(&self, user: &str, name: &str) -> Result<u32, usize> {
        let devices = self.of_users.get(user).map_or(&[][..], Vec::as_slice);
        devices
            .binary_search_by_key(&name, |device| &*self.entries[*device as usize].name)
            .map(|place| devices[place])
    }

    fn insert(&mut self, user: &str, name: &str, place: usize) -> u32 {
        let known = self.of_users.get_key_value(user);
        let user = known.map_or_else(|| user.into(), |(user, _)| user.clone());
        let device = self.entries.insert(Device {
            user: user.clone(),
            name: name.into(),
            connections: Vec::new(),
            last_seen: Timestamp(0),
            session: None,
            dirty: false,
        }) as u32;
        self.of_users.entry(user).or_default().insert(place, device);
        device
    }

    /// Whether a device was away for so long that it is forgotten, though nobody came to do it.
    fn is_over(&self, cx: &Context, device: u32) -> bool {
        let device = &self.entries[device as usize];
        device.connections.is_empty()
            && device.last_seen > Timestamp(0)
            && device.last_seen.after_ms(cx.config.session_ttl_ms) <= cx.now
    }

    /// The device of a user that was silent for longest, unless there is room for one more.
    fn one_too_many(&self, cx: &Context, user: &str) -> Option<u32> {
        let devices = self.of_users.get(user)?;
        if (devices.len() as u64) < cx.config.devices_per_user_max {
            return None;
        }
        let silent = devices.iter().min_by_key(|device| {
            let entry = &self.entries[**device as usize];
            (!entry.connections.is_empty(), entry.heard_at(cx))
        });
        silent.copied()
    }
}

impl Device {
    /// When it was last heard of.
    pub(crate) fn heard_at(&self, cx: &Context) -> Timestamp {
        let connections = self.connections.iter();
        let heard = connections.map(|connection| cx.connections[*connection as usize].seen_at);
        let gone = match self.last_seen {
            // It was here when the last life ended, and until now there was no time to find out that it is not.
            Timestamp(0) => cx.now,
            last_seen => last_seen,
        };
        heard.max().unwrap_or(gone)
    }

    fn row(&self) -> Vec<u8> {
        let mut value = Vec::new();
        value.put_u64(ROW_VERSION);
        value.put_u64(self.last_seen.0);
        if let Some(session) = &self.session {
            session.put(&mut value);
        }
        value
    }
}

impl Broker {
    /// Notes who has said hello. A refusal has changed nothing.
    pub(crate) fn meet(&mut self, index: u32) -> Result<(), Refusal> {
        let client = &self.cx.connections[index as usize];
        let number = client.namespace;
        let namespace = &mut self.namespaces[number as usize];
        if client.has_device() {
            let (user, name) = (client.claims.user.clone(), &client.claims.device);
            let devices = &namespace.devices;
            let mut known = devices.find(&user, name).ok();
            if let Some(device) = known.filter(|device| devices.is_over(&self.cx, *device)) {
                namespace.remove_device(&mut self.cx, device);
                known = None;
            }
            if known.is_none() {
                match namespace.devices.one_too_many(&self.cx, &user) {
                    Some(device) => {
                        let message = "another device of the user came (devices_per_user_max)";
                        self.end_device(number, device, ErrorCode::DeviceLimit, message);
                    }
                    None => check_count(
                        "a namespace",
                        "devices",
                        namespace.devices.entries.len() + 1,
                        self.cx.config.devices_max,
                    )?,
                }
            }
        }
        self.namespaces[number as usize].add_user(&mut self.cx, index);
        Ok(())
    }

    /// Closes the connections of a device and forgets it, with its session.
    pub(crate) fn end_device(
        &mut self,
        namespace: u32,
        device: u32,
        code: ErrorCode,
        message: &str,
    ) {
        let connections = &self.namespaces[namespace as usize].devices.entries[device as usize];
        for connection in connections.connections.clone() {
            self.close(connection, CloseCode::Kicked, code, message);
        }
        self.namespaces[namespace as usize].remove_device(&mut self.cx, device);
    }
}

impl Namespace {
    /// Makes a connection one of its user and of its device.
    pub(crate) fn add_user(&mut self, cx: &mut Context, connection: u32) {
        let client = &mut cx.connections[connection as usize];
        if client.claims.user.is_empty() || client.ephemeral {
            return;
        }
        let user = client.claims.user.as_str();
        match self.devices.connected.get_mut(user) {
            Some(connections) => connections.push(connection),
            None => {
                let connections = [connection].to_vec();
                self.devices.connected.insert(user.into(), connections);
            }
        }
        if !client.has_device() {
            return;
        }
        let (device, is_new) = match self.devices.find(user, &client.claims.device) {
            Ok(device) => (device, false),
            Err(place) => (
                self.devices.insert(user, &client.claims.device, place),
                true,
            ),
        };
        client.device = Some(device);
        let entry = &mut self.devices.entries[device as usize];
        entry.connections.push(connection);
        let last_seen = core::mem::take(&mut entry.last_seen);
        self.devices.away.remove(&(last_seen, device));
        // One that was stored as being here comes again after a sleep.
        if is_new || last_seen > Timestamp(0) {
            self.touch_device(cx, device);
        }
        self.list_away(cx);
    }

    /// Takes a connection that is gone from its user and device.
    pub(crate) fn remove_user(&mut self, cx: &mut Context, index: u32, connection: &Connection) {
        let user = connection.claims.user.as_str();
        let Some(connections) = self.devices.connected.get_mut(user) else {
            return;
        };
        connections.retain(|other| *other != index);
        if connections.is_empty() {
            self.devices.connected.remove(user);
        }
        let Some(device) = connection.device else {
            return;
        };
        let entry = &mut self.devices.entries[device as usize];
        entry.connections.retain(|other| *other != index);
        if let Some(session) = &mut entry.session {
            session.lose(index);
        }
        if entry.connections.is_empty() {
            entry.last_seen = cx.now;
            self.devices.away.insert((cx.now, device));
            self.touch_device(cx, device);
            self.list_away(cx);
        }
    }

    /// Forgets a device that has no connections.
    pub(crate) fn remove_device(&mut self, cx: &mut Context, device: u32) {
        let entry = self.devices.entries.remove(device as usize);
        assert!(entry.connections.is_empty(), "its connections are closed");
        self.devices.away.remove(&(entry.last_seen, device));
        if let Some(devices) = self.devices.of_users.get_mut(&entry.user) {
            devices.retain(|other| *other != device);
            if devices.is_empty() {
                self.devices.of_users.remove(&entry.user);
            }
        }
        let key = self.keys.device(&entry.user, &entry.name);
        cx.ops.push(Op::Delete { key });
        self.list(cx);
        self.list_away(cx);
    }

    /// Notes that a device's row must be written at the end of the batch.
    pub(crate) fn touch_device(&mut self, cx: &mut Context, device: u32) {
        let entry = &mut self.devices.entries[device as usize];
        if !core::mem::replace(&mut entry.dirty, true) {
            self.devices.dirty.push(device);
        }
        self.list(cx);
    }

    /// Appends the rows of the devices that have changed.
    pub(crate) fn flush_devices(&mut self, cx: &mut Context) {
        for device in core::mem::take(&mut self.devices.dirty) {
            let Some(entry) = self.devices.entries.get_mut(device as usize) else {
                continue;
            };
            if core::mem::take(&mut entry.dirty) {
                cx.ops.push(Op::Put {
                    key: self.keys.device(&entry.user, &entry.name),
                    value: entry.row(),
                });
            }
        }
    }

    /// Begins the life of the devices, now that it is known which of them are here: the others that were went when the
    /// last life did, and nobody knows when that was.
    pub(crate) fn begin_devices(&mut self, cx: &mut Context) {
        for connection in self.devices.connected.values().flatten() {
            let seen_at = &mut cx.connections[*connection as usize].seen_at;
            if *seen_at == Timestamp(0) {
                *seen_at = cx.now;
            }
        }
        let devices = self.devices.entries.iter();
        let gone = devices.filter(|(_, entry)| entry.connections.is_empty());
        for device in gone.map(|(device, _)| device as u32).collect::<Vec<_>>() {
            let entry = &mut self.devices.entries[device as usize];
            if entry.last_seen == Timestamp(0) {
                entry.last_seen = cx.now;
                self.touch_device(cx, device);
            }
            let last_seen = self.devices.entries[device as usize].last_seen;
            self.devices.away.insert((last_seen, device));
        }
        self.list_away(cx);
    }

    /// Lets go of the devices before an archive's take their place.
    pub(crate) fn end_devices(&mut self, cx: &mut Context) {
        if let Some(due) = self.devices.due.take() {
            cx.deadlines.remove(&(due, Due::Device(self.index)));
        }
    }

    /// Begins the life of the devices of an archive, with those that are here.
    pub(crate) fn begin_imported_devices(&mut self, cx: &mut Context) {
        let connections = cx.connections.iter();
        let own = connections.filter(|(_, one)| one.namespace == self.index && one.greeted);
        for connection in own.map(|(index, _)| index as u32).collect::<Vec<_>>() {
            cx.connections[connection as usize].device = None;
            self.add_user(cx, connection);
        }
        self.begin_devices(cx);
    }

    /// Forgets the devices that were away for as long as they are remembered.
    pub(crate) fn devices_due(&mut self, cx: &mut Context) {
        self.devices.due = None;
        for _ in 0..FORGOTTEN_MAX {
            let first = self.devices.away.first();
            let Some((_, device)) = first.filter(|(_, device)| self.devices.is_over(cx, *device))
            else {
                break;
            };
            self.remove_device(cx, *device);
        }
        self.list_away(cx);
    }

    /// Keeps the one deadline for the devices that are away.
    fn list_away(&mut self, cx: &mut Context) {
        let first = self.devices.away.first();
        let due = first.map(|(last_seen, _)| {
            // What is left of many that are over waits for the next batch.
            let over = last_seen.after_ms(cx.config.session_ttl_ms);
            over.max(cx.now.after_ms(u64::from(over <= cx.now)))
        });
        if due == self.devices.due {
            return;
        }
        if let Some(earlier) = core::mem::replace(&mut self.devices.due, due) {
            cx.deadlines.remove(&(earlier, Due::Device(self.index)));
        }
        if let Some(due) = due {
            cx.deadlines.insert((due, Due::Device(self.index)));
        }
    }

    /// Takes a device's row.
    pub(crate) fn restore_device(
        &mut self,
        tail: &mut KeyTail<'_>,
        value: &[u8],
        devices_max: u64,
    ) -> Result<(), String> {
        let length = tail.u32().ok_or_else(|| unsound("key"))?;
        let names = core::mem::take(&mut tail.0).split_at_checked(length as usize);
        let (user, name) = names.ok_or_else(|| unsound("key"))?;
        let (Ok(user), Ok(name)) = (core::str::from_utf8(user), core::str::from_utf8(name)) else {
            return Err(unsound("key"));
        };
        if user.is_empty() || name.is_empty() || check_identity(user, name).is_err() {
            return Err(unsound("key"));
        }
        let mut reader = Reader::new(value);
        let row = |reader: &mut Reader<'_>| {
            let version = reader.u64()?;
            let last_seen = Timestamp(reader.u64()?);
            Ok((version, last_seen, Session::take(reader)?))
        };
        let (version, last_seen, session) =
            row(&mut reader).map_err(|_: Malformed| unsound("device"))?;
        let Err(place) = self.devices.find(user, name) else {
            return Err(unsound("key"));
        };
        if version != ROW_VERSION {
            return Err(unsound("device"));
        }
        if self.devices.entries.len() as u64 >= devices_max {
            return Err(format!(
                "there are more than {devices_max} devices (devices_max)"
            ));
        }
        let newest = self.last_sequence.max(self.reserved);
        let device = self.devices.insert(user, name, place);
        let entry = &mut self.devices.entries[device as usize];
        entry.last_seen = last_seen;
        entry.session = session.map(|session| session.up_to(newest));
        Ok(())
    }
}

#[cfg(any(test, feature = "check"))]
impl Namespace {
    /// Asserts what must hold of devices between batches, once the time is known.
    pub(crate) fn check_devices(&self, cx: &Context) {
        let mut away = 0;
        for (index, entry) in &self.devices.entries {
            let device = index as u32;
            assert_eq!(self.devices.find(&entry.user, &entry.name), Ok(device));
            let is_away = entry.connections.is_empty();
            away += u32::from(is_away);
            assert_eq!(entry.last_seen > Timestamp(0), is_away);
            for connection in &entry.connections {
                let client = &cx.connections[*connection as usize];
                assert_eq!(client.device, Some(device), "a connection knows its device");
            }
            if let Some(session) = &entry.session {
                session.check(self, cx, device);
            }
        }
        assert_eq!(self.devices.away.len(), away as usize);
        for (user, connections) in &self.devices.connected {
            assert!(!connections.is_empty(), "who is connected has connections");
            for connection in connections {
                let client = &cx.connections[*connection as usize];
                assert_eq!(*client.claims.user, **user);
            }
        }
    }
}
