//! `dunlin sub --group`: a member of a consumer group, which is done with a message once it is printed.
//!
//! What is printed is told to the broker as soon as nothing more is there to be printed at once: a queue's messages are
//! acknowledged, of partitions the offsets are committed. Whatever was not printed when the member leaves is
//! delivered to others at once.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use dunlin_core::ErrorCode;
use dunlin_core::frame::{
    Ack, Assignment, Command, Commit, Credit, Delivery, DescribeGroup, Join, Lease, List, Position,
    Rebalanced, Reply, Strings, Unsubscribe,
};
use dunlin_core::http::SUBSCRIPTION;
use tokio::time::{Instant, sleep_until};

use super::Format;
use super::client::{Client, unexpected};
use super::subscribe::{End, human, print, print_gap, refused};

/// How many messages a member has at most, where it does not say so itself: of a queue unsettled, of partitions under
/// way.
const MESSAGES_MAX: (u64, u64) = (100, 1024);

/// So much printed is told to the broker even if there is more to print at once.
const UNTOLD_MAX: u64 = 64;

/// How long the broker may take to say goodbye.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// The numbers of the commands that are sent once; all others have higher ones.
const DESCRIBE: u64 = 1;
const JOIN: u64 = 2;
const LEAVE: u64 = 3;

/// The flags of `dunlin sub` that are about groups.
#[derive(Args, Debug)]
pub(super) struct Membership {
    /// Shares the messages with the other members of this consumer group, which is created if there is none
    #[arg(long, value_name = "NAME")]
    pub(super) group: Option<String>,
    /// What kind the group is; of one that exists it need not be said [default: queue]
    #[arg(long, value_enum, requires = "group")]
    kind: Option<Kind>,
    /// A name under which this member comes back: it keeps what it has while it is away, for the session's time
    #[arg(long, value_name = "NAME", requires = "group")]
    member: Option<String>,
    /// How many messages of a queue it has at most [default: 100]
    #[arg(long, value_name = "N", requires = "group", value_parser = clap::value_parser!(u64).range(1..))]
    max_in_flight: Option<u64>,
}

/// The kind of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Single messages, acknowledged once printed
    Queue,
    /// Whole partitions in their order, committed once printed
    Partitioned,
}

/// A topic and a partition.
type Place = (String, u32);

/// A member, over all its connections.
pub(super) struct Member<'a> {
    group: &'a str,
    options: &'a Membership,
    filters: &'a [String],
    from: Option<&'a str>,
    count: Option<u64>,
    format: Format,
    /// How many messages the broker holds for done.
    done: u64,
    link: Link,
}

/// What a member has over one connection.
struct Link {
    next_request: u64,
    heartbeat: Duration,
    generation: u64,
    /// Printed, and the broker was not told: leases of a queue; where to read on in partitions, and for how many.
    leases: Vec<u64>,
    offsets: BTreeMap<Place, (u64, u64)>,
    /// How many printed messages each command is about that has no reply.
    telling: VecDeque<(u64, u64)>,
    owned: BTreeSet<Place>,
    /// How many deliveries of partitions may come.
    credit: u64,
}

/// Why a membership does not go on, though the connection does.
enum Pause {
    /// As many messages are printed as were asked for.
    Enough,
    /// The broker does not know the member any more.
    Forgotten,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            next_request: LEAVE + 1,
            heartbeat: Duration::MAX,
            generation: 0,
            leases: Vec::new(),
            offsets: BTreeMap::new(),
            telling: VecDeque::new(),
            owned: BTreeSet::new(),
            credit: 0,
        }
    }
}

impl Link {
    /// How many printed messages the broker was not told of.
    fn untold(&self) -> u64 {
        let committed = self.offsets.values().map(|(_, messages)| messages);
        self.leases.len() as u64 + committed.sum::<u64>()
    }

    /// Tells the broker, with the next flush, of what is printed.
    fn tell(&mut self, client: &mut Client) {
        if !self.leases.is_empty() {
            let mut leases = Vec::new();
            for lease in &self.leases {
                List::push(&mut leases, &Lease { lease: *lease });
            }
            let request = self.request(self.leases.len() as u64);
            self.leases.clear();
            client.queue(&Command::Ack(Ack {
                request,
                leases: List::new(&leases),
            }));
        }
        // Each by itself: if one partition is another's by now, the others hold.
        for ((topic, partition), (offset, messages)) in core::mem::take(&mut self.offsets) {
            let mut offsets = Vec::new();
            let position = Position {
                topic: &topic,
                partition,
                offset,
            };
            List::push(&mut offsets, &position);
            let request = self.request(messages);
            client.queue(&Command::Commit(Commit {
                request,
                subscription: SUBSCRIPTION,
                generation: self.generation,
                offsets: List::new(&offsets),
            }));
        }
    }

