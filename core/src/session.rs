//! Sessions: what a device hears, and how far it has taken it, for as long as the device is remembered.
//!
//! A session is a cursor for each of its filters: a sequence up to which the client has acknowledged everything. It
//! outlives the connection; what was delivered over one that broke is delivered again over the next, from there on. So
//! live and offline are one path, a message waits nowhere but in its log, and a device that is away costs a publish
//! nothing. Of what waits only the newest `mailbox_messages_max` are delivered, for each filter; how many were passed
//! over is told.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::broker::Broker;
use crate::connection::Connection;
use crate::context::Context;
use crate::effect::{After, CloseCode, Durability};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::ids::{Incarnation, Sequence, SubscriptionId};
use crate::input::{Claims, Rights};
use crate::namespace::Namespace;
use crate::protocol::field::{Item as _, List};
use crate::protocol::frame::{
    AckSession, Done, EndSession, OpenSession, Reply, SessionDescription, SessionFilter, Subscribe,
};
use crate::subscription::Behind;
use crate::topic::{Kind, check_filter, is_pattern, matches};
use crate::wire::{Malformed, Put as _, Reader, put_framed};

pub(crate) struct Session {
    /// Tells it from others that the device had; the client's token.
    epoch: u64,
    /// The connection that has it.
    pub(crate) connection: Option<u32>,
    pub(crate) cursors: Vec<SessionCursor>,
}

/// How far a session has taken what a filter matches.
pub(crate) struct SessionCursor {
    pub(crate) filter: Box<str>,
    /// Everything up to here was acknowledged, or was there before the session asked for it.
    pub(crate) acked: Sequence,
    /// The subscription of the connection that goes on from there.
    subscription: Option<SubscriptionId>,
}

impl Session {
    /// The text by which the client knows it.
    fn token(&self) -> String {
        format!("{:x}", self.epoch)
    }

    /// Its connection is gone, if it was this one.
    pub(crate) fn lose(&mut self, connection: u32) {
        if self.connection == Some(connection) {
            self.connection = None;
            for cursor in &mut self.cursors {
                cursor.subscription = None;
            }
        }
    }

    /// The cursor of a filter.
    fn cursor(&self, filter: &str) -> Option<&SessionCursor> {
        self.cursors.iter().find(|cursor| &*cursor.filter == filter)
    }

    /// The subscriptions that are its own.
    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = SubscriptionId> + '_ {
        self.cursors.iter().filter_map(|cursor| cursor.subscription)
    }

    /// Lets a cursor go on with a subscription of its connection.
    pub(crate) fn bind(&mut self, filter: &str, subscription: SubscriptionId) {
        let found = self.cursors.iter_mut();
        if let Some(cursor) = found.into_iter().find(|cursor| &*cursor.filter == filter) {
            cursor.subscription = Some(subscription);
        }
    }

    /// The part of a device's row that follows what is the device's own.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.epoch);
        for cursor in &self.cursors {
            out.put_bytes(cursor.filter.as_bytes());
            out.put_u64(cursor.acked.0);
        }
    }

    /// Reads the same; nothing where the device has no session.
    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        if reader.is_empty() {
            return Ok(None);
        }
        let mut session = Self {
            epoch: reader.u64()?,
            connection: None,
            cursors: Vec::new(),
        };
        while !reader.is_empty() {
            let filter = reader.str()?;
            if check_filter(filter).is_err() || session.cursor(filter).is_some() {
                return Err(Malformed);
            }
            session.cursors.push(SessionCursor {
                filter: filter.into(),
                acked: Sequence(reader.counted()?),
                subscription: None,
            });
        }
        Ok(Some(session))
    }

    /// The same, without places that the namespace never came to.
    pub(crate) fn up_to(mut self, newest: Sequence) -> Self {
        for cursor in &mut self.cursors {
            cursor.acked = cursor.acked.min(newest);
        }
        self
    }

    /// Asserts what must hold of it between batches.
    #[cfg(any(test, feature = "check"))]
    pub(crate) fn check(&self, namespace: &Namespace, cx: &Context, device: u32) {
        let client = self.connection.map(|index| &cx.connections[index as usize]);
        assert!(client.is_none_or(|client| client.device == Some(device)));
        for cursor in &self.cursors {
            assert!(cursor.acked <= namespace.last_sequence);
            let Some(id) = cursor.subscription else {
                continue;
            };
            let index = client.and_then(|client| client.subscription(id));
            let index = index.expect("a cursor that is in use has a subscription");
            let subscription = &namespace.subscriptions[index as usize];
            assert_eq!(subscription.filter, cursor.filter);
            let position = subscription.behind.as_ref().map(|behind| behind.position);
            assert!(position.is_none_or(|position| position >= cursor.acked));
        }
    }
}

