//! Connections whose sockets may outlive an incarnation: as they are stored, and as they are taken up again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::broker::Broker;
use crate::connection::Connection;
use crate::effect::{After, CloseCode, Op};
use crate::error::ErrorCode;
use crate::ids::{ConnectionId, Partition, SubscriptionId, Timestamp};
use crate::input::{Claims, Encoding, Rights};
use crate::limit::TokenBucket;
use crate::namespace::Namespace;
use crate::protocol::frame::{Reply, Resync};
use crate::rows::ROW_VERSION;
use crate::subscription::{OnLag, Options, Subscription};
use crate::topic::check_filter;
use crate::wire::{Malformed, Put as _, Reader};

/// A connection as it was stored, until its socket is found to be alive or not.
#[derive(Debug)]
pub(crate) struct Dormant {
    pub(crate) namespace: u32,
    pub(crate) encoding: Encoding,
    pub(crate) claims: Claims,
    pub(crate) network: Box<str>,
    pub(crate) bucket: Option<Box<TokenBucket>>,
    pub(crate) subscriptions: Vec<DormantSubscription>,
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
            subscriptions,
        } = dormant;
        let now = self.cx.now;
        let mut connection = Connection::new(id, namespace, encoding, claims, network, now);
        connection.bucket = bucket;
        if let Some(bucket) = &mut connection.bucket {
            bucket.begin(now);
        }
        connection.greeted = true;
        connection.stored = true;
        // The host may say when it was heard of, as long as this batch lasts.
        connection.seen_at = Timestamp(0);
        let index = self.insert_connection(connection);
        // Where one that was behind stands is not stored with every delivery; its client knows.
        let behind = subscriptions.iter().any(|stored| stored.is_behind);
        if !clean || behind {
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
        }
    }

    /// Forgets the stored connections whose sockets were not named before the first flush.
    pub(crate) fn forget_dormant(&mut self) {
        for (id, dormant) in core::mem::take(&mut self.restoring.dormant) {
            let Some(dormant) = dormant else {
                continue;
            };
            let key = self.namespaces[dormant.namespace as usize]
                .keys
                .connection(id);
            self.cx.ops.push(Op::Delete { key });
        }
    }
}

/// The version of the row of a connection whose address is known or whose bucket is kept.
const CONNECTION_VERSION: u64 = 2;

/// Spells a connection's row.
pub(crate) fn connection_row(connection: &Connection, namespace: &Namespace) -> Vec<u8> {
    let bucket = connection.bucket.as_deref();
    let bucket = bucket.filter(|bucket| bucket.rule.is_slow());
    let is_limited = !connection.network.is_empty() || bucket.is_some();
    let mut value = Vec::new();
    value.put_u64(if is_limited {
        CONNECTION_VERSION
    } else {
        ROW_VERSION
    });
    value.push(matches!(connection.encoding, Encoding::Json).into());
    value.put_bytes(connection.claims.user.as_bytes());
    value.put_bytes(connection.claims.device.as_bytes());
    value.push(connection.claims.rights.0);
    if is_limited {
        value.put_bytes(connection.network.as_bytes());
        let mut row = Vec::new();
        if let Some(bucket) = bucket {
            bucket.put(&mut row);
        }
        value.put_bytes(&row);
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

pub(crate) fn read_connection(
    namespace: u32,
    name: &str,
    value: &[u8],
) -> Result<Dormant, Malformed> {
    let mut reader = Reader::new(value);
    let version = reader.u64()?;
    if ![ROW_VERSION, CONNECTION_VERSION].contains(&version) {
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
    if version == CONNECTION_VERSION {
        network = reader.str()?;
        let mut row = Reader::new(reader.bytes()?);
        if !row.is_empty() {
            bucket = Some(Box::new(TokenBucket::read(&mut row)?));
            row.end()?;
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
        subscriptions,
    })
}
