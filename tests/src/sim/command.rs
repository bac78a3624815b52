//! What clients say, kept in a form that the model can reason about, and its bytes.

use std::sync::Arc;

use dunlin_core::Durability;
use dunlin_core::frame::{
    Command, ConfigureTopic, Credit, DeleteTopic, DescribeTopic, Headers, Hello, List, ListTopics,
    Message, Ping, Publish, PublishBatch, Read, Subscribe, Unsubscribe,
};

/// A message as its publisher made it. Its number stands in its payload, so that it is known wherever it turns up.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) namespace: usize,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) key: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) id: Option<String>,
    pub(super) ttl_ms: Option<u64>,
    pub(super) durability: Option<Durability>,
}

/// Where a reader asks to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Latest,
    Earliest,
    Offset(u64),
    Timestamp(u64),
    Last(u64),
    /// The token, the position, and which message the client saw at which sequence.
    Resume {
        token: String,
        sequence: u64,
        seen: Arc<Vec<(u64, usize)>>,
    },
}

impl Begin {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Earliest => "earliest".to_owned(),
            Self::Offset(offset) => format!("offset:{offset}"),
            Self::Timestamp(at) => format!("timestamp:{at}"),
            Self::Last(count) => format!("last:{count}"),
            Self::Resume {
                token, sequence, ..
            } => format!("resume:{token}:{sequence}"),
        }
    }
}

/// What a client asks of a subscription.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) filter: String,
    pub(super) begin: Begin,
    pub(super) credit: Option<u64>,
    pub(super) on_lag: &'static str,
    pub(super) lag_max: Option<u64>,
    pub(super) partition: Option<u32>,
}

/// One command.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Hello,
    Publish {
        message: usize,
    },
    Batch {
        messages: Vec<usize>,
        durability: Option<Durability>,
    },
    Subscribe {
        subscription: u32,
        wish: Wish,
    },
    Unsubscribe {
        subscription: u32,
    },
    Credit {
        subscription: u32,
        messages: u64,
    },
    Read {
        topic: String,
        partition: u32,
        begin: Begin,
        messages_max: u64,
    },
    Configure {
        topic: String,
        config: TopicWish,
    },
    Describe {
        topic: String,
    },
    List {
        filter: String,
    },
    Delete {
        topic: String,
    },
    Ping,
}

/// What a client asks of a topic.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicWish {
    pub(super) kind: Option<&'static str>,
    pub(super) ordering: Option<&'static str>,
    pub(super) partitions: Option<u32>,
    pub(super) durability: Option<&'static str>,
    pub(super) max_messages: Option<u64>,
    pub(super) max_age_ms: Option<u64>,
}

/// A command with its number.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) order: Order,
}

impl Request {
    /// Whether it changes what a topic is; such commands are given alone in a batch, so that the model need not
    /// guess in which order a batch was obeyed.
    pub(super) const fn changes_topics(&self) -> bool {
        matches!(self.order, Order::Configure { .. } | Order::Delete { .. })
    }

    /// Whether a reply will come even if all is well.
    pub(super) const fn wants_reply(&self) -> bool {
        !matches!(self.order, Order::Credit { .. })
    }

    /// Appends the frame.
    pub(super) fn encode(&self, drafts: &[Draft], out: &mut Vec<u8>) {
        let request = self.number;
        match &self.order {
            Order::Hello => Command::Hello(Hello {
                version: 1,
                client: Some("sim"),
                ephemeral: None,
            })
            .encode(out),
            Order::Publish { message } => {
                let draft = &drafts[*message];
                let headers = encode_headers(draft);
                Command::Publish(Publish {
                    request,
                    topic: &draft.topic,
                    payload: &draft.payload,
                    key: draft.key.as_deref(),
                    content_type: None,
                    headers: parse_headers(headers.as_deref()),
                    id: draft.id.as_deref(),
                    ttl_ms: draft.ttl_ms,
                    durability: draft.durability.map(word),
                })
                .encode(out);
            }
            Order::Batch {
                messages,
                durability,
            } => {
                let mut list = Vec::new();
                for message in messages {
                    let draft = &drafts[*message];
                    let headers = encode_headers(draft);
                    List::push(
                        &mut list,
                        &Message {
                            topic: &draft.topic,
                            payload: &draft.payload,
                            key: draft.key.as_deref(),
                            content_type: None,
                            headers: parse_headers(headers.as_deref()),
                            id: draft.id.as_deref(),
                            ttl_ms: draft.ttl_ms,
                        },
                    );
                }
                let durability = durability.map(word);
                Command::PublishBatch(PublishBatch {
                    request,
                    messages: List::new(&list),
                    durability,
                })
                .encode(out);
            }
            Order::Subscribe { subscription, wish } => {
                let from = wish.begin.text();
                Command::Subscribe(Subscribe {
                    request,
                    subscription: *subscription,
                    filter: &wish.filter,
                    from: Some(&from),
                    credit: wish.credit,
                    on_lag: Some(wish.on_lag),
                    lag_max: wish.lag_max,
                    partition: wish.partition,
                })
                .encode(out);
            }
            Order::Unsubscribe { subscription } => {
                Command::Unsubscribe(Unsubscribe {
                    request,
                    subscription: *subscription,
                })
                .encode(out);
            }
            Order::Credit {
                subscription,
                messages,
            } => {
                Command::Credit(Credit {
                    subscription: *subscription,
                    messages: *messages,
                })
                .encode(out);
            }
            Order::Read {
                topic,
                partition,
                begin,
                messages_max,
            } => {
                let from = begin.text();
                Command::Read(Read {
                    request,
                    topic,
                    partition: *partition,
                    from: Some(&from),
                    messages_max: Some(*messages_max),
                    bytes_max: None,
                })
                .encode(out);
            }
            Order::Configure { topic, config } => Command::ConfigureTopic(ConfigureTopic {
                request,
                topic,
                kind: config.kind,
                ordering: config.ordering,
                partitions: config.partitions,
                durability: config.durability,
                max_messages: config.max_messages,
                max_bytes: None,
                max_age_ms: config.max_age_ms,
            })
            .encode(out),
            Order::Describe { topic } => {
                Command::DescribeTopic(DescribeTopic { request, topic }).encode(out)
            }
            Order::List { filter } => Command::ListTopics(ListTopics {
                request,
                filter: Some(filter),
                after: None,
                topics_max: None,
            })
            .encode(out),
            Order::Delete { topic } => {
                Command::DeleteTopic(DeleteTopic { request, topic }).encode(out)
            }
            Order::Ping => Command::Ping(Ping { request }).encode(out),
        }
    }
}

/// The word for a level on the wire.
pub(super) const fn word(level: Durability) -> &'static str {
    match level {
        Durability::None => "none",
        Durability::Async => "async",
        Durability::Sync => "sync",
    }
}

fn encode_headers(draft: &Draft) -> Option<Vec<u8>> {
    let pairs = draft
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    (!draft.headers.is_empty()).then(|| Headers::encode(pairs))
}

fn parse_headers(encoded: Option<&[u8]>) -> Option<Headers<'_>> {
    encoded.map(|bytes| Headers::parse(bytes).expect("headers that were just encoded are sound"))
}
