//! Presence: who is on a topic, and telling those who watch it.
//!
//! A member is a device of a user, or a connection of which one of the two is not known. The connection that entered
//! last has a device's place, so that who comes back through a new socket is neither gone nor there twice, and the end
//! of the old one tells nothing. Members and watches live as long as their connections, and are stored with these.
//!
//! What happens on a topic is told at the end of the batch, once, in one frame that is the same for all who watch it;
//! who begins to watch gets the members as they are then. So a thousand that come at once cost a thousand times one.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::connection::Connection;
use crate::context::Context;
use crate::dormant::{Dormant, DormantPlace};
use crate::effect::{After, Recipient};
use crate::error::{ErrorCode, Refusal, check_count};
use crate::ids::{ConnectionId, SubscriptionId, Timestamp};
use crate::input::{Claims, Encoding, Rights};
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::protocol::field::List;
use crate::protocol::frame::{
    Done, Enter, Leave, PresenceEvent, PresenceEvents, PresenceMember, PresencePage, ReadPresence,
    Reply, WatchPresence, put_prefix,
};
use crate::protocol::json::put_json_members;
use crate::topic::check_name;
use crate::wire::Reader;

/// The presence of a namespace.
#[derive(Default)]
pub(crate) struct Presence {
    /// The topics that somebody is present on or watches.
    rooms: BTreeMap<Arc<str>, Room>,
    /// Those of which something is to be told at the end of the batch, or that may be empty.
    news: Vec<Arc<str>>,
    /// How many members and watches they have.
    pub(crate) members: u64,
    pub(crate) watches: u64,
}

#[derive(Default)]
struct Room {
    members: BTreeMap<Who, Member>,
    /// How many different users they are of.
    users: u64,
    watchers: BTreeMap<(ConnectionId, SubscriptionId), Encoding>,
    /// Who began to watch in this batch.
    newcomers: Vec<Newcomer>,
    /// What happened in this batch: lists of events, each as long as one frame may be.
    events: Vec<Vec<u8>>,
    /// Whether it stands among the news.
    listed: bool,
}

struct Member {
    /// The connection through which it is present.
    connection: ConnectionId,
    since: Timestamp,
    data: Box<[u8]>,
}

struct Newcomer {
    connection: ConnectionId,
    encoding: Encoding,
    request: u64,
    subscription: SubscriptionId,
}

/// Who a member is. Members are listed in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    user: Box<str>,
    device: Box<str>,
    /// 0 for a device, whichever its connection is.
    connection: ConnectionId,
}

impl Who {
    fn of(claims: &Claims, id: ConnectionId) -> Self {
        let is_device = !claims.user.is_empty() && !claims.device.is_empty();
        Self {
            user: claims.user.as_str().into(),
            device: claims.device.as_str().into(),
            connection: if is_device { ConnectionId(0) } else { id },
        }
    }

    /// Where a page ends, for the client to hand back.
    fn token(&self) -> String {
        let (user, device) = (&self.user, &self.device);
        format!("{}:{}:{user}{device}", self.connection.0, user.len())
    }

    fn from_token(token: &str) -> Option<Self> {
        let (connection, rest) = token.split_once(':')?;
        let (length, names) = rest.split_once(':')?;
        let (user, device) = names.split_at_checked(length.parse().ok()?)?;
        Some(Self {
            user: user.into(),
            device: device.into(),
            connection: ConnectionId(connection.parse().ok()?),
        })
    }
}

/// What who is present must be allowed.
const TO_ENTER: Rights = Rights(Rights::SUBSCRIBE.0 | Rights::PRESENCE.0);

/// What happens to a member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Join,
    Update,
    /// It said so, or its connection ended.
    Leave,
    /// Nothing was heard of it any more.
    Timeout,
}

impl Change {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Update => "update",
            Self::Leave => "leave",
            Self::Timeout => "timeout",
        }
    }
}

impl Room {
    fn has_user(&self, user: &str) -> bool {
        let first = Who {
            user: user.into(),
            device: Box::default(),
            connection: ConnectionId(0),
        };
        let found = self.members.range(first..).next();
        found.is_some_and(|(who, _)| &*who.user == user)
    }

