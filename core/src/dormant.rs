//! Connections whose sockets may outlive an incarnation: as they are stored, and as they are taken up again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::broker::Broker;
use crate::connection::Connection;
use crate::echo::Source;
use crate::effect::{After, CloseCode, Op};
use crate::error::ErrorCode;
use crate::ids::{ConnectionId, Partition, SubscriptionId, Timestamp};
use crate::input::{Claims, Encoding, Rights};
use crate::limit::TokenBucket;
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::presence::Change;
use crate::protocol::frame::{Reply, Resync};
use crate::rows::ROW_VERSION;
use crate::subscription::{OnLag, Options, Subscription};
use crate::topic::{check_filter, check_name};
use crate::wire::{Malformed, Put as _, Reader, put_framed};

/// A connection as it was stored, until its socket is found to be alive or not.
#[derive(Debug)]
pub(crate) struct Dormant {
    pub(crate) namespace: u32,
    pub(crate) encoding: Encoding,
    pub(crate) claims: Claims,
    pub(crate) network: Box<str>,
    pub(crate) bucket: Option<Box<TokenBucket>>,
    pub(crate) places: Vec<DormantPlace>,
    pub(crate) watches: Vec<(SubscriptionId, Box<str>)>,
    /// The subscriptions of its session, if it has one.
    pub(crate) session: Option<Vec<SubscriptionId>>,
    pub(crate) source: Option<Source>,
    pub(crate) subscriptions: Vec<DormantSubscription>,
}

/// Where a connection was present, since when, and what it said of itself.
#[derive(Debug)]
pub(crate) struct DormantPlace {
    pub(crate) topic: Box<str>,
    pub(crate) since: Timestamp,
    pub(crate) data: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct DormantSubscription {
    pub(crate) id: SubscriptionId,
    pub(crate) filter: Box<str>,
    pub(crate) options: Options,
    pub(crate) partition: Option<Partition>,
    pub(crate) is_behind: bool,
}

impl Broker {
    /// Takes up a connection whose socket outlived the previous incarnation.
    pub(crate) fn revive(&mut self, id: ConnectionId, clean: bool) {
        if self.cx.connection_index.contains(&id) {
            return;
        }
        let Some(dormant) = self.restoring.take_dormant(id) else {
            let message = "the broker does not know this connection any more; connect again";
            return self
                .cx
                .close(id, CloseCode::GoingAway, ErrorCode::OutOfState, message);
        };
        let Dormant {
            namespace,
            encoding,
            claims,
            network,
            bucket,
            places,
            watches,
            session,
            source,
            subscriptions,
        } = dormant;
        let now = self.cx.now;
        let mut connection = Connection::new(id, namespace, encoding, claims, network, now);
        connection.bucket = bucket;
        connection.source = source;
        if let Some(bucket) = &mut connection.bucket {
            bucket.begin(now);
        }
        connection.greeted = true;
        connection.stored = true;
        // The host may say when it was heard of, as long as this batch lasts.
        connection.seen_at = Timestamp(0);
        let index = self.insert_connection(connection);
        let home = &mut self.namespaces[namespace as usize];
        home.add_user(&mut self.cx, index);
        if session.is_some() {
            home.revive_session(&self.cx, index);
        }
        // Where one that was behind stands is not stored with every delivery; its client knows.
        let behind = subscriptions.iter().any(|stored| stored.is_behind);
        let is_told = clean && !behind;
        let watches = if is_told { watches } else { Vec::new() };
        let presence = (places, watches);
        self.namespaces[namespace as usize].revive_presence(&mut self.cx, index, presence);
        if !is_told {
            self.cx
                .reply(index, After::default(), &Reply::Resync(Resync {}));
            self.cx.touch_connection(index);
            return;
        }
        let namespace = &mut self.namespaces[namespace as usize];
        namespace.go_on();
        namespace.revive_members(&mut self.cx, index);
        for stored in subscriptions {
            let entry = namespace.subscriptions.vacant_key() as u32;
            let node = namespace.trie.insert(&stored.filter, entry);
            let serial = namespace.next_serial;
            namespace.next_serial += 1;
            namespace.subscriptions.insert(Subscription {
                connection: index,
                connection_id: id,
                id: stored.id,
                encoding,
                credit: stored.options.credit,
                after: After::default(),
                source,
                partition: stored.partition,
                bucket: None,
                paced_until: None,
                behind: None,
                options: stored.options,
                filter: stored.filter,
                node,
                serial,
                queued: false,
                starved: false,
            });
            self.cx.connections[index as usize].add_subscription(stored.id, entry);
            if session.as_ref().is_some_and(|own| own.contains(&stored.id)) {
                namespace.revive_cursor(&self.cx, index, entry);
            }
        }
    }

