//! The commands that begin, feed and end subscriptions.

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::context::Context;
use crate::effect::After;
use crate::error::{ErrorCode, Refusal, check_count};
use crate::ids::{Incarnation, Offset, Partition, Sequence, SubscriptionId};
use crate::input::Rights;
use crate::mutation::Mutation;
use crate::namespace::Namespace;
use crate::protocol::frame::{Credit, Done, Gap, Reply, Subscribe, Subscribed, Unsubscribe};
use crate::read::check_offset;
use crate::subscription::{
    Behind, From, OnLag, Options, Replay, Subscription, first_credit, more_credit,
};
use crate::topic::{self, Kind};

impl Namespace {
    /// Begins a subscription.
    pub(crate) fn subscribe(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &Subscribe<'_>,
    ) -> Result<(), Refusal> {
        let from = match From::parse(command.from.unwrap_or("latest"))? {
            // A client whose clock is ahead of ours misses nothing that is published from now on.
            From::Timestamp(since) if since > cx.now.max(self.last_timestamp) => From::Latest,
            from => from,
        };
        let client = &cx.connections[connection as usize];
        let rights = client.claims.rights;
        // What a session was away for is not history: it was subscribed all the time.
        let is_history = !matches!(from, From::Latest | From::Session(_));
        if !rights.contains(Rights::SUBSCRIBE) || (is_history && !rights.contains(Rights::HISTORY))
        {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "this connection may not subscribe from there",
            ));
        }
        topic::check_filter(command.filter)?;
        let id = SubscriptionId(command.subscription);
        if client.has_subscription(id) {
            let message = format!("subscription {} is in use on this connection", id.0);
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        check_count(
            "a connection",
            "subscriptions",
            client.subscriptions.len() + 1,
            cx.config.subscriptions_max,
        )?;
        self.check_subscriptions()?;
        let options = options(cx, command)?;
        let partition = self.subscribed_partition(command)?;
        if from != From::Latest {
            let matching: Vec<u32> = self.topics_matching(command.filter).collect();
            for topic in matching {
                self.expire_topic(cx, topic);
            }
        }
        let (behind, lost) = match from {
            From::Session(seen) => self.session_place(cx, connection, command, seen)?,
            from => self.place(command.filter, partition, from)?,
        };
        let client = &cx.connections[connection as usize];
        let (connection_id, encoding, source) = (client.id, client.encoding, client.source);
        let position = behind
            .as_ref()
            .map_or(self.last_sequence, |behind| behind.position);
        let after = cx.connections[connection as usize]
            .ended
            .unwrap_or_default();
        let serial = self.next_serial;
        self.next_serial += 1;
        let entry = self.subscriptions.vacant_key() as u32;
        let node = self.trie.insert(command.filter, entry);
        let is_behind = behind.is_some();
        self.subscriptions.insert(Subscription {
            connection,
            connection_id,
            id,
            encoding,
            credit: if Mutation::CreditOffByOne.is_active() {
                options.credit.saturating_add(1)
            } else {
                options.credit
            },
            after,
            source,
            partition,
            bucket: None,
            paced_until: None,
            behind: behind.map(Box::new),
            options,
            filter: command.filter.into(),
            node,
            serial,
            queued: false,
            starved: false,
        });
        cx.connections[connection as usize].add_subscription(id, entry);
        cx.touch_connection(connection);
        let mut after = after;
        if matches!(from, From::Session(_)) {
            let bound = self.bind_cursor(cx, connection, command.filter, id, position);
            after = after.and(bound);
            self.subscriptions[entry as usize].after = after;
        }
        self.vouch(cx);
        let token = self.token();
        let subscribed = Subscribed {
            request: command.request,
            subscription: id.0,
            token: &token,
            sequence: position.0,
        };
        match cx.connections[connection as usize].ended {
            None => cx.reply(connection, after, &Reply::Subscribed(subscribed)),
            // Deliveries of one that had the same number may still be on their way.
            Some(_) => cx.reply_in_order(connection, after, &Reply::Subscribed(subscribed)),
        }
        if let Some(to) = lost {
            let gap = Gap {
                subscription: id.0,
                reason: "truncated",
                after: position.0,
                to: to.0,
                count: None,
                topic: None,
                partition: None,
                from_offset: None,
                to_offset: None,
            };
            cx.reply_in_order(connection, after, &Reply::Gap(gap));
        }
        if is_behind {
            self.count_behind();
            self.queue_subscription(cx, entry);
        }
        Ok(())
    }

    /// What a client gives back, with the sequence of its last delivery, to resume.
    pub(crate) fn token(&self) -> String {
        format!("{:x}", self.lineage.current().0)
    }

    /// Where a subscription begins, `None` for the tail; and the last sequence that the client saw in vain.
    fn place(
        &self,
        filter: &str,
        partition: Option<Partition>,
        from: From,
    ) -> Result<(Option<Behind>, Option<Sequence>), Refusal> {
        let begin = Behind {
            known_from: self.last_sequence,
            live_from: self.last_sequence,
            ..Behind::default()
        };
        let behind = match from {
            From::Latest | From::Session(_) => return Ok((None, None)),
            From::Earliest => begin,
            From::Timestamp(since) => {
                let logs = self.topics_matching(filter).flat_map(|topic| {
                    let topic = &self.topics[topic as usize];
                    topic.partitions.iter().map(|state| &state.log)
                });
                let before = logs.map(|log| log.sequence_before_time(since)).min();
                let position = before.unwrap_or(self.last_sequence);
                Behind {
                    position,
                    since,
                    ..begin
                }
            }
            From::Resume(incarnation, position) => {
                let (survived, lost) = self.survived(incarnation, position);
                return Ok((Some(Behind::at(survived)), lost));
            }
            From::Last(0) => return Ok((None, None)),
            From::Last(count) => {
                let replay =
                    self.replay(filter, partition, |end| Offset(end.0.saturating_sub(count)));
                if replay.starts.is_empty() {
                    return Ok((None, None));
                }
                Behind {
                    position: self.position_before(filter, &replay),
                    replay: Some(replay),
                    ..begin
                }
            }
            From::Offset(offset) => {
                let topic = if topic::is_pattern(filter) {
                    None
                } else {
                    Some(self.known_topic(filter)?)
                };
                let single = topic.filter(|topic| {
                    partition.is_some() || self.topics[*topic as usize].config.partitions == 1
                });
                let Some(log) =
                    single.and_then(|topic| self.log(topic, partition.unwrap_or_default()))
                else {
                    let message = "\"from\" offset:N needs a filter that is one topic, and a partition if it has several";
                    return Err(Refusal::new(ErrorCode::InvalidArgument, message));
                };
                check_offset(offset, log.end())?;
                if offset == log.end() {
                    return Ok((None, None));
                }
                let is_kept = offset >= log.start();
                let replay = self.replay(filter, partition, |_| offset);
                if is_kept {
                    Behind {
                        position: self.position_before(filter, &replay),
                        replay: Some(replay),
                        ..begin
                    }
                } else {
                    // What was asked for and is not kept any more is a gap, whenever it went.
                    Behind {
                        known_from: Sequence(0),
                        replay: Some(replay),
                        ..begin
                    }
                }
            }
        };
        Ok((Some(behind), None))
    }

    /// Up to where a client that was at `position` in an earlier life shares what it saw with what is stored, and the
    /// position if that lies beyond.
    pub(crate) fn survived(
        &self,
        incarnation: Incarnation,
        position: Sequence,
    ) -> (Sequence, Option<Sequence>) {
        let survived = self
            .lineage
            .survived(incarnation, position, self.last_sequence);
        let survived = if Mutation::TruncationUntold.is_active() {
            position
        } else {
            survived
        };
        (survived, (survived < position).then_some(position))
    }

    fn replay(
        &self,
        filter: &str,
        only: Option<Partition>,
        start: impl Fn(Offset) -> Offset,
    ) -> Replay {
        let mut starts = Vec::new();
        for topic in self.topics_matching(filter) {
            let topic = &self.topics[topic as usize];
            if topic.config.kind == Kind::Live {
                continue;
            }
            for (index, state) in topic.partitions.iter().enumerate() {
                let partition = Partition(index as u32);
                if only.is_none_or(|only| only == partition)
                    && start(state.log.end()) < state.log.end()
                {
                    starts.push((topic.id, partition, start(state.log.end())));
                }
            }
        }
        Replay {
            upto: self.last_sequence,
            // A heap sorts as well, with a tenth of the code.
            starts: BinaryHeap::from(starts).into_sorted_vec(),
        }
    }

    /// A sequence below everything that a replay asks for, as near to it as is known, to resume from.
    fn position_before(&self, filter: &str, replay: &Replay) -> Sequence {
        let topics = self.topics_matching(filter);
        let places = topics.flat_map(|topic| {
            let topic = &self.topics[topic as usize];
            topic
                .partitions
                .iter()
                .enumerate()
                .filter_map(|(index, state)| {
                    let wanted = (topic.id, Partition(index as u32));
                    let start = replay
                        .starts
                        .binary_search_by_key(&wanted, |start| (start.0, start.1));
                    let (_, _, offset) = replay.starts[start.ok()?];
                    Some(state.log.sequence_before(offset.max(state.log.start())))
                })
        });
        places.min().unwrap_or(self.last_sequence)
    }

    /// The one partition that the command names, checked.
    fn subscribed_partition(&self, command: &Subscribe<'_>) -> Result<Option<Partition>, Refusal> {
        let Some(partition) = command.partition else {
            return Ok(None);
        };
        if topic::is_pattern(command.filter) {
            let message = "\"partition\" needs a filter that is one topic";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let count = self.topics[self.known_topic(command.filter)? as usize]
            .config
            .partitions;
        if partition >= count {
            let message = format!(
                "topic \"{}\" has {count} partitions, none is {partition}",
                command.filter
            );
            return Err(Refusal::new(ErrorCode::UnknownPartition, message));
        }
        Ok(Some(Partition(partition)))
    }

    /// Ends a subscription at the client's wish.
    pub(crate) fn unsubscribe(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: Unsubscribe,
    ) -> Result<(), Refusal> {
        let id = SubscriptionId(command.subscription);
        let done = Reply::Done(Done {
            request: command.request,
        });
        if self.unwatch_presence(cx, connection, id) {
            cx.reply(connection, After::default(), &done);
            return Ok(());
        }
        let client = &mut cx.connections[connection as usize];
        if let Some((group, member)) = client.membership(id) {
            self.remove_member(cx, group, member);
            cx.reply(connection, After::default(), &done);
            return Ok(());
        }
        let Some(index) = client.subscription(id) else {
            let message = format!("there is no subscription {} on this connection", id.0);
            return Err(Refusal::new(ErrorCode::UnknownSubscription, message));
        };
        self.release_cursor(cx, connection, id, true);
        cx.connections[connection as usize].remove_subscription(id);
        cx.touch_connection(connection);
        self.remove_subscription(cx, index);
        cx.reply(connection, After::default(), &done);
        Ok(())
    }

    /// Allows a subscription more deliveries. One that is not there was ended meanwhile, which is no mistake.
    pub(crate) fn add_credit(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: Credit,
    ) -> Result<(), Refusal> {
        let id = SubscriptionId(command.subscription);
        if let Some(membership) = cx.connections[connection as usize].membership(id) {
            return self.add_member_credit(cx, membership, command);
        }
        let Some(index) = cx.connections[connection as usize].subscription(id) else {
            return Ok(());
        };
        let subscription = &mut self.subscriptions[index as usize];
        let total = more_credit(&cx.config, subscription.credit, command)?;
        subscription.credit = total;
        if total > subscription.options.credit {
            // What is stored is the most that it ever had: after hibernation it may have that much again, but never
            // less than its client believes.
            subscription.options.credit = total;
            cx.touch_connection(connection);
        }
        if subscription.behind.is_some() && total > 0 {
            self.queue_subscription(cx, index);
        }
        Ok(())
    }
}

fn options(cx: &Context, command: &Subscribe<'_>) -> Result<Options, Refusal> {
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidArgument, message);
    let credit = first_credit(&cx.config, command.credit)?;
    let on_lag = match command.on_lag {
        None => OnLag::default(),
        Some(word) => OnLag::parse(word).ok_or_else(|| {
            let words = "drop_oldest, drop_newest, block or close";
            Refusal::wrong_word("on_lag", word, words)
        })?,
    };
    if command.lag_max == Some(0) {
        return Err(invalid(String::from("\"lag_max\" must be at least 1")));
    }
    Ok(Options {
        credit,
        on_lag,
        lag_max: command
            .lag_max
            .unwrap_or(cx.config.lag_max)
            .min(cx.config.lag_max),
    })
}
