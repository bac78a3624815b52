//! The vocabulary: every command, every reply, and the items of their lists, declared once. The structures, both
//! directions of the binary codec and the layouts that the JSON transcoder works from are made from this table.
//!
//! A frame is a length, a kind (one byte), the required fields in order, then the optional fields that are there,
//! by rising tag, each with its length, so that a reader passes over those it does not know.

use alloc::vec::Vec;

use super::field::{
    Field, FieldSpec, Headers, Item, Layout, List, Strings, put_optional, skip_optionals,
    take_optional,
};
use crate::wire::{Malformed, Put, Reader, put_framed, varint_len};

/// Declares structures with their fields; `; ` parts the required from the optional.
macro_rules! layouts {
    ($life:lifetime $(
        $(#[$doc:meta])* $name:ident $(<$param:lifetime>)? {
            $($(#[$rdoc:meta])* $rname:ident: $rtype:ty,)*
            $(; $($(#[$odoc:meta])* $tag:literal $oname:ident: $otype:ty,)*)?
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name $(<$param>)? {
            $($(#[$rdoc])* pub $rname: $rtype,)*
            $($($(#[$odoc])* pub $oname: Option<$otype>,)*)?
        }

        impl<$life> Item<$life> for $name $(<$param>)? {
            const LAYOUT: Layout = Layout {
                required: &[$(FieldSpec {
                    name: stringify!($rname),
                    kind: <$rtype as Field<$life>>::KIND,
                },)*],
                optional: &[$($(($tag, FieldSpec {
                    name: stringify!($oname),
                    kind: <$otype as Field<$life>>::KIND,
                }),)*)?],
            };

            #[allow(unused_variables)]
            fn put_fields(&self, out: &mut Vec<u8>) {
                $(self.$rname.put(out);)*
                $($(if let Some(value) = &self.$oname {
                    put_optional($tag, value, out);
                })*)?
            }

            #[allow(unused_mut)]
            fn take_fields(reader: &mut Reader<$life>) -> Result<Self, Malformed> {
                $(let $rname = Field::take(reader)?;)*
                let mut last = 0;
                // Mostly the field is not there, which needs no call.
                $($(let $oname = match reader.rest().first() {
                    Some(next) if *next <= $tag => take_optional($tag, &mut last, reader)?,
                    _ => None,
                };)*)?
                skip_optionals(last, reader)?;
                Ok(Self { $($rname,)* $($($oname,)*)? })
            }
        }
    )*};
}

/// Declares an enum of frames with their kinds and names.
macro_rules! frames {
    ($life:lifetime $(#[$doc:meta])* $frames:ident {
        $($(#[$vdoc:meta])* $kind:literal $text:literal $name:ident $(<$param:lifetime>)?,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $frames<$life> {
            $($(#[$vdoc])* $name($name $(<$param>)?),)*
        }

        impl<$life> $frames<$life> {
            /// Kind, JSON `type` and fields of every frame of this direction.
            pub const LAYOUTS: &'static [(u8, &'static str, Layout)] = &[
                $(($kind, $text, <$name as Item<'static>>::LAYOUT),)*
            ];

            /// Appends the frame, its length in front.
            pub fn encode(&self, out: &mut Vec<u8>) {
                put_framed(out, 0, |out| match self {
                    $(Self::$name(fields) => {
                        out.push($kind);
                        fields.put_fields(out);
                    })*
                });
            }

            /// Reads a frame without its length.
            pub fn decode(body: &$life [u8]) -> Result<Self, FrameError> {
                let mut reader = Reader::new(body);
                match reader.u8().map_err(|_| FrameError::Malformed)? {
                    $($kind => Item::take_fields(&mut reader)
                        .map(Self::$name)
                        .map_err(|_| FrameError::Malformed),)*
                    kind => Err(FrameError::UnknownKind(kind)),
                }
            }
        }
    };
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The fields do not spell what their kind asks for.
    Malformed,
    /// The kind is not known to this version.
    UnknownKind(u8),
}

/// The version that this vocabulary is.
pub const PROTOCOL_VERSION: u64 = 1;

/// The WebSocket subprotocol of the binary encoding.
pub const SUBPROTOCOL_BINARY: &str = "dunlin.v1.binary";

/// The WebSocket subprotocol of the JSON encoding, also assumed where a client names none.
pub const SUBPROTOCOL_JSON: &str = "dunlin.v1.json";

frames! { 'a
    /// What a client says.
    Command {
        /// Opens the conversation; the first frame of every connection.
        1 "hello" Hello<'a>,
        /// Publishes one message.
        2 "publish" Publish<'a>,
        /// Publishes several, all or nothing.
        3 "publish_batch" PublishBatch<'a>,
        /// Asks for the messages of all topics that match.
        4 "subscribe" Subscribe<'a>,
        /// Ends a subscription.
        5 "unsubscribe" Unsubscribe,
        /// Allows more deliveries; has no reply unless it is refused.
        6 "credit" Credit,
        /// Reads stored messages.
        7 "read" Read<'a>,
        /// Creates a topic or changes its configuration.
        8 "configure_topic" ConfigureTopic<'a>,
        /// Asks for a topic's configuration and extent.
        9 "describe_topic" DescribeTopic<'a>,
        /// Asks for topic names.
        10 "list_topics" ListTopics<'a>,
        /// Deletes a topic and its messages.
        11 "delete_topic" DeleteTopic<'a>,
        /// Asks for a sign of life from the broker itself.
        12 "ping" Ping,
        /// Asks for the next part of an archive of the namespace.
        13 "export" Export,
        /// Gives the next part of an archive that becomes the namespace.
        14 "import" Import<'a>,
        /// Publishes a message that asks for an answer.
        15 "request" Request<'a>,
        /// Answers a request.
        16 "respond" Respond<'a>,
        /// Asks for the messages that wait for their time.
        17 "list_scheduled" ListScheduled<'a>,
        /// Takes back a message that waits for its time.
        18 "cancel_scheduled" CancelScheduled,
        /// Sets a rate limit, or removes it.
        19 "configure_limit" ConfigureLimit<'a>,
        /// Asks for the rate limits.
        20 "list_limits" ListLimits,
        /// Creates a consumer group or changes its configuration.
        21 "configure_group" ConfigureGroup<'a>,
        /// Becomes a member of a consumer group, which is created if there is none.
        22 "join" Join<'a>,
        /// Lets go of the partitions that an assignment took away; has no reply unless it is refused.
        23 "rebalanced" Rebalanced,
        /// Moves committed offsets forward.
        24 "commit" Commit<'a>,
        /// Says that leased messages are done.
        25 "ack" Ack<'a>,
        /// Gives leased messages back, to be delivered again.
        26 "nack" Nack<'a>,
        /// Gives leased messages up as dead letters.
        27 "reject" Reject<'a>,
        /// Asks for more time with leased messages.
        28 "extend" Extend<'a>,
        /// Moves a group to another place in its topics.
        29 "reset_group" ResetGroup<'a>,
        /// Stops a group's deliveries, or lets them go on.
        30 "pause_group" PauseGroup<'a>,
        /// Asks for a group's configuration, members and lag.
        31 "describe_group" DescribeGroup<'a>,
        /// Asks for group names.
        32 "list_groups" ListGroups<'a>,
        /// Deletes a group, its positions and its dead letters.
        33 "delete_group" DeleteGroup<'a>,
        /// Reads a group's dead letters.
        34 "read_dead_letters" ReadDeadLetters<'a>,
        /// Delivers dead letters to their group again.
        35 "replay_dead_letters" ReplayDeadLetters<'a>,
        /// Deletes dead letters.
        36 "delete_dead_letters" DeleteDeadLetters<'a>,
        /// Publishes, acknowledges and commits, all or nothing.
        37 "transact" Transact<'a>,
        /// Creates a routing rule or changes one.
        38 "configure_rule" ConfigureRule<'a>,
        /// Deletes a routing rule.
        39 "delete_rule" DeleteRule<'a>,
        /// Names the routing rules.
        40 "list_rules" ListRules,
        /// Asks what the routing rules would make of a message, which is not published.
        41 "explain" Explain<'a>,
        /// Makes the connection that of its device's session, which is begun if there is none.
        42 "open_session" OpenSession<'a>,
        /// Says how far a subscription of the session was taken.
        43 "ack_session" AckSession,
        /// Reads what waits for the session of the connection's device, without taking it.
        44 "read_mailbox" ReadMailbox,
        /// Ends the session of the connection's device.
        45 "end_session" EndSession,
        /// Asks for the devices of a user.
        46 "list_devices" ListDevices<'a>,
        /// Closes the connections of a user's device, or of all of them, and ends their sessions.
        47 "kick" Kick<'a>,
        /// Is present on a topic from now on, or changes what it says of itself there.
        48 "enter" Enter<'a>,
        /// Is not present on a topic any more.
        49 "leave" Leave<'a>,
        /// Asks who is present on a topic, and to be told of every change.
        50 "watch_presence" WatchPresence<'a>,
        /// Asks who is present on a topic.
        51 "read_presence" ReadPresence<'a>,
        /// Asks whether a user is online, and when it was last seen.
        52 "describe_user" DescribeUser<'a>,
        /// Asks who is online.
        53 "list_users" ListUsers<'a>,
        /// Creates the namespace, or changes its quotas.
        54 "configure_namespace" ConfigureNamespace,
        /// Asks what the namespace may have, has, and used.
        55 "describe_namespace" DescribeNamespace,
        /// Deletes the namespace and everything in it, and closes its connections.
        56 "delete_namespace" DeleteNamespace,
        /// Asks for the names of the namespaces that this broker stores.
        57 "list_namespaces" ListNamespaces<'a>,
    }
}

frames! { 'a
    /// What the broker says.
    Reply {
        /// Answers `hello`.
        129 "hello" Welcome<'a>,
        /// Answers `publish`.
        130 "receipt" Receipt<'a>,
        /// Answers `publish_batch`.
        131 "receipts" Receipts<'a>,
        /// Answers `subscribe`.
        132 "subscribed" Subscribed<'a>,
        /// Answers a command that has nothing else to tell.
        133 "ok" Done,
        /// Answers a command that was refused; request 0 where no command can be named.
        134 "error" Failed<'a>,
        /// Brings a message to a subscription.
        135 "delivery" Delivery<'a>,
        /// Tells a subscription which messages it will not get.
        136 "gap" Gap<'a>,
        /// Tells that the broker ended a subscription.
        137 "ended" Ended<'a>,
        /// Answers `read`.
        138 "page" Page<'a>,
        /// Answers `configure_topic` and `describe_topic`.
        139 "topic" TopicDescription<'a>,
        /// Answers `list_topics`.
        140 "topics" Topics<'a>,
        /// Answers `ping`.
        141 "pong" Pong,
        /// Asks the client to subscribe again from the positions it knows; the broker lost its subscriptions.
        142 "resync" Resync,
        /// Tells that the broker stops; the close follows.
        143 "going_away" GoingAway,
        /// Answers `export`.
        144 "archive_part" ArchivePart<'a>,
        /// Answers `import`.
        145 "imported" Imported,
        /// Answers `request`, with what was said in `respond`.
        146 "response" Response<'a>,
        /// Answers `list_scheduled`.
        147 "scheduled" Scheduled<'a>,
        /// Answers `list_limits`.
        148 "limits" Limits<'a>,
        /// Answers `configure_group` and `describe_group`.
        149 "group" GroupDescription<'a>,
        /// Answers `join`.
        150 "joined" Joined<'a>,
        /// Answers `ack`, `nack`, `reject` and `extend`.
        151 "settled" Settled<'a>,
        /// Answers `list_groups`.
        152 "groups" Groups<'a>,
        /// Answers `read_dead_letters`.
        153 "dead_letters" DeadLetters<'a>,
        /// Answers `replay_dead_letters` and `delete_dead_letters`.
        154 "affected" Affected,
        /// Tells a member which partitions it has got, and which it is to let go of.
        155 "assignment" Assignment<'a>,
        /// The routing rules.
        156 "rules" Rules<'a>,
        /// What the routing rules would make of a message.
        157 "explanation" Explanation<'a>,
        /// Answers `transact`.
        158 "transacted" Transacted<'a>,
        /// Answers `open_session`.
        159 "session" SessionDescription<'a>,
        /// Answers `read_mailbox`.
        160 "mailbox" Mailbox<'a>,
        /// Answers `list_devices`.
        161 "devices" Devices<'a>,
        /// Answers `describe_user`.
        162 "user" UserDescription<'a>,
        /// Answers `list_users`.
        163 "users" Users<'a>,
        /// Answers `watch_presence` and `read_presence`.
        164 "presence" PresencePage<'a>,
        /// Tells a watch who came, went and changed.
        165 "presence_event" PresenceEvents<'a>,
        /// A namespace: its quotas, what it has, and what it used by day.
        166 "namespace" NamespaceDescription<'a>,
        /// Names of namespaces.
        167 "namespaces" Namespaces<'a>,
    }
}

layouts! { 'a
    /// See [`Command::Hello`].
    Hello<'a> {
        /// The version that the client speaks.
        version: u64,
        ;
        /// What the client is, for logs.
        1 client: &'a str,
        /// The connection ends with its first commands; nothing of it is kept. For adapters like HTTP.
        2 ephemeral: bool,
        /// Which of its own messages its subscriptions hear: `all` (the default), those of others than this
        /// `connection`, or than this `device`.
        3 echo: &'a str,
    }

    /// See [`Command::Publish`].
    Publish<'a> {
        /// The number that the reply carries.
        request: u64,
        /// Where to.
        topic: &'a str,
        /// What.
        payload: &'a [u8],
        ;
        /// Orders messages of one key, and picks the partition.
        1 key: &'a str,
        /// The media type of the payload.
        2 content_type: &'a str,
        /// Ordered pairs that travel with the message.
        3 headers: Headers<'a>,
        /// The publisher's name for the message.
        4 id: &'a str,
        /// Not delivered later than so many milliseconds from now.
        5 ttl_ms: u64,
        /// Published so many milliseconds from now.
        6 delay_ms: u64,
        /// Published at this time, in milliseconds since the Unix epoch; one that is past is now.
        7 deliver_at: u64,
        /// `none`, `async` or `sync`; the stronger of this and the topic's holds.
        8 durability: &'a str,
        /// How long it may wait for a rate limit, in milliseconds; without it, not at all.
        9 wait_ms: u64,
        /// Who publishes, for [`Publish::producer_sequence`]; only together with it.
        10 producer: &'a str,
        /// The producer's number of the message, rising by 1; published once for ever, however often it is sent.
        11 producer_sequence: u64,
        /// From 0 (the default) to 4, which queues deal out first; only on topics with the ordering `none`.
        12 priority: u64,
    }

    /// See [`Command::PublishBatch`].
    PublishBatch<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The messages, at least one.
        messages: List<'a, Message<'a>>,
        ;
        /// As in `publish`, for the whole batch.
        8 durability: &'a str,
        /// As in `publish`, for the whole batch.
        9 wait_ms: u64,
    }

    /// One message of a batch; the fields are those of `publish`.
    Message<'a> {
        /// Where to.
        topic: &'a str,
        /// What.
        payload: &'a [u8],
        ;
        /// Orders messages of one key, and picks the partition.
        1 key: &'a str,
        /// The media type of the payload.
        2 content_type: &'a str,
        /// Ordered pairs that travel with the message.
        3 headers: Headers<'a>,
        /// The publisher's name for the message.
        4 id: &'a str,
        /// Not delivered later than so many milliseconds from now.
        5 ttl_ms: u64,
        /// Published so many milliseconds from now.
        6 delay_ms: u64,
        /// Published at this time, in milliseconds since the Unix epoch; one that is past is now.
        7 deliver_at: u64,
        /// Who publishes, for [`Message::producer_sequence`]; only together with it.
        10 producer: &'a str,
        /// The producer's number of the message, rising by 1; published once for ever, however often it is sent.
        11 producer_sequence: u64,
        /// From 0 (the default) to 4, which queues deal out first; only on topics with the ordering `none`.
        12 priority: u64,
    }

    /// See [`Command::Subscribe`].
    Subscribe<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The client's number for the subscription, not in use on this connection.
        subscription: u32,
        /// A topic name, or a pattern with `+` and `#`.
        filter: &'a str,
        ;
        /// Where to begin: `latest` (the default), `earliest`, `offset:N`, `timestamp:MS`, `last:N`,
        /// `resume:TOKEN:SEQUENCE`, `session`, `session:TOKEN:SEQUENCE`.
        1 from: &'a str,
        /// How many deliveries are allowed to begin with; without it, any number at any time.
        2 credit: u64,
        /// `drop_oldest` (the default), `drop_newest`, `block` or `close`.
        3 on_lag: &'a str,
        /// How many messages it may be behind before the policy acts.
        4 lag_max: u64,
        /// Only this partition of the one topic.
        5 partition: u32,
    }

    /// See [`Command::Unsubscribe`].
    Unsubscribe {
        /// The number that the reply carries.
        request: u64,
        /// The subscription to end.
        subscription: u32,
    }

    /// See [`Command::Credit`].
    Credit {
        /// The subscription that may get more.
        subscription: u32,
        /// So many more deliveries.
        messages: u64,
    }

    /// See [`Command::Read`].
    Read<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The topic.
        topic: &'a str,
        /// The partition.
        partition: u32,
        ;
        /// `earliest` (the default), `offset:N`, `timestamp:MS`, `last:N`.
        1 from: &'a str,
        /// At most so many messages.
        2 messages_max: u64,
        /// Stop after the message with which the page exceeds this; one message is always returned.
        3 bytes_max: u64,
    }

    /// See [`Command::ConfigureTopic`]. What is left out stays, or takes the default for a new topic.
    ConfigureTopic<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The topic.
        topic: &'a str,
        ;
        /// `live`, `log`, `last_value` or `compacted`; fixed once the topic exists.
        1 kind: &'a str,
        /// `none`, `per_key`, `per_topic` or `global`; fixed once the topic exists.
        2 ordering: &'a str,
        /// How many; fixed once the topic exists.
        3 partitions: u32,
        /// `none`, `async` or `sync`.
        4 durability: &'a str,
        /// Keep at most so many messages a partition; 0 for no bound.
        5 max_messages: u64,
        /// Keep at most so many bytes a partition; 0 for no bound.
        6 max_bytes: u64,
        /// Keep messages so long; 0 for no bound.
        7 max_age_ms: u64,
        /// Messages with the same id within so many milliseconds are duplicates; 0 for none.
        8 dedup_ms: u64,
    }

    /// See [`Command::DescribeTopic`].
    DescribeTopic<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The topic.
        topic: &'a str,
    }

    /// See [`Command::ListTopics`].
    ListTopics<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// Only those that match; `#` if left out.
        1 filter: &'a str,
        /// Only those after this name, in byte order.
        2 after: &'a str,
        /// At most so many.
        3 topics_max: u64,
    }

    /// See [`Command::DeleteTopic`].
    DeleteTopic<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The topic.
        topic: &'a str,
    }

    /// See [`Command::Ping`].
    Ping {
        /// The number that the reply carries.
        request: u64,
    }

    /// See [`Command::Export`].
    Export {
        /// The number that the reply carries.
        request: u64,
        /// The export to go on with, 0 to begin one.
        export: u64,
        /// Which part, from 0; each once, in order.
        part: u64,
    }

    /// See [`Command::Import`].
    Import<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The import to go on with, 0 to begin one.
        import: u64,
        /// Which part, from 0; in order.
        part: u64,
        /// Whether the archive ends with it; then it becomes the namespace.
        last: bool,
        /// The next bytes of the archive, cut wherever it suits.
        bytes: &'a [u8],
    }

    /// See [`Command::Request`].
    Request<'a> {
        /// The number that the reply carries.
        request: u64,
        /// Where to.
        topic: &'a str,
        /// What.
        payload: &'a [u8],
        ;
        /// See [`Publish::key`].
        1 key: &'a str,
        /// See [`Publish::content_type`].
        2 content_type: &'a str,
        /// See [`Publish::headers`].
        3 headers: Headers<'a>,
        /// See [`Publish::id`]; it is only carried.
        4 id: &'a str,
        /// How long to wait for an answer; 30,000 if left out.
        5 timeout_ms: u64,
    }

    /// See [`Command::Respond`].
    Respond<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The request, by the number that its delivery has.
        reply_to: u64,
        /// The answer.
        payload: &'a [u8],
        ;
        /// See [`Publish::content_type`].
        2 content_type: &'a str,
        /// See [`Publish::headers`].
        3 headers: Headers<'a>,
    }

    /// See [`Command::ListScheduled`].
    ListScheduled<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// Only those for topics that match; `#` if left out.
        1 filter: &'a str,
        /// Only those that are published after this one, which still waits.
        2 after: u64,
        /// At most so many.
        3 scheduled_max: u64,
    }

    /// See [`Command::CancelScheduled`].
    CancelScheduled {
        /// The number that the reply carries.
        request: u64,
        /// The message.
        schedule_id: u64,
    }

    /// See [`Command::ConfigureLimit`].
    ConfigureLimit<'a> {
        /// The number that the reply carries.
        request: u64,
        /// Whom it limits: `namespace`, `topic`, `connection`, `subscriber`, `user` or `ip`.
        scope: &'a str,
        /// Which topic, user or address; empty for every one that has no limit by name.
        name: &'a str,
        ;
        /// So many messages; without it, the limit is removed.
        1 rate: u64,
        /// In so many milliseconds; 1000 if left out.
        2 per_ms: u64,
        /// So many at once; as many as `rate` if left out.
        3 burst: u64,
        /// Whether the rate follows how well the namespace keeps up.
        4 adaptive: bool,
    }

    /// See [`Command::ListLimits`].
    ListLimits {
        /// The number that the reply carries.
        request: u64,
    }

    /// See [`Command::ConfigureGroup`]. What is left out stays, or takes the default for a new group.
    ConfigureGroup<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
        ;
        /// `queue` (the default) or `partitioned`; fixed once the group exists.
        1 kind: &'a str,
        /// `sticky` (the default), `round_robin`, `range` or `consistent_hash`.
        2 strategy: &'a str,
        /// Topics and patterns that the group reads, in addition to those that it reads already.
        3 filters: Strings<'a>,
        /// Where it begins in topics that exist: `earliest` (the default), `latest`, `timestamp:MS`.
        4 from: &'a str,
        /// How long a member has for a message of a queue.
        5 ack_deadline_ms: u64,
        /// How often a message is delivered before it is a dead letter.
        6 max_delivery_attempts: u32,
        /// How long a message waits before it is delivered again: `none`, `fixed`, `linear` or `exponential`.
        7 retry: &'a str,
        /// The first wait.
        8 retry_ms: u64,
        /// The longest wait.
        9 retry_ms_max: u64,
        /// How long a member may be silent.
        10 session_ms: u64,
        /// How long a member may take to let go of a partition.
        11 rebalance_ms: u64,
        /// How many dead letters raise an event; 0 for none.
        12 dead_letters_alert: u64,
    }

    /// See [`Command::Join`].
    Join<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The client's number for the deliveries, not in use on this connection.
        subscription: u32,
        /// The group.
        group: &'a str,
        /// What this member takes: topic names and patterns.
        filters: Strings<'a>,
        ;
        /// See [`ConfigureGroup::kind`].
        1 kind: &'a str,
        /// See [`ConfigureGroup::strategy`].
        2 strategy: &'a str,
        /// See [`ConfigureGroup::from`].
        3 from: &'a str,
        /// A name that outlives the connection: whoever joins under it takes its place.
        4 member: &'a str,
        /// Of a partitioned group: how many deliveries are allowed to begin with; without it, any number.
        5 credit: u64,
        /// Of a queue: how many messages it holds leases for at most.
        6 max_in_flight: u64,
    }

    /// See [`Command::Rebalanced`].
    Rebalanced {
        /// The membership.
        subscription: u32,
        /// The assignment's.
        generation: u64,
    }

    /// See [`Command::Commit`].
    Commit<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The membership.
        subscription: u32,
        /// The newest that the member was told.
        generation: u64,
        /// Where to read on.
        offsets: List<'a, Position<'a>>,
    }

    /// A place in a partition.
    Position<'a> {
        /// The topic.
        topic: &'a str,
        /// The partition.
        partition: u32,
        /// The next offset to read.
        offset: u64,
    }

    /// See [`Command::Ack`].
    Ack<'a> {
        /// The number that the reply carries.
        request: u64,
        /// What is done.
        leases: List<'a, Lease>,
    }

    /// A lease by its number, as the delivery had it.
    Lease {
        /// The number.
        lease: u64,
    }

    /// See [`Command::Nack`].
    Nack<'a> {
        /// The number that the reply carries.
        request: u64,
        /// What is given back.
        leases: List<'a, Lease>,
        ;
        /// How long it waits, in the place of what the group's configuration says.
        1 delay_ms: u64,
    }

    /// See [`Command::Reject`].
    Reject<'a> {
        /// The number that the reply carries.
        request: u64,
        /// What is given up.
        leases: List<'a, Lease>,
        ;
        /// Why, for who looks at the dead letter.
        1 reason: &'a str,
    }

    /// See [`Command::Extend`].
    Extend<'a> {
        /// The number that the reply carries.
        request: u64,
        /// What needs more time.
        leases: List<'a, Lease>,
        ;
        /// How long from now; the group's deadline if left out.
        1 extend_ms: u64,
    }

    /// See [`Command::ResetGroup`].
    ResetGroup<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
        /// `earliest`, `latest`, `offset:N` or `timestamp:MS`.
        to: &'a str,
        ;
        /// Only this topic.
        1 topic: &'a str,
        /// Only this partition of the one topic.
        2 partition: u32,
    }

    /// See [`Command::PauseGroup`].
    PauseGroup<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
        /// Whether it is to stand still.
        paused: bool,
    }

    /// See [`Command::DescribeGroup`].
    DescribeGroup<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
    }

    /// See [`Command::ListGroups`].
    ListGroups<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// Only those after this name, in byte order.
        1 after: &'a str,
        /// At most so many.
        2 groups_max: u64,
    }

    /// See [`Command::DeleteGroup`].
    DeleteGroup<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
    }

    /// See [`Command::ReadDeadLetters`].
    ReadDeadLetters<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
        ;
        /// The first offset among the dead letters.
        1 from_offset: u64,
        /// At most so many.
        2 messages_max: u64,
        /// Only those whose topic matches.
        3 filter: &'a str,
        /// Only those that died of this.
        4 reason: &'a str,
    }

    /// See [`Command::ReplayDeadLetters`].
    ReplayDeadLetters<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
        ;
        /// Which; all if left out.
        1 offsets: List<'a, DeadOffset>,
        /// So many a second; at once if left out.
        2 rate: u64,
    }

    /// See [`Command::DeleteDeadLetters`].
    DeleteDeadLetters<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The group.
        group: &'a str,
        ;
        /// Which; all if left out.
        1 offsets: List<'a, DeadOffset>,
    }

    /// See [`Command::Transact`]. At least one of the lists has an item.
    Transact<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// What is published.
        1 messages: List<'a, Message<'a>>,
        /// What is acknowledged.
        2 leases: List<'a, Lease>,
        /// What is committed.
        3 offsets: List<'a, Commitment<'a>>,
        /// As in `publish`, for all of it.
        4 durability: &'a str,
        /// As in `publish`, for the messages.
        5 wait_ms: u64,
    }

    /// An offset that a member commits in a transaction; the fields are those of `commit`.
    Commitment<'a> {
        /// The membership.
        subscription: u32,
        /// The newest that the member was told.
        generation: u64,
        /// The topic.
        topic: &'a str,
        /// The partition.
        partition: u32,
        /// The next offset to read.
        offset: u64,
    }

    /// See [`Command::ConfigureRule`]. What is left out stays, or takes the default for a new rule.
    ConfigureRule<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The rule.
        rule: &'a str,
        ;
        /// For messages to topics that match; a new rule needs it.
        1 filter: &'a str,
        /// All of these must hold; none if left out.
        2 when: List<'a, RuleCondition<'a>>,
        /// What is done, in this order; a new rule needs it.
        3 then: List<'a, RuleAction<'a>>,
        /// Rules take their turns by rising numbers, and by name where these are equal; 0 if left out.
        4 order: u32,
        /// Whether it acts; true if left out.
        5 enabled: bool,
    }

    /// What of a message a rule looks at, and what it must be.
    RuleCondition<'a> {
        /// `key`, `id`, `content_type`, `header:NAME`, or `json:` and a JSON Pointer into the payload.
        part: &'a str,
        /// `exists`, `missing`, `equals`, `differs`, `begins_with`, `ends_with`, `contains`, `below` or `above`.
        test: &'a str,
        ;
        /// What it is compared with; a number for `below` and `above`.
        1 value: &'a str,
    }

    /// What a rule does with a message.
    RuleAction<'a> {
        /// `copy`, `move`, `set_header`, `remove_header` or `drop`.
        action: &'a str,
        ;
        /// Where to, for `copy` and `move`: a name in which `{1}` is what the first wildcard of the filter matches, and
        /// so on, and `{0}` the message's topic.
        1 topic: &'a str,
        /// Which header.
        2 header: &'a str,
        /// What `set_header` gives it.
        3 value: &'a str,
    }

    /// See [`Command::DeleteRule`].
    DeleteRule<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The rule.
        rule: &'a str,
    }

    /// See [`Command::ListRules`].
    ListRules {
        /// The number that the reply carries.
        request: u64,
    }

    /// See [`Command::Explain`].
    Explain<'a> {
        /// The number that the reply carries.
        request: u64,
        /// See [`Publish::topic`].
        topic: &'a str,
        /// See [`Publish::payload`].
        payload: &'a [u8],
        ;
        /// See [`Publish::key`].
        1 key: &'a str,
        /// See [`Publish::content_type`].
        2 content_type: &'a str,
        /// See [`Publish::headers`].
        3 headers: Headers<'a>,
        /// See [`Publish::id`].
        4 id: &'a str,
    }

    /// The place of a dead letter among those of its group.
    DeadOffset {
        /// The offset.
        offset: u64,
    }

    /// See [`Command::OpenSession`].
    OpenSession<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// See [`SessionDescription::token`], if the client knows one.
        1 token: &'a str,
    }

    /// See [`Command::AckSession`].
    AckSession {
        /// The number that the reply carries.
        request: u64,
        /// A subscription from `session`.
        subscription: u32,
        /// Everything up to this sequence was taken.
        sequence: u64,
    }

    /// See [`Command::ReadMailbox`].
    ReadMailbox {
        /// The number that the reply carries.
        request: u64,
        ;
        /// Only what comes after this sequence.
        1 after: u64,
        /// At most so many.
        2 messages_max: u64,
    }

    /// See [`Command::EndSession`].
    EndSession {
        /// The number that the reply carries.
        request: u64,
    }

    /// See [`Command::ListDevices`].
    ListDevices<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// Whose; the connection's own user if left out.
        1 user: &'a str,
        /// Only those after this name, in byte order.
        2 after: &'a str,
        /// At most so many.
        3 devices_max: u64,
    }

    /// See [`Command::Kick`].
    Kick<'a> {
        /// The number that the reply carries.
        request: u64,
        /// Whose device.
        user: &'a str,
        ;
        /// Which; all of the user's if left out.
        1 device: &'a str,
        /// What the close of the connections says, for people.
        2 reason: &'a str,
    }

    /// See [`Command::DescribeUser`].
    DescribeUser<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The user.
        user: &'a str,
    }

    /// See [`Command::ListUsers`].
    ListUsers<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// Only those after this name, in byte order.
        1 after: &'a str,
        /// At most so many.
        2 users_max: u64,
    }

    /// See [`Command::Enter`].
    Enter<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The topic, which need not exist.
        topic: &'a str,
        ;
        /// What the others are shown; none if left out or empty.
        1 data: &'a [u8],
    }

    /// See [`Command::Leave`].
    Leave<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The topic.
        topic: &'a str,
    }

    /// See [`Command::WatchPresence`].
    WatchPresence<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The client's number for the events, not in use on this connection.
        subscription: u32,
        /// The topic.
        topic: &'a str,
    }

    /// See [`Command::ReadPresence`].
    ReadPresence<'a> {
        /// The number that the reply carries.
        request: u64,
        /// The topic.
        topic: &'a str,
        ;
        /// Only those after the page with this `next`.
        1 after: &'a str,
        /// At most so many.
        2 members_max: u64,
    }

    /// See [`Command::ConfigureNamespace`].
    ConfigureNamespace {
        /// The number that the reply carries.
        request: u64,
        ;
        /// How many messages may be published a second; 0 for any number, here and below.
        1 publish_rate: u64,
        /// How many bytes of payloads may be published a second.
        2 bytes_rate: u64,
        /// How many subscriptions and memberships of groups there may be.
        3 subscriptions_max: u64,
        /// How many topics there may be.
        4 topics_max: u64,
        /// How many connections there may be.
        5 connections_max: u64,
        /// How large a payload may be.
        6 payload_bytes_max: u64,
        /// How many bytes of messages may be stored.
        7 stored_bytes_max: u64,
    }

    /// See [`Command::DescribeNamespace`].
    DescribeNamespace {
        /// The number that the reply carries.
        request: u64,
        ;
        /// The usage of so many days, today included; none if left out.
        1 days: u64,
    }

    /// See [`Command::DeleteNamespace`].
    DeleteNamespace {
        /// The number that the reply carries.
        request: u64,
    }

    /// See [`Command::ListNamespaces`].
    ListNamespaces<'a> {
        /// The number that the reply carries.
        request: u64,
        ;
        /// Only those after this name, in byte order.
        1 after: &'a str,
        /// At most so many.
        2 namespaces_max: u64,
    }

    /// See [`Reply::Welcome`].
    Welcome<'a> {
        /// The version that the broker speaks.
        version: u64,
        /// The life of the namespace that this is.
        incarnation: u64,
        /// The connection's number.
        connection: u64,
        /// The broker's time in milliseconds since the Unix epoch.
        now: u64,
        /// What the broker can do beyond version 1's first words.
        features: Strings<'a>,
        ;
        /// The largest payload, in bytes.
        1 payload_bytes_max: u64,
        /// The largest message on the socket, in bytes.
        2 inbound_bytes_max: u64,
        /// The most messages in a batch.
        3 batch_messages_max: u64,
        /// The most messages in a page.
        4 read_messages_max: u64,
        /// The most credit that a subscription can hold.
        5 credit_max: u64,
        /// The most subscriptions on a connection.
        6 subscriptions_max: u64,
    }

    /// See [`Reply::Receipt`].
    Receipt<'a> {
        /// The command's number.
        request: u64,
        /// The partition that took the message.
        partition: u32,
        /// Its place there.
        offset: u64,
        /// Its place in the namespace.
        sequence: u64,
        /// Whether it was published before and not stored again; the place is that of the first, or sequence 0 where
        /// that is not remembered any more.
        duplicate: bool,
        ;
        /// The number of a message that waits for its time; it has no place yet, so that is all 0.
        1 schedule_id: u64,
        /// Where to, if routing rules published it to another topic.
        2 topic: &'a str,
    }

    /// See [`Reply::Receipts`].
    Receipts<'a> {
        /// The command's number.
        request: u64,
        /// A place for each message, in their order.
        receipts: List<'a, Place<'a>>,
    }

    /// One message's place in a [`Receipts`].
    Place<'a> {
        /// The partition that took the message.
        partition: u32,
        /// Its place there.
        offset: u64,
        /// Its place in the namespace.
        sequence: u64,
        /// Whether it was published before and not stored again; the place is that of the first, or sequence 0 where
        /// that is not remembered any more.
        duplicate: bool,
        ;
        /// The number of a message that waits for its time; it has no place yet, so that is all 0.
        1 schedule_id: u64,
        /// Where to, if routing rules published it to another topic.
        2 topic: &'a str,
    }

    /// See [`Reply::Subscribed`].
    Subscribed<'a> {
        /// The command's number.
        request: u64,
        /// The subscription.
        subscription: u32,
        /// With the sequence of the last delivery, the place to resume from.
        token: &'a str,
        /// The sequence after which deliveries come, to resume from while there was none.
        sequence: u64,
    }

    /// See [`Reply::Done`].
    Done {
        /// The command's number.
        request: u64,
    }

    /// See [`Reply::Failed`].
    Failed<'a> {
        /// The command's number, 0 where no command can be named.
        request: u64,
        /// The stable code.
        code: &'a str,
        /// What, which and what to do, for people.
        message: &'a str,
        ;
        /// When trying again may help.
        1 retry_after_ms: u64,
    }

    /// See [`Reply::Delivery`].
    Delivery<'a> {
        /// The subscription.
        subscription: u32,
        /// The message's topic.
        topic: &'a str,
        /// Its partition.
        partition: u32,
        /// Its place in the partition.
        offset: u64,
        /// Its place in the namespace.
        sequence: u64,
        /// When it was published, in milliseconds since the Unix epoch.
        timestamp: u64,
        /// What was published.
        payload: &'a [u8],
        ;
        /// See [`Publish::key`].
        1 key: &'a str,
        /// See [`Publish::content_type`].
        2 content_type: &'a str,
        /// See [`Publish::headers`].
        3 headers: Headers<'a>,
        /// See [`Publish::id`].
        4 id: &'a str,
        /// When it stops to be delivered, in milliseconds since the Unix epoch.
        5 expires_at: u64,
        /// Where it can be answered, see [`Respond`].
        6 reply_to: u64,
        /// See [`Publish::priority`]; left out where it is 0.
        7 priority: u64,
        /// Of a queue: the number to acknowledge it with.
        8 lease: u64,
        /// Of a queue: which delivery of the message this is, from 1.
        9 attempt: u32,
    }

    /// See [`Reply::Gap`]. Sequences above `after` up to and with `to` are missing where the filter matches.
    Gap<'a> {
        /// The subscription.
        subscription: u32,
        /// `trimmed` (retention), `dropped` (the policy for lag), `mailbox_full` (more came than a session keeps),
        /// `truncated` (lost in a crash) or `unreadable`.
        reason: &'a str,
        /// The last sequence before the gap.
        after: u64,
        /// The last sequence of the gap.
        to: u64,
        ;
        /// How many messages, where that is known.
        1 count: u64,
        /// The topic, where the gap lies in one partition.
        2 topic: &'a str,
        /// The partition.
        3 partition: u32,
        /// The first missing offset.
        4 from_offset: u64,
        /// The first offset after the gap.
        5 to_offset: u64,
    }

    /// See [`Reply::Ended`].
    Ended<'a> {
        /// The subscription.
        subscription: u32,
        /// The stable code of the reason.
        code: &'a str,
        /// What happened, for people.
        message: &'a str,
    }

    /// See [`Reply::Page`].
    Page<'a> {
        /// The command's number.
        request: u64,
        /// The first offset that is kept.
        log_start_offset: u64,
        /// The offset that the next message will get.
        log_end_offset: u64,
        /// Where to read on.
        next_offset: u64,
        /// The messages.
        records: List<'a, Record<'a>>,
    }

    /// A message as it is stored.
    Record<'a> {
        /// Its place in the partition.
        offset: u64,
        /// Its place in the namespace.
        sequence: u64,
        /// When it was published, in milliseconds since the Unix epoch.
        timestamp: u64,
        /// What was published.
        payload: &'a [u8],
        ;
        /// See [`Publish::key`].
        1 key: &'a str,
        /// See [`Publish::content_type`].
        2 content_type: &'a str,
        /// See [`Publish::headers`].
        3 headers: Headers<'a>,
        /// See [`Publish::id`].
        4 id: &'a str,
        /// When it stops to be delivered, in milliseconds since the Unix epoch.
        5 expires_at: u64,
        /// Where it can be answered, see [`Respond`].
        6 reply_to: u64,
        /// See [`Publish::priority`]; left out where it is 0.
        7 priority: u64,
    }

    /// See [`Reply::TopicDescription`].
    TopicDescription<'a> {
        /// The command's number.
        request: u64,
        /// The topic.
        topic: &'a str,
        /// See [`ConfigureTopic::kind`].
        kind: &'a str,
        /// See [`ConfigureTopic::ordering`].
        ordering: &'a str,
        /// See [`ConfigureTopic::durability`].
        durability: &'a str,
        /// See [`ConfigureTopic::max_messages`].
        max_messages: u64,
        /// See [`ConfigureTopic::max_bytes`].
        max_bytes: u64,
        /// See [`ConfigureTopic::max_age_ms`].
        max_age_ms: u64,
        /// The extent of every partition, by index.
        partitions: List<'a, Extent>,
        ;
        /// See [`ConfigureTopic::dedup_ms`].
        1 dedup_ms: u64,
    }

    /// One partition in a [`TopicDescription`].
    Extent {
        /// The first offset that is kept.
        log_start_offset: u64,
        /// The offset that the next message will get.
        log_end_offset: u64,
        /// How many bytes are kept.
        size_bytes: u64,
    }

    /// See [`Reply::Topics`].
    Topics<'a> {
        /// The command's number.
        request: u64,
        /// Names in byte order.
        topics: Strings<'a>,
        /// Whether there are more after the last.
        more: bool,
    }

    /// See [`Reply::Pong`].
    Pong {
        /// The command's number.
        request: u64,
        /// The broker's time in milliseconds since the Unix epoch.
        now: u64,
    }

    /// See [`Reply::Resync`].
    Resync {}

    /// See [`Reply::ArchivePart`].
    ArchivePart<'a> {
        /// The command's number.
        request: u64,
        /// The export, to go on with.
        export: u64,
        /// Which part it is.
        part: u64,
        /// Whether the archive ends with it.
        last: bool,
        /// The next bytes of the archive.
        bytes: &'a [u8],
    }

    /// See [`Reply::Imported`].
    Imported {
        /// The command's number.
        request: u64,
        /// The import, to go on with.
        import: u64,
        /// Which part was taken.
        part: u64,
        /// How many rows were read so far.
        rows: u64,
    }

    /// See [`Reply::Response`].
    Response<'a> {
        /// The command's number.
        request: u64,
        /// The answer.
        payload: &'a [u8],
        ;
        /// See [`Publish::content_type`].
        2 content_type: &'a str,
        /// See [`Publish::headers`].
        3 headers: Headers<'a>,
    }

    /// See [`Reply::Scheduled`].
    Scheduled<'a> {
        /// The command's number.
        request: u64,
        /// The messages, in the order in which they will be published.
        scheduled: List<'a, ScheduledMessage<'a>>,
        /// Whether there are more after the last.
        more: bool,
    }

    /// See [`Reply::GroupDescription`].
    GroupDescription<'a> {
        /// The command's number.
        request: u64,
        /// The group.
        group: &'a str,
        /// See [`ConfigureGroup::kind`].
        kind: &'a str,
        /// See [`ConfigureGroup::strategy`].
        strategy: &'a str,
        /// How often the partitions were dealt out anew.
        generation: u64,
        /// Whether it stands still.
        paused: bool,
        /// See [`ConfigureGroup::filters`].
        filters: Strings<'a>,
        /// See [`ConfigureGroup::ack_deadline_ms`].
        ack_deadline_ms: u64,
        /// See [`ConfigureGroup::max_delivery_attempts`].
        max_delivery_attempts: u32,
        /// See [`ConfigureGroup::retry`].
        retry: &'a str,
        /// See [`ConfigureGroup::retry_ms`].
        retry_ms: u64,
        /// See [`ConfigureGroup::retry_ms_max`].
        retry_ms_max: u64,
        /// See [`ConfigureGroup::session_ms`].
        session_ms: u64,
        /// See [`ConfigureGroup::rebalance_ms`].
        rebalance_ms: u64,
        /// See [`ConfigureGroup::dead_letters_alert`].
        dead_letters_alert: u64,
        /// How many dead letters there are.
        dead_letters: u64,
        /// Who is in it.
        members: List<'a, GroupMember<'a>>,
        /// Where it stands.
        partitions: List<'a, GroupPartition<'a>>,
    }

    /// A member in a [`GroupDescription`].
    GroupMember<'a> {
        /// Its name.
        member: &'a str,
        /// Its connection, 0 while it has none.
        connection: u64,
        /// How many messages it holds leases for.
        in_flight: u64,
        /// How many partitions are its own.
        partitions: u64,
    }

    /// A partition in a [`GroupDescription`].
    GroupPartition<'a> {
        /// The topic.
        topic: &'a str,
        /// The partition.
        partition: u32,
        /// Everything below is done.
        committed_offset: u64,
        /// The offset that the next message will get.
        log_end_offset: u64,
        /// How many messages are not done.
        lag: u64,
        ;
        /// Whose it is.
        1 member: &'a str,
    }

    /// See [`Reply::Joined`].
    Joined<'a> {
        /// The command's number.
        request: u64,
        /// The subscription.
        subscription: u32,
        /// The member's name.
        member: &'a str,
        /// The newest that was dealt out.
        generation: u64,
        /// How often the member must be heard of; 0 if its connection says enough.
        heartbeat_ms: u64,
    }

    /// See [`Reply::Settled`].
    Settled<'a> {
        /// The command's number.
        request: u64,
        /// The leases that it did not apply to.
        failed: List<'a, FailedLease<'a>>,
    }

    /// A lease that is not, or not any more.
    FailedLease<'a> {
        /// Its number.
        lease: u64,
        /// The stable code.
        code: &'a str,
    }

    /// See [`Reply::Groups`].
    Groups<'a> {
        /// The command's number.
        request: u64,
        /// Names in byte order.
        groups: Strings<'a>,
        /// Whether there are more after the last.
        more: bool,
    }

    /// One message in a [`Scheduled`].
    ScheduledMessage<'a> {
        /// Its number, to cancel it.
        schedule_id: u64,
        /// Where to.
        topic: &'a str,
        /// When, in milliseconds since the Unix epoch.
        deliver_at: u64,
        /// The bytes of its payload, headers, key, id and content type.
        size_bytes: u64,
        ;
        /// See [`Publish::key`].
        1 key: &'a str,
        /// See [`Publish::id`].
        2 id: &'a str,
    }

    /// See [`Reply::Limits`].
    Limits<'a> {
        /// The command's number.
        request: u64,
        /// Those that hold, by scope and name.
        limits: List<'a, Limit<'a>>,
    }

    /// One rate limit in a [`Limits`].
    Limit<'a> {
        /// See [`ConfigureLimit::scope`].
        scope: &'a str,
        /// See [`ConfigureLimit::name`].
        name: &'a str,
        /// See [`ConfigureLimit::rate`].
        rate: u64,
        /// See [`ConfigureLimit::per_ms`].
        per_ms: u64,
        /// See [`ConfigureLimit::burst`].
        burst: u64,
        /// See [`ConfigureLimit::adaptive`].
        adaptive: bool,
        /// What its rate is multiplied by at the moment, in thousandths.
        factor: u64,
        /// Whether it is the broker's, since the namespace has none.
        inherited: bool,
    }

    /// See [`Reply::DeadLetters`].
    DeadLetters<'a> {
        /// The command's number.
        request: u64,
        /// Where to read on.
        next_offset: u64,
        /// Whether there may be more.
        more: bool,
        /// The messages, with headers that say how they died.
        records: List<'a, Record<'a>>,
    }

    /// See [`Reply::Affected`].
    Affected {
        /// The command's number.
        request: u64,
        /// How many.
        messages: u64,
    }

    /// See [`Reply::Assignment`].
    Assignment<'a> {
        /// The membership.
        subscription: u32,
        /// To be given with commits.
        generation: u64,
        /// What is the member's now, and where its deliveries begin.
        assigned: List<'a, Position<'a>>,
        /// What is not any more once the member says `rebalanced`.
        revoked: List<'a, Position<'a>>,
    }

    /// See [`Reply::Rules`].
    Rules<'a> {
        /// The command's number.
        request: u64,
        /// In the order of their turns.
        rules: List<'a, Rule<'a>>,
    }

    /// One routing rule.
    Rule<'a> {
        /// See [`ConfigureRule::rule`].
        rule: &'a str,
        /// Rises with every change of the rule, from 1.
        version: u64,
        /// See [`ConfigureRule::order`].
        order: u32,
        /// See [`ConfigureRule::enabled`].
        enabled: bool,
        /// See [`ConfigureRule::filter`].
        filter: &'a str,
        /// See [`ConfigureRule::when`].
        when: List<'a, RuleCondition<'a>>,
        /// See [`ConfigureRule::then`].
        then: List<'a, RuleAction<'a>>,
    }

    /// See [`Reply::Explanation`].
    Explanation<'a> {
        /// The command's number.
        request: u64,
        /// The rules for the message's topics, in the order in which they had their turns.
        steps: List<'a, RuleStep<'a>>,
        /// What would be published, the message itself first if anything is left of it; none if it is dropped.
        messages: List<'a, RoutedMessage<'a>>,
    }

    /// What a rule made of a message.
    RuleStep<'a> {
        /// The rule.
        rule: &'a str,
        /// The message's topic when it was the rule's turn.
        topic: &'a str,
        /// Whether it acted.
        applied: bool,
        /// What it did, or why nothing; for people.
        told: &'a str,
    }

    /// A message that rules would publish.
    RoutedMessage<'a> {
        /// Where to.
        topic: &'a str,
        ;
        /// Its headers.
        3 headers: Headers<'a>,
    }

    /// See [`Reply::Transacted`].
    Transacted<'a> {
        /// The command's number.
        request: u64,
        /// A place for each message, in their order.
        receipts: List<'a, Place<'a>>,
    }

    /// See [`Reply::SessionDescription`].
    SessionDescription<'a> {
        /// The command's number.
        request: u64,
        /// Names the session, to find out later whether it is still the same.
        token: &'a str,
        /// Whether it was there already, and is the one that the command named, if it named one.
        resumed: bool,
        /// How long it outlives the last connection of its device, in milliseconds.
        expires_ms: u64,
        /// What it hears.
        filters: List<'a, SessionFilter<'a>>,
    }

    /// A filter in a [`SessionDescription`].
    SessionFilter<'a> {
        /// The filter.
        filter: &'a str,
        /// About how many messages wait: never less than there are, up to the bound of a mailbox.
        waiting: u64,
    }

    /// See [`Reply::Mailbox`].
    Mailbox<'a> {
        /// The command's number.
        request: u64,
        /// How many messages wait, as in [`SessionFilter::waiting`], over all filters.
        waiting: u64,
        /// Whether there are more after the last.
        more: bool,
        /// The messages, by rising sequence.
        records: List<'a, MailboxRecord<'a>>,
    }

    /// A message in a [`Mailbox`]; the fields are those of [`Record`].
    MailboxRecord<'a> {
        /// The message's topic.
        topic: &'a str,
        /// Its partition.
        partition: u32,
        /// Its place in the partition.
        offset: u64,
        /// Its place in the namespace.
        sequence: u64,
        /// When it was published, in milliseconds since the Unix epoch.
        timestamp: u64,
        /// What was published.
        payload: &'a [u8],
        ;
        /// See [`Publish::key`].
        1 key: &'a str,
        /// See [`Publish::content_type`].
        2 content_type: &'a str,
        /// See [`Publish::headers`].
        3 headers: Headers<'a>,
        /// See [`Publish::id`].
        4 id: &'a str,
        /// When it stops to be delivered, in milliseconds since the Unix epoch.
        5 expires_at: u64,
        /// Where it can be answered, see [`Respond`].
        6 reply_to: u64,
        /// See [`Publish::priority`]; left out where it is 0.
        7 priority: u64,
    }

    /// See [`Reply::Devices`].
    Devices<'a> {
        /// The command's number.
        request: u64,
        /// By their names in byte order.
        devices: List<'a, DeviceDescription<'a>>,
        /// Whether there are more after the last.
        more: bool,
    }

    /// One device in a [`Devices`].
    DeviceDescription<'a> {
        /// Its user.
        user: &'a str,
        /// Its name.
        device: &'a str,
        /// Whether it has a connection.
        online: bool,
        /// When it was last heard of, or its last connection ended, in milliseconds since the Unix epoch.
        last_seen: u64,
        /// Whether it has a session.
        session: bool,
        /// How many messages wait for that, as in [`SessionFilter::waiting`], over all filters.
        waiting: u64,
    }

    /// See [`Reply::UserDescription`].
    UserDescription<'a> {
        /// The command's number.
        request: u64,
        /// The user.
        user: &'a str,
        /// Whether it has a connection.
        online: bool,
        /// When it was last heard of, in milliseconds since the Unix epoch; 0 where nobody remembers.
        last_seen: u64,
        /// How many connections it has.
        connections: u64,
        /// How many of its devices are remembered.
        devices: u64,
    }

    /// See [`Reply::Users`].
    Users<'a> {
        /// The command's number.
        request: u64,
        /// The names of users with connections, in byte order.
        users: Strings<'a>,
        /// Whether there are more after the last.
        more: bool,
        /// How many there are in all.
        online: u64,
    }

    /// See [`Reply::PresencePage`].
    PresencePage<'a> {
        /// The command's number.
        request: u64,
        /// The topic.
        topic: &'a str,
        /// Who is present, by user, device and connection.
        members: List<'a, PresenceMember<'a>>,
        /// Whether there are more after the last.
        more: bool,
        /// How many members are present on the topic.
        present: u64,
        /// How many different users they are of.
        users: u64,
        ;
        /// Where there are more: what `after` of the next page is.
        1 next: &'a str,
    }

    /// A member in a [`PresencePage`].
    PresenceMember<'a> {
        /// Its user, or empty.
        user: &'a str,
        /// The user's device, or empty.
        device: &'a str,
        /// The connection through which it is present.
        connection: u64,
        /// When it came, in milliseconds since the Unix epoch.
        since: u64,
        ;
        /// See [`Enter::data`].
        1 data: &'a [u8],
    }

    /// See [`Reply::PresenceEvents`].
    PresenceEvents<'a> {
        /// The watch.
        subscription: u32,
        /// What happened, in order.
        events: List<'a, PresenceEvent<'a>>,
    }

    /// One change in a [`PresenceEvents`].
    PresenceEvent<'a> {
        /// `join`, `leave`, `timeout` or `update`.
        event: &'a str,
        /// See [`PresenceMember::user`].
        user: &'a str,
        /// See [`PresenceMember::device`].
        device: &'a str,
        /// See [`PresenceMember::connection`].
        connection: u64,
        /// When, in milliseconds since the Unix epoch.
        at: u64,
        ;
        /// See [`Enter::data`]; of `join` and `update`.
        1 data: &'a [u8],
    }

    /// See [`Reply::NamespaceDescription`].
    NamespaceDescription<'a> {
        /// The command's number.
        request: u64,
        /// Its name.
        namespace: &'a str,
        /// See [`ConfigureNamespace::publish_rate`].
        publish_rate: u64,
        /// See [`ConfigureNamespace::bytes_rate`].
        bytes_rate: u64,
        /// See [`ConfigureNamespace::subscriptions_max`].
        subscriptions_max: u64,
        /// See [`ConfigureNamespace::topics_max`].
        topics_max: u64,
        /// See [`ConfigureNamespace::connections_max`].
        connections_max: u64,
        /// See [`ConfigureNamespace::payload_bytes_max`].
        payload_bytes_max: u64,
        /// See [`ConfigureNamespace::stored_bytes_max`].
        stored_bytes_max: u64,
        /// How many bytes of messages are stored.
        stored_bytes: u64,
        /// How many connections there are.
        connections: u64,
        /// How many subscriptions and memberships there are.
        subscriptions: u64,
        /// How many topics there are.
        topics: u64,
        /// The newest day first; days on which nothing happened are left out.
        usage: List<'a, DayUsage>,
    }

    /// What a namespace used on a day.
    DayUsage {
        /// The day, in days since the Unix epoch.
        day: u64,
        /// How many messages were published.
        messages: u64,
        /// How many bytes of payloads they had.
        bytes: u64,
        /// How many messages were delivered, to each subscription and member.
        deliveries: u64,
        /// The most connections at a time.
        connections: u64,
        /// The most bytes of messages that were stored.
        stored_bytes: u64,
    }

    /// See [`Reply::Namespaces`].
    Namespaces<'a> {
        /// The command's number.
        request: u64,
        /// Names in byte order.
        namespaces: Strings<'a>,
        /// Whether there are more after the last.
        more: bool,
    }

    /// See [`Reply::GoingAway`].
    GoingAway {
        /// Connect again after so long.
        reconnect_after_ms: u64,
    }
}

/// Appends the start of a delivery frame for `subscription` whose remaining fields take `body_bytes`.
pub(crate) fn put_delivery_prefix(subscription: u32, body_bytes: usize, out: &mut Vec<u8>) {
    put_prefix(DELIVERY, subscription.into(), body_bytes, out);
}

/// Appends the start of a frame: its kind and its first field, an integer. The remaining fields take `body_bytes`.
pub(crate) fn put_prefix(kind: u8, first: u64, body_bytes: usize, out: &mut Vec<u8>) {
    let length = 1 + varint_len(first) + body_bytes;
    out.put_u64(length as u64);
    out.push(kind);
    out.put_u64(first);
}

/// The kind of [`Reply::Delivery`].
pub(crate) const DELIVERY: u8 = 135;