    /// The number of a command about so many printed messages.
    fn request(&mut self, messages: u64) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        self.telling.push_back((request, messages));
        request
    }

    /// How many printed messages the command was about that a reply has answered.
    fn told(&mut self, request: u64) -> Option<u64> {
        let at = self
            .telling
            .iter()
            .position(|(known, _)| *known == request)?;
        self.telling.remove(at).map(|(_, messages)| messages)
    }

    /// Takes what was assigned and lets go of what was revoked, after what was printed of it is committed.
    fn assign(&mut self, client: &mut Client, assignment: &Assignment<'_>) {
        let place = |position: Position<'_>| (position.topic.to_owned(), position.partition);
        self.generation = assignment.generation;
        for position in assignment.assigned.iter().flatten() {
            // It begins anew, wherever it was.
            self.offsets.remove(&place(position));
            self.owned.insert(place(position));
        }
        if assignment.revoked.iter().next().is_none() {
            return;
        }
        self.tell(client);
        for position in assignment.revoked.iter().flatten() {
            self.owned.remove(&place(position));
        }
        client.queue(&Command::Rebalanced(Rebalanced {
            subscription: SUBSCRIPTION,
            generation: assignment.generation,
        }));
    }
}

impl<'a> Member<'a> {
    pub(super) fn new(
        group: &'a str,
        options: &'a Membership,
        filters: &'a [String],
        from: Option<&'a str>,
        (count, format): (Option<u64>, Format),
    ) -> Self {
        Self {
            group,
            options,
            filters,
            from,
            count,
            format,
            done: 0,
            link: Link::default(),
        }
    }

    /// Prints messages until there were enough.
    pub(super) async fn listen(
        &mut self,
        client: &mut Client,
        printed: &mut u64,
    ) -> Result<(), End> {
        loop {
            let kind = self.join(client).await?;
            match self.take(client, kind, printed).await {
                Ok(Pause::Forgotten) => {}
                Ok(Pause::Enough) => {
                    self.leave(client).await;
                    if Some(self.done) >= self.count {
                        return Ok(());
                    }
                }
                Err(End::Refused(error)) => {
                    self.leave(client).await;
                    return Err(End::Refused(error));
                }
                Err(End::Lost(error)) => return Err(End::Lost(error)),
            }
        }
    }

    /// How many messages are still to be printed.
    fn missing(&self) -> u64 {
        let telling = self.link.telling.iter().map(|(_, messages)| messages);
        let printed = self.done + self.link.untold() + telling.sum::<u64>();
        self.count
            .map_or(u64::MAX, |count| count.saturating_sub(printed))
    }

    /// The kind of the group, which decides what a member says.
    async fn kind(&self, client: &mut Client) -> Result<Kind, End> {
        if let Some(kind) = self.options.kind {
            return Ok(kind);
        }
        let command = Command::DescribeGroup(DescribeGroup {
            request: DESCRIBE,
            group: self.group,
        });
        client.send(&command).await.map_err(End::Lost)?;
        loop {
            let frame = client.receive().await.map_err(End::Lost)?;
            match Reply::decode(&frame) {
                Ok(Reply::GroupDescription(group)) if group.kind == "partitioned" => {
                    return Ok(Kind::Partitioned);
                }
                Ok(Reply::GroupDescription(_)) => return Ok(Kind::Queue),
                Ok(Reply::Failed(failed)) if failed.code == ErrorCode::UnknownGroup.as_str() => {
                    return Ok(Kind::Queue);
                }
                Ok(reply) => no_end(&reply)?,
                Err(_) => return Err(End::Refused(unexpected("describe_group"))),
            }
        }
    }

    async fn join(&mut self, client: &mut Client) -> Result<Kind, End> {
        self.link = Link::default();
        let kind = self.kind(client).await?;
        let (queue_max, credit_max) = MESSAGES_MAX;
        // What is not printed in the end would have been delivered in vain.
        let wanted = self.missing().max(1);
        let max_in_flight = self.options.max_in_flight.unwrap_or(queue_max).min(wanted);
        let credit = credit_max.min(wanted);
        let filters = Strings::encode(self.filters.iter().map(String::as_str));
        let filters = Strings::parse(&filters).expect("encoded here");
        let command = Command::Join(Join {
            request: JOIN,
            subscription: SUBSCRIPTION,
            group: self.group,
            filters,
            kind: Some(match kind {
                Kind::Queue => "queue",
                Kind::Partitioned => "partitioned",
            }),
            strategy: None,
            from: self.from,
            member: self.options.member.as_deref(),
            credit: (kind == Kind::Partitioned).then_some(credit),
            max_in_flight: (kind == Kind::Queue).then_some(max_in_flight),
        });
        self.link.credit = credit;
        client.send(&command).await.map_err(End::Lost)?;
        Ok(kind)
    }