    fn insert(&mut self, who: Who, member: Member) {
        self.users += u64::from(!who.user.is_empty() && !self.has_user(&who.user));
        self.members.insert(who, member);
    }

    fn remove(&mut self, who: &Who) {
        self.members.remove(who);
        self.users -= u64::from(!who.user.is_empty() && !self.has_user(&who.user));
    }

    /// Notes what is to be told at the end of the batch.
    fn note(
        &mut self,
        cx: &Context,
        who: &Who,
        connection: ConnectionId,
        change: Change,
        data: &[u8],
    ) {
        let is_untold = change == Change::Leave && Mutation::LeaveUntold.is_active();
        if self.watchers.is_empty() || is_untold {
            return;
        }
        let event = PresenceEvent {
            event: change.as_str(),
            user: &who.user,
            device: &who.device,
            connection: connection.0,
            at: cx.now.0,
            data: (!data.is_empty()).then_some(data),
        };
        let full = cx.config.read_bytes_max as usize;
        let list = match self.events.last_mut().filter(|list| list.len() < full) {
            Some(list) => list,
            None => self.events.push_mut(Vec::new()),
        };
        List::push(list, &event);
    }
}

/// A piece of the list of a topic's members.
struct Page {
    members: Vec<u8>,
    present: u64,
    users: u64,
    next: Option<String>,
}

impl Page {
    fn reply<'a>(&'a self, request: u64, topic: &'a str) -> Reply<'a> {
        Reply::PresencePage(PresencePage {
            request,
            topic,
            members: List::new(&self.members),
            more: self.next.is_some(),
            present: self.present,
            users: self.users,
            next: self.next.as_deref(),
        })
    }
}

impl Presence {
    /// The topic's room, which somebody is about to use.
    fn room(&mut self, topic: &str) -> (Arc<str>, &mut Room) {
        if !self.rooms.contains_key(topic) {
            self.rooms.insert(topic.into(), Room::default());
        }
        let name = self
            .rooms
            .get_key_value(topic)
            .map(|(name, _)| name.clone());
        let room = self.rooms.get_mut(topic);
        name.zip(room).expect("it was there or is there now")
    }

    /// The members behind `after`, as many as a page may have.
    fn page(&self, cx: &Context, topic: &str, after: Option<&Who>, members_max: u64) -> Page {
        let mut page = Page {
            members: Vec::new(),
            present: 0,
            users: 0,
            next: None,
        };
        let Some(room) = self.rooms.get(topic) else {
            return page;
        };
        page.present = room.members.len() as u64;
        page.users = room.users;
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last: Option<&Who> = None;
        for (count, (who, member)) in room.members.range((first, Bound::Unbounded)).enumerate() {
            if count as u64 >= members_max || page.members.len() as u64 >= cx.config.read_bytes_max
            {
                page.next = last.map(Who::token);
                break;
            }
            let item = PresenceMember {
                user: &who.user,
                device: &who.device,
                connection: member.connection.0,
                since: member.since.0,
                data: (!member.data.is_empty()).then_some(&member.data),
            };
            List::push(&mut page.members, &item);
            last = Some(who);
        }
        page
    }
}