impl Broker {
    /// Makes a connection that of its device's session.
    pub(crate) fn open_session(
        &mut self,
        index: u32,
        command: &OpenSession<'_>,
    ) -> Result<(), Refusal> {
        let client = &self.cx.connections[index as usize];
        let number = client.namespace;
        let device = device_of(&self.cx, index)?;
        let devices = &self.namespaces[number as usize].devices;
        let session = devices.entries[device as usize].session.as_ref();
        let former = session.and_then(|session| session.connection);
        if former == Some(index) {
            let message = "this connection has opened its session already";
            return Err(Refusal::new(ErrorCode::OutOfState, message));
        }
        self.cx.require_storage()?;
        if let Some(former) = former {
            self.namespaces[number as usize].hand_over_presence(&mut self.cx, former, index);
            let message = "another connection of the device has opened its session";
            self.close(
                former,
                CloseCode::Policy,
                ErrorCode::SessionReplaced,
                message,
            );
        }
        let cx = &mut self.cx;
        let namespace = &mut self.namespaces[number as usize];
        let devices = &mut namespace.devices;
        let entry = &mut devices.entries[device as usize];
        let is_known = entry.session.is_some();
        let epoch = devices.next_epoch;
        let session = entry.session.get_or_insert_with(|| Session {
            epoch,
            connection: None,
            cursors: Vec::new(),
        });
        session.connection = Some(index);
        let token = session.token();
        if !is_known {
            devices.next_epoch += 1;
            namespace.touch_device(cx, device);
            cx.durability = cx.durability.max(Durability::Async);
        }
        // Which connection has it outlives hibernation.
        cx.touch_connection(index);
        let filters = namespace.waiting(cx, device);
        let description = SessionDescription {
            request: command.request,
            token: &token,
            resumed: is_known && command.token.is_none_or(|asked| asked == token),
            expires_ms: cx.config.session_ttl_ms,
            filters: List::new(&filters),
        };
        let after = namespace.after_all(cx, Durability::Async);
        cx.reply(index, after, &Reply::SessionDescription(description));
        Ok(())
    }
}