    /// Forgets the stored connections whose sockets were not named before the first flush.
    pub(crate) fn forget_dormant(&mut self) {
        let dormant = core::mem::take(&mut self.restoring.dormant);
        for (id, dormant) in &dormant {
            if let Some(dormant) = dormant {
                self.drop_dormant(*id, dormant, Change::Timeout);
            }
        }
    }

    /// Forgets a stored connection whose socket is known to be gone.
    pub(crate) fn forget_stored(&mut self, id: ConnectionId) {
        if let Some(dormant) = self.restoring.take_dormant(id) {
            self.drop_dormant(id, &dormant, Change::Leave);
        }
    }

    fn drop_dormant(&mut self, id: ConnectionId, dormant: &Dormant, change: Change) {
        let namespace = &mut self.namespaces[dormant.namespace as usize];
        namespace.forget_presence(&mut self.cx, id, dormant, change);
        let key = namespace.keys.connection(id);
        self.cx.ops.push(Op::Delete { key });
    }
}

/// The version of the row of a connection whose address is known or whose bucket is kept.
const LIMITED_VERSION: u64 = 2;

/// The version of the row of a connection that has more: a field after the other, by rising tag.
const TAGGED_VERSION: u64 = 3;

/// The tags of these fields.
const TAG_PLACES: u8 = 1;
const TAG_WATCHES: u8 = 2;
/// The subscriptions of its session; there where it has one.
const TAG_SESSION: u8 = 3;
/// Whose the messages are that it does not want to hear.
const TAG_SOURCE: u8 = 4;

/// Spells a connection's row.
pub(crate) fn connection_row(
    number: u32,
    connection: &Connection,
    namespace: &Namespace,
) -> Vec<u8> {
    let bucket = connection.bucket.as_deref();
    let bucket = bucket.filter(|bucket| bucket.rule.is_slow());
    let is_limited = !connection.network.is_empty() || bucket.is_some();
    let fields = tagged_fields(number, connection, namespace);
    let version = match (is_limited, fields.is_empty()) {
        (_, false) => TAGGED_VERSION,
        (true, true) => LIMITED_VERSION,
        (false, true) => ROW_VERSION,
    };
    let mut value = Vec::new();
    value.put_u64(version);
    value.push(matches!(connection.encoding, Encoding::Json).into());
    value.put_bytes(connection.claims.user.as_bytes());
    value.put_bytes(connection.claims.device.as_bytes());
    value.push(connection.claims.rights.0);
    if version >= LIMITED_VERSION {
        value.put_bytes(connection.network.as_bytes());
        let mut row = Vec::new();
        if let Some(bucket) = bucket {
            bucket.put(&mut row);
        }
        value.put_bytes(&row);
    }
    if version >= TAGGED_VERSION {
        value.put_bytes(&fields);
    }
    for (id, index) in &connection.subscriptions {
        let subscription = &namespace.subscriptions[*index as usize];
        value.put_u64(id.0.into());
        value.put_bytes(subscription.filter.as_bytes());
        value.put_u64(subscription.options.credit);
        value.put_u64(subscription.options.lag_max);
        value.push(subscription.options.on_lag as u8);
        value.put_u64(
            subscription
                .partition
                .map_or(0, |partition| u64::from(partition.0) + 1),
        );
        value.push(subscription.behind.is_some().into());
    }
    value
}

/// What not every connection has.
fn tagged_fields(number: u32, connection: &Connection, namespace: &Namespace) -> Vec<u8> {
    let mut fields = Vec::new();
    if !connection.places.is_empty() && !Mutation::PresenceNotStored.is_active() {
        fields.push(TAG_PLACES);
        put_framed(&mut fields, 0, |out| {
            for topic in &connection.places {
                let place = namespace.place_of(connection, topic);
                let (since, data) = place.expect("the connection is present there");
                out.put_bytes(topic.as_bytes());
                out.put_u64(since.0);
                out.put_bytes(data);
            }
        });
    }
    if !connection.watches.is_empty() {
        fields.push(TAG_WATCHES);
        put_framed(&mut fields, 0, |out| {
            for (id, topic) in &connection.watches {
                out.put_u64(id.0.into());
                out.put_bytes(topic.as_bytes());
            }
        });
    }
    if let Some(session) = namespace.session_of(number, connection) {
        fields.push(TAG_SESSION);
        put_framed(&mut fields, 0, |out| {
            for id in session.subscriptions() {
                out.put_u64(id.0.into());
            }
        });
    }
    if let Some(source) = connection.source {
        fields.push(TAG_SOURCE);
        put_framed(&mut fields, 0, |out| source.put(out));
    }
    fields
}

fn read_places(mut reader: Reader<'_>) -> Result<Vec<DormantPlace>, Malformed> {
    let mut places = Vec::new();
    while !reader.is_empty() {
        places.push(DormantPlace {
            topic: read_topic(&mut reader)?,
            since: Timestamp(reader.u64()?),
            data: reader.bytes()?.into(),
        });
    }
    Ok(places)
}

fn read_watches(mut reader: Reader<'_>) -> Result<Vec<(SubscriptionId, Box<str>)>, Malformed> {
    let mut watches = Vec::new();
    while !reader.is_empty() {
        let id = SubscriptionId(reader.u32()?);
        watches.push((id, read_topic(&mut reader)?));
    }
    Ok(watches)
}

fn read_session(mut reader: Reader<'_>) -> Result<Vec<SubscriptionId>, Malformed> {
    let mut own = Vec::new();
    while !reader.is_empty() {
        own.push(SubscriptionId(reader.u32()?));
    }
    Ok(own)
}

fn read_topic(reader: &mut Reader<'_>) -> Result<Box<str>, Malformed> {
    let topic = reader.str()?;
    check_name(topic).map_err(|_| Malformed)?;
    Ok(topic.into())
}

pub(crate) fn read_connection(
    namespace: u32,
    name: &str,
    value: &[u8],
) -> Result<Dormant, Malformed> {
    let mut reader = Reader::new(value);
    let version = reader.u64()?;
    if !(ROW_VERSION..=TAGGED_VERSION).contains(&version) {
        return Err(Malformed);
    }
    let encoding = if reader.u8()? == 0 {
        Encoding::Binary
    } else {
        Encoding::Json
    };
    let claims = Claims {
        namespace: name.into(),
        user: reader.str()?.into(),
        device: reader.str()?.into(),
        rights: Rights(reader.u8()?),
    };
    let mut network = "";
    let mut bucket = None;
    if version >= LIMITED_VERSION {
        network = reader.str()?;
        let mut row = Reader::new(reader.bytes()?);
        if !row.is_empty() {
            bucket = Some(Box::new(TokenBucket::read(&mut row)?));
            row.end()?;
        }
    }
    let (mut places, mut watches) = (Vec::new(), Vec::new());
    let (mut session, mut source) = (None, None);
    if version >= TAGGED_VERSION {
        let mut fields = Reader::new(reader.bytes()?);
        let mut last = 0;
        while !fields.is_empty() {
            let tag = fields.u8()?;
            let field = Reader::new(fields.bytes()?);
            match tag {
                _ if tag <= last => return Err(Malformed),
                TAG_PLACES => places = read_places(field)?,
                TAG_WATCHES => watches = read_watches(field)?,
                TAG_SESSION => session = Some(read_session(field)?),
                TAG_SOURCE => source = Some(Source::take(&mut { field })?),
                _ => return Err(Malformed),
            }
            last = tag;
        }
    }
    let mut subscriptions = Vec::new();
    while !reader.is_empty() {
        let id = SubscriptionId(reader.u32()?);
        let filter = reader.str()?;
        check_filter(filter).map_err(|_| Malformed)?;
        let credit = reader.u64()?;
        let lag_max = reader.u64()?;
        let on_lag = match reader.u8()? {
            0 => OnLag::DropOldest,
            1 => OnLag::DropNewest,
            2 => OnLag::Block,
            3 => OnLag::Close,
            _ => return Err(Malformed),
        };
        let partition = reader.u32()?.checked_sub(1).map(Partition);
        let is_behind = reader.u8()? != 0;
        let options = Options {
            credit,
            on_lag,
            lag_max,
        };
        subscriptions.push(DormantSubscription {
            id,
            filter: filter.into(),
            options,
            partition,
            is_behind,
        });
    }
    Ok(Dormant {
        namespace,
        encoding,
        claims,
        network: network.into(),
        bucket,
        places,
        watches,
        session,
        source,
        subscriptions,
    })
}