impl Namespace {
    /// Makes a connection present on a topic, or changes what it says of itself.
    pub(crate) fn enter(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &Enter<'_>,
    ) -> Result<(), Refusal> {
        let client = &cx.connections[connection as usize];
        require(
            client,
            TO_ENTER,
            "be present: it needs to subscribe and to see presence for it",
        )?;
        check_name(command.topic)?;
        let data = command.data.unwrap_or_default();
        if data.len() as u64 > cx.config.presence_data_bytes_max {
            let message = format!(
                "\"data\" is {} bytes long, {} are allowed (presence_data_bytes_max)",
                data.len(),
                cx.config.presence_data_bytes_max
            );
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        let id = client.id;
        let who = Who::of(&client.claims, id);
        let is_here = client.is_present(command.topic);
        if !is_here {
            let count = client.places.len() + 1;
            check_count("a connection", "presences", count, cx.config.presences_max)?;
        }
        let room = self.presence.rooms.get(command.topic);
        let known = room.and_then(|room| room.members.get(&who));
        let change = match known {
            Some(member) if is_here && *member.data == *data => {
                reply_done(cx, connection, command.request);
                return Ok(());
            }
            Some(_) => Change::Update,
            None => Change::Join,
        };
        if change == Change::Join {
            let count = room.map_or(0, |room| room.members.len()) + 1;
            let max = cx.config.presence_members_max;
            check_count("a topic", "presence_members", count, max)?;
        }
        let former = known.map(|member| member.connection);
        if let Some(former) = former.filter(|former| *former != id) {
            // One that is not known to be alive finds out when it is.
            if let Some(&index) = cx.connection_index.get(&former) {
                cx.give_up_place(index, command.topic);
            }
        }
        let (topic, room) = self.presence.room(command.topic);
        room.note(cx, &who, id, change, data);
        match room.members.get_mut(&who) {
            Some(member) => {
                member.connection = id;
                member.data = data.into();
            }
            None => {
                let member = Member {
                    connection: id,
                    since: cx.now,
                    data: data.into(),
                };
                room.insert(who, member);
                self.presence.members += 1;
                cx.counters.presence_joins += 1;
            }
        }
        if !is_here {
            cx.connections[connection as usize]
                .places
                .push(topic.clone());
        }
        cx.touch_connection(connection);
        cx.watch_silence(connection);
        self.list_room(cx, &topic);
        reply_done(cx, connection, command.request);
        Ok(())
    }

    /// Ends a connection's presence on a topic at its wish.
    pub(crate) fn leave(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: Leave<'_>,
    ) -> Result<(), Refusal> {
        check_name(command.topic)?;
        let client = &cx.connections[connection as usize];
        if !client.is_present(command.topic) {
            let message = format!(
                "this connection is not present on topic \"{}\": it did not enter, or its device did through another one since",
                command.topic
            );
            return Err(Refusal::new(ErrorCode::UnknownMember, message));
        }
        let (id, who) = (client.id, Who::of(&client.claims, client.id));
        self.part_from(cx, command.topic, &who, id, Change::Leave);
        cx.give_up_place(connection, command.topic);
        reply_done(cx, connection, command.request);
        Ok(())
    }

    /// Tells a connection who is present on a topic, from the end of the batch on.
    pub(crate) fn watch_presence(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: WatchPresence<'_>,
    ) -> Result<(), Refusal> {
        let client = &cx.connections[connection as usize];
        require(client, Rights::PRESENCE, "see who is present")?;
        check_name(command.topic)?;
        let id = SubscriptionId(command.subscription);
        if client.has_subscription(id) {
            let message = format!("subscription {} is in use on this connection", id.0);
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let count = client.watches.len() + 1;
        check_count("a connection", "watches", count, cx.config.watches_max)?;
        let newcomer = Newcomer {
            connection: client.id,
            encoding: client.encoding,
            request: command.request,
            subscription: id,
        };
        let (topic, room) = self.presence.room(command.topic);
        room.newcomers.push(newcomer);
        self.presence.watches += 1;
        self.list_room(cx, &topic);
        cx.connections[connection as usize]
            .watches
            .push((id, topic));
        cx.touch_connection(connection);
        Ok(())
    }

    /// Tells who is present on a topic now.
    pub(crate) fn read_presence(
        &self,
        cx: &mut Context,
        connection: u32,
        command: &ReadPresence<'_>,
    ) -> Result<(), Refusal> {
        let client = &cx.connections[connection as usize];
        require(client, Rights::PRESENCE, "see who is present")?;
        check_name(command.topic)?;
        let max = cx.config.presence_page_max;
        let members_max = command.members_max.unwrap_or(max).clamp(1, max);
        let after = command.after.map(|token| {
            Who::from_token(token).ok_or_else(|| {
                let message = format!("\"after\" must be the \"next\" of a page, not \"{token}\"");
                Refusal::new(ErrorCode::InvalidArgument, message)
            })
        });
        let after = after.transpose()?;
        let page = self
            .presence
            .page(cx, command.topic, after.as_ref(), members_max);
        let reply = page.reply(command.request, command.topic);
        cx.reply(connection, After::default(), &reply);
        Ok(())
    }

    /// Ends the watch of a connection; whether there was one with this number.
    pub(crate) fn unwatch_presence(
        &mut self,
        cx: &mut Context,
        connection: u32,
        id: SubscriptionId,
    ) -> bool {
        let client = &mut cx.connections[connection as usize];
        let Some(place) = client.watches.iter().position(|(other, _)| *other == id) else {
            return false;
        };
        let (_, topic) = client.watches.remove(place);
        let client = client.id;
        cx.touch_connection(connection);
        self.remove_watch(cx, &topic, client, id);
        true
    }

    /// A connection is gone, and with it where it was present and what it watched.
    pub(crate) fn lose_presence(&mut self, cx: &mut Context, connection: &Connection) {
        if connection.places.is_empty() && connection.watches.is_empty() {
            return;
        }
        let is_known = connection.seen_at != Timestamp(0);
        let silent_ms = cx.now.since_ms(connection.seen_at);
        let change = if is_known && silent_ms >= cx.config.presence_ms {
            Change::Timeout
        } else {
            Change::Leave
        };
        for (id, topic) in &connection.watches {
            self.remove_watch(cx, topic, connection.id, *id);
        }
        let who = Who::of(&connection.claims, connection.id);
        for topic in &connection.places {
            self.part_from(cx, topic, &who, connection.id, change);
        }
    }

    /// A device goes on through another connection and is present through that one from now on, as far as that may.
    pub(crate) fn hand_over_presence(&mut self, cx: &mut Context, former: u32, connection: u32) {
        let client = &cx.connections[connection as usize];
        let (id, who) = (client.id, Who::of(&client.claims, client.id));
        let may_enter = client.claims.rights.contains(TO_ENTER);
        let left = cx
            .config
            .presences_max
            .saturating_sub(client.places.len() as u64);
        let places = &mut cx.connections[former as usize].places;
        let count = if may_enter {
            left.min(places.len() as u64)
        } else {
            0
        };
        let taken: Vec<Arc<str>> = places.drain(..count as usize).collect();
        for topic in &taken {
            let (_, room) = self.presence.room(topic);
            if let Some(member) = room.members.get_mut(&who) {
                member.connection = id;
                let data = member.data.clone();
                room.note(cx, &who, id, Change::Update, &data);
            }
            self.list_room(cx, topic);
        }
        cx.connections[connection as usize].places.extend(taken);
        for index in [former, connection] {
            cx.touch_connection(index);
            cx.watch_silence(index);
        }
    }

    /// Removes a member, if it is present through this connection.
    fn part_from(
        &mut self,
        cx: &mut Context,
        topic: &str,
        who: &Who,
        connection: ConnectionId,
        change: Change,
    ) {
        let Some((name, room)) = self.presence.rooms.get_key_value(topic) else {
            return;
        };
        let is_there = |member: &Member| member.connection == connection;
        if !room.members.get(who).is_some_and(is_there) {
            return;
        }
        let name = name.clone();
        let (_, room) = self.presence.room(topic);
        room.remove(who);
        room.note(cx, who, connection, change, &[]);
        self.presence.members -= 1;
        match change {
            Change::Timeout => cx.counters.presence_timeouts += 1,
            _ => cx.counters.presence_leaves += 1,
        }
        self.list_room(cx, &name);
    }

    fn remove_watch(
        &mut self,
        cx: &mut Context,
        topic: &Arc<str>,
        connection: ConnectionId,
        id: SubscriptionId,
    ) {
        let Some(room) = self.presence.rooms.get_mut(topic) else {
            return;
        };
        // One that began in this batch is not there yet; it still gets its answer.
        room.watchers.remove(&(connection, id));
        self.presence.watches -= 1;
        self.list_room(cx, topic);
    }

    fn list_room(&mut self, cx: &mut Context, topic: &Arc<str>) {
        let Some(room) = self.presence.rooms.get_mut(topic) else {
            return;
        };
        if !core::mem::replace(&mut room.listed, true) {
            if self.presence.news.is_empty() {
                cx.presence_news.push(self.index);
            }
            self.presence.news.push(topic.clone());
        }
    }
}

impl Namespace {
    /// Tells what happened on topics in this batch, and who is there to whom began to watch.
    pub(crate) fn tell_presence(&mut self, cx: &mut Context) {
        for topic in core::mem::take(&mut self.presence.news) {
            let Some(room) = self.presence.rooms.get_mut(&topic) else {
                continue;
            };
            room.listed = false;
            let watchers = room.watchers.iter();
            let to =
                |((connection, id), encoding): (&(ConnectionId, SubscriptionId), &Encoding)| {
                    (*connection, *encoding, u64::from(id.0))
                };
            let to: Vec<_> = watchers.map(to).collect();
            for events in core::mem::take(&mut room.events) {
                let events = PresenceEvents {
                    subscription: 0,
                    events: List::new(&events),
                };
                send_to_all(cx, &Reply::PresenceEvents(events), &to);
            }
            self.welcome_watchers(cx, &topic);
            let room = self.presence.rooms.get(&topic);
            if room.is_some_and(|room| room.members.is_empty() && room.watchers.is_empty()) {
                self.presence.rooms.remove(&topic);
            }
        }
    }

    fn welcome_watchers(&mut self, cx: &mut Context, topic: &Arc<str>) {
        let Some(room) = self.presence.rooms.get_mut(topic) else {
            return;
        };
        let mut to = Vec::with_capacity(room.newcomers.len());
        for newcomer in core::mem::take(&mut room.newcomers) {
            let Newcomer {
                connection,
                encoding,
                request,
                subscription,
            } = newcomer;
            let Some(index) = cx.connection_index.get(&connection) else {
                continue;
            };
            to.push((connection, encoding, request));
            let watches = &cx.connections[*index as usize].watches;
            if watches
                .iter()
                .any(|(id, other)| (*id, other) == (subscription, topic))
            {
                room.watchers.insert((connection, subscription), encoding);
            }
        }
        if !to.is_empty() {
            let page = self
                .presence
                .page(cx, topic, None, cx.config.presence_page_max);
            send_to_all(cx, &page.reply(0, topic), &to);
        }
    }

    /// Takes back where a stored connection was present. Nobody is told: it may still be there.
    pub(crate) fn restore_presence(&mut self, id: ConnectionId, dormant: &Dormant) {
        let who = Who::of(&dormant.claims, id);
        for place in &dormant.places {
            let (_, room) = self.presence.room(&place.topic);
            let member = Member {
                connection: id,
                since: place.since,
                data: place.data.clone(),
            };
            // No rows that were written together name a device twice.
            if !room.members.contains_key(&who) {
                room.insert(who.clone(), member);
                self.presence.members += 1;
            }
        }
    }

    /// A stored connection is there again: where it was present it still is, unless its device has come back through
    /// another one meanwhile. What it watched it goes on to watch if nothing that it was told is lost.
    pub(crate) fn revive_presence(
        &mut self,
        cx: &mut Context,
        connection: u32,
        dormant: (Vec<DormantPlace>, Vec<(SubscriptionId, Box<str>)>),
    ) {
        let (places, watches) = dormant;
        let client = &mut cx.connections[connection as usize];
        let who = Who::of(&client.claims, client.id);
        for place in &places {
            let Some((topic, room)) = self.presence.rooms.get_key_value(&*place.topic) else {
                continue;
            };
            let is_own = |member: &Member| member.connection == client.id;
            if room.members.get(&who).is_some_and(is_own) && !client.is_present(topic) {
                client.places.push(topic.clone());
            }
        }
        for (id, topic) in watches {
            if !client.has_subscription(id) {
                let (topic, room) = self.presence.room(&topic);
                room.watchers.insert((client.id, id), client.encoding);
                client.watches.push((id, topic));
                self.presence.watches += 1;
            }
        }
        if client.places.len() < places.len() {
            cx.touch_connection(connection);
        }
        cx.watch_silence(connection);
    }

    /// A stored connection did not come back.
    pub(crate) fn forget_presence(
        &mut self,
        cx: &mut Context,
        id: ConnectionId,
        dormant: &Dormant,
        change: Change,
    ) {
        let who = Who::of(&dormant.claims, id);
        for place in &dormant.places {
            self.part_from(cx, &place.topic, &who, id, change);
        }
    }

    /// What is stored of a connection's place on a topic: since when, and what it says of itself.
    pub(crate) fn place_of(
        &self,
        connection: &Connection,
        topic: &str,
    ) -> Option<(Timestamp, &[u8])> {
        let who = Who::of(&connection.claims, connection.id);
        let member = self.presence.rooms.get(topic)?.members.get(&who)?;
        Some((member.since, &member.data))
    }
}

#[cfg(any(test, feature = "check"))]
impl Presence {
    /// Asserts what must hold between batches.
    pub(crate) fn check_invariants<'a>(
        &self,
        connections: impl Iterator<Item = &'a Connection> + Clone,
    ) {
        assert!(self.news.is_empty(), "everything was told");
        let (mut members, mut watches) = (0, 0);
        for (topic, room) in &self.rooms {
            assert!(room.events.is_empty() && room.newcomers.is_empty() && !room.listed);
            assert!(!room.members.is_empty() || !room.watchers.is_empty());
            members += room.members.len();
            watches += room.watchers.len();
            let mut users: Vec<&str> = room.members.keys().map(|who| &*who.user).collect();
            users.retain(|user| !user.is_empty());
            users.dedup();
            assert_eq!(
                room.users,
                users.len() as u64,
                "the users of {topic} are counted"
            );
        }
        assert_eq!(
            (self.members, self.watches),
            (members as u64, watches as u64)
        );
        let mut held = 0;
        for connection in connections.clone() {
            let who = Who::of(&connection.claims, connection.id);
            for topic in &connection.places {
                let member = self.rooms[topic].members.get(&who);
                assert!(member.is_some_and(|member| member.connection == connection.id));
            }
            for (id, topic) in &connection.watches {
                assert!(
                    self.rooms[topic]
                        .watchers
                        .contains_key(&(connection.id, *id))
                );
            }
            held += connection.places.len();
        }
        assert_eq!(held, members, "every member has its connection");
        assert_eq!(
            connections.map(|one| one.watches.len()).sum::<usize>(),
            watches
        );
    }
}

/// Sends a frame to many, each with its own number in the place of the first field, which is 0.
fn send_to_all(cx: &mut Context, reply: &Reply<'_>, to: &[(ConnectionId, Encoding, u64)]) {
    let mut frame = Vec::new();
    reply.encode(&mut frame);
    let mut reader = Reader::new(&frame);
    let body = reader.bytes().expect("a frame has its length in front");
    let (kind, body) = (body[0], &body[2..]);
    let layout = Reply::LAYOUTS.iter().find(|(other, ..)| *other == kind);
    let (_, name, layout) = layout.expect("every frame has a layout");
    for encoding in [Encoding::Binary, Encoding::Json] {
        let mut recipients = Vec::new();
        let mut prefixes = Vec::new();
        for (connection, _, number) in to.iter().filter(|(_, other, _)| *other == encoding) {
            match encoding {
                Encoding::Binary => put_prefix(kind, *number, body.len(), &mut prefixes),
                Encoding::Json => {
                    let first = layout.required[0].name;
                    let prefix = format!("{{\"type\":\"{name}\",\"{first}\":{number}");
                    prefixes.extend_from_slice(prefix.as_bytes());
                }
            }
            recipients.push(Recipient {
                connection: *connection,
                prefix_end: prefixes.len() as u32,
            });
        }
        if recipients.is_empty() {
            continue;
        }
        let mut rest = Vec::from(body);
        if encoding == Encoding::Json {
            rest.clear();
            put_json_members(layout, 1, &mut Reader::new(body), &mut rest)
                .expect("the broker's own frames are sound");
            rest.extend_from_slice(b"}\n");
        }
        cx.outbox
            .deliver(After::default(), recipients, prefixes, rest);
    }
}

/// Refuses to do `what` for a connection without the rights for it.
fn require(client: &Connection, wanted: Rights, what: &str) -> Result<(), Refusal> {
    if client.claims.rights.contains(wanted) {
        return Ok(());
    }
    let message = format!("this connection may not {what}");
    Err(Refusal::new(ErrorCode::Forbidden, message))
}

fn reply_done(cx: &mut Context, connection: u32, request: u64) {
    cx.reply(connection, After::default(), &Reply::Done(Done { request }));
}