impl Namespace {
    /// Where a subscription from the session's place begins, and what of it the client saw in vain. `seen` is how far
    /// the client was, where it knows: then nothing of that comes again.
    pub(crate) fn session_place(
        &self,
        cx: &Context,
        connection: u32,
        command: &Subscribe<'_>,
        seen: Option<(Incarnation, Sequence)>,
    ) -> Result<(Option<Behind>, Option<Sequence>), Refusal> {
        let session = self.own_session(cx, connection)?;
        if command.partition.is_some() {
            let message = "a session hears whole topics: leave \"partition\" out";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let cursor = session.cursor(command.filter);
        if let Some(id) = cursor.and_then(|cursor| cursor.subscription) {
            let message = format!(
                "the session has subscription {} to \"{}\"; end that first",
                id.0, command.filter
            );
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        if cursor.is_none() {
            check_count(
                "a session",
                "session_filters",
                session.cursors.len() + 1,
                cx.config.session_filters_max,
            )?;
            cx.require_storage()?;
        }
        let rights = cx.connections[connection as usize].claims.rights;
        let (survived, lost) = match seen {
            // The past of what the session has not asked for yet is not its own.
            Some(_) if cursor.is_none() && !rights.contains(Rights::HISTORY) => (None, None),
            Some((incarnation, position)) => {
                let (survived, lost) = self.survived(incarnation, position);
                (Some(survived), lost)
            }
            None => (None, None),
        };
        let acked = cursor.map(|cursor| cursor.acked);
        let Some(position) = acked.max(survived) else {
            return Ok((None, None));
        };
        let behind = Behind {
            mailbox: true,
            ..Behind::at(position)
        };
        Ok((Some(behind), lost))
    }

    /// Notes that a subscription goes on from the session's place, which was `position`; what its reply waits for.
    pub(crate) fn bind_cursor(
        &mut self,
        cx: &mut Context,
        connection: u32,
        filter: &str,
        id: SubscriptionId,
        position: Sequence,
    ) -> After {
        let Some((device, session)) = self.session_mut(cx, connection) else {
            return After::default();
        };
        if session.cursor(filter).is_none() {
            session.cursors.push(SessionCursor {
                filter: filter.into(),
                acked: position,
                subscription: None,
            });
            cx.durability = cx.durability.max(Durability::Async);
            self.touch_device(cx, device);
        }
        if let Some((_, session)) = self.session_mut(cx, connection) {
            session.bind(filter, id);
        }
        self.after_all(cx, Durability::Async)
    }

    /// Notes that a subscription of a connection is over; its cursor stays, unless the client does not want it any
    /// more.
    pub(crate) fn release_cursor(
        &mut self,
        cx: &mut Context,
        connection: u32,
        id: SubscriptionId,
        forget: bool,
    ) {
        let Some((device, session)) = self.session_mut(cx, connection) else {
            return;
        };
        let mut cursors = session.cursors.iter();
        let Some(place) = cursors.position(|cursor| cursor.subscription == Some(id)) else {
            return;
        };
        session.cursors[place].subscription = None;
        if forget {
            session.cursors.remove(place);
            self.touch_device(cx, device);
        }
    }

    /// Takes what a client says to have taken.
    pub(crate) fn ack_session(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: AckSession,
    ) -> Result<(), Refusal> {
        let id = SubscriptionId(command.subscription);
        let place = self.own_session(cx, connection).ok().and_then(|session| {
            let mut cursors = session.cursors.iter();
            cursors.position(|cursor| cursor.subscription == Some(id))
        });
        let index = cx.connections[connection as usize].subscription(id);
        let (Some(place), Some(index)) = (place, index) else {
            let message = format!(
                "subscription {} of this connection is none of its session",
                id.0
            );
            return Err(Refusal::new(ErrorCode::UnknownSubscription, message));
        };
        let behind = self.subscriptions[index as usize].behind.as_ref();
        let delivered = behind.map_or(self.last_sequence, |behind| behind.position);
        let sequence = Sequence(command.sequence);
        if sequence > delivered {
            let message = format!(
                "subscription {} was told of everything up to {}, not {}",
                id.0, delivered.0, sequence.0
            );
            return Err(Refusal::new(ErrorCode::OffsetOutOfRange, message));
        }
        cx.require_storage()?;
        if let Some((device, session)) = self.session_mut(cx, connection) {
            let acked = &mut session.cursors[place].acked;
            if sequence > *acked {
                *acked = sequence;
                cx.durability = cx.durability.max(Durability::Async);
                self.touch_device(cx, device);
            }
        }
        let after = self.after_all(cx, Durability::Async);
        let done = Done {
            request: command.request,
        };
        cx.reply(connection, after, &Reply::Done(done));
        Ok(())
    }

    /// Ends the session of a connection's device; its subscriptions go with it, the connection stays.
    pub(crate) fn end_session(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: EndSession,
    ) -> Result<(), Refusal> {
        self.own_session(cx, connection)?;
        cx.require_storage()?;
        let Some((device, session)) = self.session_mut(cx, connection) else {
            return Ok(());
        };
        let own: Vec<SubscriptionId> = session.subscriptions().collect();
        self.devices.entries[device as usize].session = None;
        self.touch_device(cx, device);
        cx.durability = cx.durability.max(Durability::Async);
        for id in own {
            if let Some(index) = cx.connections[connection as usize].remove_subscription(id) {
                self.remove_subscription(cx, index);
            }
        }
        cx.touch_connection(connection);
        let after = self.after_all(cx, Durability::Async);
        let done = Done {
            request: command.request,
        };
        cx.reply(connection, after, &Reply::Done(done));
        Ok(())
    }

    /// Gives a connection that outlived the last life its session back.
    pub(crate) fn revive_session(&mut self, cx: &Context, connection: u32) {
        let device = cx.connections[connection as usize].device;
        let entry = device.and_then(|device| self.devices.entries.get_mut(device as usize));
        if let Some(session) = entry.and_then(|entry| entry.session.as_mut()) {
            session.connection = session.connection.or(Some(connection));
        }
    }

    /// Lets the session go on with a subscription that outlived the last life.
    pub(crate) fn revive_cursor(&mut self, cx: &Context, connection: u32, subscription: u32) {
        let subscription = &self.subscriptions[subscription as usize];
        let (filter, id) = (subscription.filter.clone(), subscription.id);
        if let Some((_, session)) = self.session_mut(cx, connection) {
            session.bind(&filter, id);
        }
    }

    /// The session that the connection with this number has opened.
    pub(crate) fn session_of(&self, number: u32, connection: &Connection) -> Option<&Session> {
        let device = &self.devices.entries[connection.device? as usize];
        let session = device.session.as_ref();
        session.filter(|session| session.connection == Some(number))
    }

    /// The same, or a refusal.
    fn own_session(&self, cx: &Context, connection: u32) -> Result<&Session, Refusal> {
        let session = self.session_of(connection, &cx.connections[connection as usize]);
        session.ok_or_else(|| {
            let message = "this connection has no session; say open_session first";
            Refusal::new(ErrorCode::UnknownSession, message)
        })
    }

    /// The session of the device that somebody speaks for, whichever connection has it.
    pub(crate) fn session_of_claims(&self, claims: &Claims) -> Result<&Session, Refusal> {
        let device = self.devices.find(&claims.user, &claims.device).ok();
        let session =
            device.and_then(|device| self.devices.entries[device as usize].session.as_ref());
        session.ok_or_else(|| {
            let message = format!(
                "device \"{}\" of user \"{}\" has no session; connect with both and say open_session",
                claims.device, claims.user
            );
            Refusal::new(ErrorCode::UnknownSession, message)
        })
    }

    /// The same to be changed, with its device.
    fn session_mut(&mut self, cx: &Context, connection: u32) -> Option<(u32, &mut Session)> {
        let device = cx.connections.get(connection as usize)?.device?;
        let entry = self.devices.entries.get_mut(device as usize)?;
        let session = entry.session.as_mut()?;
        (session.connection == Some(connection)).then_some((device, session))
    }

    /// What waits for the session of a device, filter by filter, as items of a list.
    fn waiting(&self, cx: &Context, device: u32) -> Vec<u8> {
        let mut items = Vec::new();
        let session = self.devices.entries[device as usize].session.as_ref();
        for cursor in session.iter().flat_map(|session| &session.cursors) {
            let item = SessionFilter {
                filter: &cursor.filter,
                waiting: self.waiting_at(cx, cursor),
            };
            put_framed(&mut items, 0, |out| item.put_fields(out));
        }
        items
    }

    /// How many messages wait at a cursor, as far as the extents of segments tell: never less than there are, and no
    /// more than a mailbox holds.
    pub(crate) fn waiting_at(&self, cx: &Context, cursor: &SessionCursor) -> u64 {
        let max = cx.config.mailbox_messages_max;
        if cursor.acked >= self.last_sequence {
            return 0;
        }
        let of_topic = |index: &u32| {
            let topic = &self.topics[*index as usize];
            if topic.config.kind == Kind::Live {
                return 0;
            }
            let logs = topic.partitions.iter();
            logs.map(|state| state.log.count_after(cursor.acked)).sum()
        };
        if !is_pattern(&cursor.filter) {
            let waiting: u64 = self
                .topics_matching(&cursor.filter)
                .map(|topic| of_topic(&topic))
                .sum();
            return waiting.min(max);
        }
        let mut waiting = 0;
        for (name, index) in &self.topic_names {
            // Most topics have nothing new, which is found out faster than whether they match.
            let count = of_topic(index);
            if count > 0 && matches(&cursor.filter, name) {
                waiting += count;
            }
            if waiting >= max {
                break;
            }
        }
        waiting.min(max)
    }
}

/// The device of a connection that can have a session.
fn device_of(cx: &Context, connection: u32) -> Result<u32, Refusal> {
    let client = &cx.connections[connection as usize];
    client.device.ok_or_else(|| {
        let message = if client.ephemeral && !client.claims.device.is_empty() {
            "an ephemeral connection leaves no session behind"
        } else {
            "a session is a user's and a device's; connect with both, as ?user=NAME&device=NAME"
        };
        Refusal::new(ErrorCode::OutOfState, message)
    })
}