    async fn take(
        &mut self,
        client: &mut Client,
        kind: Kind,
        printed: &mut u64,
    ) -> Result<Pause, End> {
        loop {
            let untold = self.link.untold();
            if self.missing() == 0 && (untold > 0 || self.link.telling.is_empty()) {
                return Ok(Pause::Enough);
            }
            if untold >= UNTOLD_MAX || (untold > 0 && !client.has_received()) {
                self.link.tell(client);
            }
            if kind == Kind::Partitioned {
                self.give_credit(client);
            }
            client.flush().await.map_err(End::Lost)?;
            let quiet = Instant::now().checked_add(self.link.heartbeat);
            let frame = tokio::select! {
                frame = client.receive() => frame.map_err(End::Lost)?,
                () = sleep_until(quiet.unwrap_or_else(Instant::now)), if quiet.is_some() => {
                    client.ping().await.map_err(End::Lost)?;
                    continue;
                }
            };
            let Ok(reply) = Reply::decode(&frame) else {
                continue;
            };
            match &reply {
                Reply::Delivery(delivery) => self.print(&reply, delivery, printed)?,
                Reply::Resync(_) => return Ok(Pause::Forgotten),
                Reply::Ended(ended) if ended.code == ErrorCode::UnknownMember.as_str() => {
                    eprintln!("dunlin: {}; joining again", ended.message);
                    return Ok(Pause::Forgotten);
                }
                Reply::Gap(gap) => print_gap(self.format, gap)?,
                Reply::Assignment(assignment) => {
                    self.link.assign(client, assignment);
                }
                reply => self.hear(reply)?,
            }
        }
    }

    /// Prints a message, unless it is one too many or another's by now.
    fn print(
        &mut self,
        reply: &Reply<'_>,
        delivery: &Delivery<'_>,
        printed: &mut u64,
    ) -> Result<(), End> {
        let place = (delivery.topic.to_owned(), delivery.partition);
        if delivery.lease.is_none() {
            self.link.credit = self.link.credit.saturating_sub(1);
            if !self.link.owned.contains(&place) {
                return Ok(());
            }
        }
        if self.missing() == 0 {
            return Ok(());
        }
        print(self.format, reply, || human(delivery))?;
        *printed += 1;
        match delivery.lease {
            Some(lease) => self.link.leases.push(lease),
            None => {
                let (offset, messages) = self.link.offsets.entry(place).or_default();
                *offset = delivery.offset + 1;
                *messages += 1;
            }
        }
        Ok(())
    }

    /// Allows as many deliveries as can be printed, many at a time.
    fn give_credit(&mut self, client: &mut Client) {
        let wanted = self.missing().min(MESSAGES_MAX.1);
        if self.link.credit > wanted / 2 {
            return;
        }
        let messages = wanted - self.link.credit;
        if messages > 0 {
            self.link.credit += messages;
            client.queue(&Command::Credit(Credit {
                subscription: SUBSCRIPTION,
                messages,
            }));
        }
    }

    /// Takes an answer.
    fn hear(&mut self, reply: &Reply<'_>) -> Result<(), End> {
        match reply {
            Reply::Joined(joined) => {
                if joined.heartbeat_ms > 0 {
                    self.link.heartbeat = Duration::from_millis(joined.heartbeat_ms);
                }
            }
            Reply::Settled(settled) => {
                let failed = settled.failed.iter().count() as u64;
                let messages = self.link.told(settled.request).unwrap_or_default();
                self.done += messages.saturating_sub(failed);
                if failed > 0 {
                    tell_again(failed);
                }
            }
            Reply::Done(done) => self.done += self.link.told(done.request).unwrap_or_default(),
            Reply::Failed(failed) if failed.code == ErrorCode::StaleGeneration.as_str() => {
                tell_again(self.link.told(failed.request).unwrap_or_default());
            }
            reply => no_end(reply)?,
        }
        Ok(())
    }

    /// Leaves the group: tells what is printed, and gives back what is not.
    pub(super) async fn leave(&mut self, client: &mut Client) {
        let leaving = async {
            self.link.tell(client);
            client.queue(&Command::Unsubscribe(Unsubscribe {
                request: LEAVE,
                subscription: SUBSCRIPTION,
            }));
            client.flush().await?;
            loop {
                let frame = client.receive().await?;
                match Reply::decode(&frame) {
                    Ok(Reply::Done(done)) if done.request == LEAVE => break,
                    Ok(Reply::Failed(failed)) if failed.request == LEAVE => break,
                    Ok(reply) => drop(self.hear(&reply)),
                    Err(_) => {}
                }
            }
            while !self.link.telling.is_empty() {
                let frame = client.receive().await?;
                if let Ok(reply) = Reply::decode(&frame) {
                    drop(self.hear(&reply));
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        // A broker that does not answer notices by itself that the member is gone.
        let _ = tokio::time::timeout(LEAVE_WITHIN, leaving).await;
        self.link = Link::default();
    }
}

fn tell_again(messages: u64) {
    eprintln!(
        "dunlin: {messages} printed messages were another's by then, and are delivered again"
    );
}

/// What ends a membership, whatever is under way.
fn no_end(reply: &Reply<'_>) -> Result<(), End> {
    match reply {
        Reply::Failed(failed) => Err(refused(failed.code, failed.message)),
        Reply::Ended(ended) => Err(refused(ended.code, ended.message)),
        Reply::GoingAway(_) => Err(End::Lost(anyhow!("draining: the broker is stopping"))),
        _ => Ok(()),
    }
}
