//! Which member of a partitioned group is to get which partition.
//!
//! Owns the target, a pure function of the topics, the members and who holds what now. When a partition changes
//! hands, and under which generation, is the group's business: it brings what is into line with what is wanted
//! step by step, and what stays is not interrupted (incremental cooperative rebalancing, KIP-429; the broker
//! assigns, not a member, as in KIP-848).
//!
//! Whatever the strategy: a partition that a member accepts has exactly one owner, who accepts it; any other has
//! none. Members are known by their place in the order of joining, which decides every tie.

use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::mem;

use twox_hash::XxHash64;

use crate::topic::words;

words! {
    /// How the partitions of a group are spread over its members.
    Strategy {
        /// In turn, over all topics: the numbers differ by at most 1 where all accept all. A change of members may
        /// move anything. After Kafka's `RoundRobinAssignor`.
        RoundRobin = "round_robin",
        /// A run of neighbouring partitions of every topic, the lengths of which differ by at most 1. Where topics
        /// have as many partitions and the same members, equal partitions meet at one member, so that it can join
        /// them by key. A change of members may move anything. After Kafka's `RangeAssignor`.
        Range = "range",
        /// As evenly as can be, then with few moves; the fewest where all accept all: a member that joins takes its
        /// share, rounded down, and nothing else moves; one that leaves leaves only its own.
        #[default]
        Sticky = "sticky",
        /// By hash, so that whoever knows the members knows the owner. A member that joins takes about its share
        /// and nothing else moves; one that leaves leaves only its own. The numbers are even on average only.
        ConsistentHash = "consistent_hash",
    }
}

/// The partitions of a topic, and who would take them.
pub(crate) struct TopicPartitions<'a> {
    pub(crate) name: &'a str,
    pub(crate) partitions: u32,
    /// The members that accept the topic, ascending.
    pub(crate) acceptors: &'a [usize],
}

/// The owner that every partition is to have. Partitions stand in the order of `topics` and within a topic from 0,
/// here as in `held`, which says who has them now. `identities` has one entry for every member; what it says matters
/// to consistent hashing only, where of two members with the same identity the older gets what both would.
pub(crate) fn assign(
    strategy: Strategy,
    topics: &[TopicPartitions<'_>],
    identities: &[&str],
    held: &[Option<usize>],
) -> Vec<Option<usize>> {
    match strategy {
        Strategy::RoundRobin => round_robin(topics),
        Strategy::Range => range(topics),
        Strategy::Sticky => sticky(topics, identities.len(), held),
        Strategy::ConsistentHash => consistent_hash(topics, identities),
    }
}

fn round_robin(topics: &[TopicPartitions<'_>]) -> Vec<Option<usize>> {
    let mut owners = Vec::new();
    let mut turn = 0;
    for topic in topics {
        for _ in 0..topic.partitions {
            let next = topic.acceptors.partition_point(|member| *member < turn);
            let owner = topic.acceptors.get(next).or(topic.acceptors.first());
            turn = owner.map_or(turn, |owner| owner + 1);
            owners.push(owner.copied());
        }
    }
    owners
}

fn range(topics: &[TopicPartitions<'_>]) -> Vec<Option<usize>> {
    let mut owners = Vec::new();
    for topic in topics {
        let partitions = topic.partitions as usize;
        owners.extend((0..partitions).map(|partition| {
            let share = partition * topic.acceptors.len() / partitions;
            topic.acceptors.get(share).copied()
        }));
    }
    owners
}

/// Rendezvous hashing: of those who accept a partition the one with the highest weight owns it (Thaler and
/// Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998).
/// The weight is XXH64 over the partition's hash, little-endian, with the XXH64 of the identity as its seed; the
/// partition's hash is XXH64 over its index, 4 bytes little-endian, with the XXH64 of the topic's name as its seed.
fn consistent_hash(topics: &[TopicPartitions<'_>], identities: &[&str]) -> Vec<Option<usize>> {
    let hash = |text: &str| XxHash64::oneshot(0, text.as_bytes());
    let seeds: Vec<u64> = identities.iter().map(|identity| hash(identity)).collect();
    let mut owners = Vec::new();
    for topic in topics {
        let seed = hash(topic.name);
        owners.extend((0..topic.partitions).map(|partition| {
            let key = XxHash64::oneshot(seed, &partition.to_le_bytes()).to_le_bytes();
            let weight =
                |member: &usize| (XxHash64::oneshot(seeds[*member], &key), Reverse(*member));
            topic.acceptors.iter().copied().max_by_key(weight)
        }));
    }
    owners
}

/// Everyone keeps what it has and still accepts; what nobody has goes to whoever has least; then the numbers are
/// levelled. Evenness goes before staying, as in KIP-54, whose goals these are.
fn sticky(
    topics: &[TopicPartitions<'_>],
    members: usize,
    held: &[Option<usize>],
) -> Vec<Option<usize>> {
    let mut topic_of = Vec::with_capacity(held.len());
    for (index, topic) in topics.iter().enumerate() {
        topic_of.resize(topic_of.len() + topic.partitions as usize, index);
    }
    assert_eq!(
        held.len(),
        topic_of.len(),
        "a holder or none for every partition"
    );
    let mut shares = Shares {
        topics,
        topic_of,
        owners: vec![None; held.len()],
        of: vec![Vec::new(); members],
    };
    for (partition, holder) in held.iter().enumerate() {
        let acceptors = shares.acceptors(partition);
        if let Some(holder) = holder.filter(|holder| acceptors.binary_search(holder).is_ok()) {
            shares.give(partition, holder);
        }
    }
    for partition in 0..held.len() {
        if shares.owners[partition].is_none() {
            let acceptors = shares.acceptors(partition).iter().copied();
            if let Some(least) = acceptors.min_by_key(|member| shares.of[*member].len()) {
                shares.give(partition, least);
            }
        }
    }
    shares.level();
    shares.owners
}

/// Who has what while a sticky assignment is made.
struct Shares<'a> {
    topics: &'a [TopicPartitions<'a>],
    /// The index of every partition's topic.
    topic_of: Vec<usize>,
    /// Every partition's owner.
    owners: Vec<Option<usize>>,
    /// Every member's partitions, those last that it got last.
    of: Vec<Vec<usize>>,
}

impl<'a> Shares<'a> {
    fn acceptors(&self, partition: usize) -> &'a [usize] {
        self.topics[self.topic_of[partition]].acceptors
    }

    fn give(&mut self, partition: usize, member: usize) {
        if let Some(owner) = self.owners[partition].replace(member) {
            let given = self.of[owner].iter().rposition(|other| *other == partition);
            self.of[owner].remove(given.expect("an owner's partitions are among its own"));
        }
        self.of[member].push(partition);
    }

    /// Moves partitions from who has most to who has at least 2 less, also along a chain of members each of which
    /// takes one and gives one, until there is no such chain. Then no assignment is more even, by whatever norm
    /// (Harvey, Ladner, Lovász and Tamir, "Semi-matchings for bipartite graphs and load balancing", Journal of
    /// Algorithms 59, 2006). Where all accept all every chain is a single move that any assignment as even has to
    /// make, too: only partitions beyond a share leave their holder.
    fn level(&mut self) {
        // A member is settled when it and whoever its partitions could reach have no one below to give to. Later
        // chains do not pass it: they start no higher, and would never come out again.
        let mut settled = vec![false; self.of.len()];
        let most = |shares: &Self, settled: &[bool]| {
            let may_give = |member: &usize| !settled[*member] && shares.of[*member].len() > 1;
            let givers = (0..settled.len()).filter(may_give);
            givers.max_by_key(|member| shares.of[*member].len())
        };
        while let Some(donor) = most(self, &settled) {
            let (reached, through) = self.reach(donor, &settled);
            let least = reached.iter().min_by_key(|member| self.of[**member].len());
            let mut taker = *least.expect("the donor is among the reached");
            if self.of[taker].len() + 2 > self.of[donor].len() {
                for member in reached {
                    settled[member] = true;
                }
                continue;
            }
            while let Some(partition) = through[taker] {
                let giver = self.owners[partition].expect("a chain leads over owned partitions");
                self.give(partition, taker);
                taker = giver;
            }
        }
    }

    /// The members that a partition of `donor` can go to, or one of whoever takes that, and so on; nearest first,
    /// `donor` before all. And for each the partition that it would take, of a member nearer by one.
    fn reach(&self, donor: usize, settled: &[bool]) -> (Vec<usize>, Vec<Option<usize>>) {
        let mut reached = vec![donor];
        let mut through = vec![None; self.of.len()];
        let mut offered = vec![false; self.topics.len()];
        let mut next = 0;
        while let Some(&giver) = reached.get(next) {
            for &partition in self.of[giver].iter().rev() {
                if reached.len() == self.of.len() {
                    return (reached, through);
                }
                if mem::replace(&mut offered[self.topic_of[partition]], true) {
                    continue;
                }
                for &member in self.acceptors(partition) {
                    if member != donor && through[member].is_none() && !settled[member] {
                        through[member] = Some(partition);
                        reached.push(member);
                    }
                }
            }
            next += 1;
        }
        (reached, through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    const STRATEGIES: [Strategy; 4] = [
        Strategy::RoundRobin,
        Strategy::Range,
        Strategy::Sticky,
        Strategy::ConsistentHash,
    ];

    /// Xorshift64 (Marsaglia, 2003).
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % bound
        }
    }

    /// A group whose members are known by number, in the order of joining.
    #[derive(Clone)]
    struct Group {
        /// The partitions of every topic.
        topics: Vec<u32>,
        /// Every member's number, and which topics it accepts.
        members: Vec<(usize, Vec<bool>)>,
        /// The number of every partition's owner.
        owners: Vec<Option<usize>>,
    }

    impl Group {
        fn new(topics: &[u32]) -> Self {
            let partitions = topics.iter().sum::<u32>() as usize;
            Self {
                topics: topics.to_vec(),
                members: Vec::new(),
                owners: vec![None; partitions],
            }
        }

        fn join(&mut self, number: usize) {
            self.members.push((number, vec![true; self.topics.len()]));
        }

        fn assign(&mut self, strategy: Strategy) {
            let acceptors: Vec<Vec<usize>> = (0..self.topics.len())
                .map(|topic| {
                    let accepts = |member: &usize| self.members[*member].1[topic];
                    (0..self.members.len()).filter(accepts).collect()
                })
                .collect();
            let names: Vec<String> = (0..self.topics.len())
                .map(|topic| format!("orders/{topic}"))
                .collect();
            let topics: Vec<TopicPartitions<'_>> = (0..self.topics.len())
                .map(|topic| TopicPartitions {
                    name: &names[topic],
                    partitions: self.topics[topic],
                    acceptors: &acceptors[topic],
                })
                .collect();
            let identities: Vec<String> = self
                .members
                .iter()
                .map(|(number, _)| format!("member-{number}"))
                .collect();
            let identities: Vec<&str> = identities.iter().map(String::as_str).collect();
            let place = |number: usize| self.members.iter().position(|(other, _)| *other == number);
            let held: Vec<Option<usize>> =
                self.owners.iter().map(|owner| place((*owner)?)).collect();
            self.owners = assign(strategy, &topics, &identities, &held)
                .into_iter()
                .map(|owner| Some(self.members[owner?].0))
                .collect();
        }

        /// Every partition's topic.
        fn topic_of(&self) -> Vec<usize> {
            let topics = self.topics.iter().enumerate();
            topics
                .flat_map(|(topic, partitions)| vec![topic; *partitions as usize])
                .collect()
        }

        fn accepts(&self, number: usize, topic: usize) -> bool {
            let mut members = self.members.iter();
            members.any(|(other, accepts)| *other == number && accepts[topic])
        }

        /// How many of `owners` every member is.
        fn counts(&self, owners: &[Option<usize>]) -> Vec<usize> {
            let count = |number| {
                owners
                    .iter()
                    .filter(|owner| **owner == Some(number))
                    .count()
            };
            self.members
                .iter()
                .map(|(number, _)| count(*number))
                .collect()
        }

        /// By how much the numbers differ.
        fn spread(&self, owners: &[Option<usize>]) -> usize {
            let counts = self.counts(owners);
            counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
        }

        /// What every owner must be, whatever the strategy.
        fn check(&self) {
            let topic_of = self.topic_of();
            assert_eq!(self.owners.len(), topic_of.len());
            for (owner, topic) in self.owners.iter().zip(topic_of) {
                match owner {
                    Some(owner) => assert!(self.accepts(*owner, topic)),
                    None => assert!(self.members.iter().all(|(_, accepts)| !accepts[topic])),
                }
            }
        }

        /// How many partitions went from one owner to another.
        fn moved(&self, before: &[Option<usize>]) -> usize {
            let pairs = self.owners.iter().zip(before);
            pairs
                .filter(|(now, then)| now != then && then.is_some())
                .count()
        }
    }

    /// Lets members join and leave at random, and shows every change: who joined or left, before and after.
    fn churn(
        strategy: Strategy,
        picky: bool,
        mut seen: impl FnMut(Option<usize>, Option<usize>, &Group, &Group),
    ) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for number_of_topics in [1, 2, 5] {
            let topics: Vec<u32> = (0..number_of_topics)
                .map(|_| random.below(24) as u32 + 1)
                .collect();
            let mut group = Group::new(&topics);
            for number in 0..300 {
                let before = group.clone();
                let leaves = random.below(12) < group.members.len();
                let leaver = leaves.then(|| {
                    let place = random.below(group.members.len());
                    group.members.remove(place).0
                });
                let newcomer = (!leaves).then(|| {
                    group.join(number);
                    for accepts in &mut group.members.last_mut().unwrap().1 {
                        *accepts = !picky || random.below(2) == 0;
                    }
                    number
                });
                group.assign(strategy);
                group.check();
                seen(newcomer, leaver, &before, &group);
            }
        }
    }

    #[test]
    fn words_are_read_back() {
        for strategy in STRATEGIES {
            assert_eq!(Strategy::parse(strategy.as_str()), Some(strategy));
        }
        assert_eq!(Strategy::default().as_str(), "sticky");
        assert_eq!(Strategy::parse("round-robin"), None);
    }

    #[test]
    fn every_accepted_partition_has_one_owner_who_accepts_it() {
        for strategy in STRATEGIES {
            churn(strategy, true, |_, _, _, _| {});
        }
        for strategy in STRATEGIES {
            let mut empty = Group::new(&[]);
            empty.join(0);
            empty.assign(strategy);
            assert_eq!(empty.owners, []);
        }
    }

    #[test]
    fn round_robin_goes_on_where_it_stopped() {
        let mut group = Group::new(&[3, 2, 2]);
        for number in 0..3 {
            group.join(number);
        }
        group.members[1].1[1] = false;
        group.assign(Strategy::RoundRobin);
        let owners: Vec<usize> = group.owners.iter().flatten().copied().collect();
        assert_eq!(owners, [0, 1, 2, 0, 2, 0, 1]);
        churn(Strategy::RoundRobin, false, |_, _, _, group| {
            assert!(group.spread(&group.owners) <= 1);
        });
    }

    #[test]
    fn ranges_are_contiguous_and_as_long_as_each_other() {
        churn(Strategy::Range, true, |_, _, _, group| {
            let mut first = 0;
            for (topic, partitions) in group.topics.iter().enumerate() {
                let owners = &group.owners[first..first + *partitions as usize];
                first += owners.len();
                let mut runs = owners.to_vec();
                runs.dedup();
                let counts = group.counts(owners).into_iter();
                let counts: Vec<usize> = counts
                    .zip(&group.members)
                    .filter(|(_, (_, accepts))| accepts[topic])
                    .map(|(count, _)| count)
                    .collect();
                if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
                    assert!(most - least <= 1, "{owners:?}");
                    assert_eq!(
                        runs.len(),
                        counts.iter().filter(|count| **count > 0).count(),
                        "{owners:?}"
                    );
                }
            }
        });
    }

    #[test]
    fn a_sticky_change_moves_only_what_evenness_demands() {
        churn(
            Strategy::Sticky,
            false,
            |newcomer, leaver, before, after| {
                assert!(after.spread(&after.owners) <= 1);
                let pairs = || before.owners.iter().zip(&after.owners);
                if let Some(newcomer) = newcomer {
                    let share = after.owners.len() / after.members.len();
                    let first = before.members.is_empty();
                    assert_eq!(after.moved(&before.owners), if first { 0 } else { share });
                    assert!(pairs().all(|(then, now)| then == now || *now == Some(newcomer)));
                }
                assert!(
                    leaver.is_none() || pairs().all(|(then, now)| then == now || *then == leaver)
                );
            },
        );
    }

    #[test]
    fn sticky_deals_in_the_order_of_joining() {
        let mut group = Group::new(&[2, 3]);
        for number in 0..3 {
            group.join(number);
        }
        group.assign(Strategy::Sticky);
        let owners: Vec<usize> = group.owners.iter().flatten().copied().collect();
        assert_eq!(owners, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn sticky_levels_what_several_joined_at_once() {
        let mut group = Group::new(&[10]);
        group.join(0);
        group.assign(Strategy::Sticky);
        let before = group.owners.clone();
        for number in 1..4 {
            group.join(number);
        }
        group.assign(Strategy::Sticky);
        assert!(group.spread(&group.owners) <= 1);
        assert_eq!(group.moved(&before), 7, "the first keeps 3");
    }

    #[test]
    fn sticky_takes_back_what_a_member_no_longer_accepts() {
        let mut group = Group::new(&[2, 2]);
        for number in 0..2 {
            group.join(number);
        }
        group.owners = vec![Some(0), Some(0), Some(1), Some(1)];
        group.members[0].1[0] = false;
        group.assign(Strategy::Sticky);
        assert_eq!(group.owners, [Some(1), Some(1), Some(0), Some(0)]);
    }

    #[test]
    fn sticky_passes_on_what_nobody_had_rather_than_what_somebody_has() {
        let mut group = Group::new(&[1, 1, 1, 1]);
        for number in 0..2 {
            group.join(number);
        }
        group.members[1].1[3] = false;
        group.owners = vec![Some(0), Some(1), None, None];
        group.assign(Strategy::Sticky);
        assert_eq!(group.owners, [Some(0), Some(1), Some(1), Some(0)]);
    }

    /// Against all assignments of small groups, from any state.
    #[test]
    fn no_assignment_is_more_even_than_the_sticky_one_nor_moves_less_where_all_accept_all() {
        let mut random = Random(42);
        for case in 0..1000 {
            let picky = case % 2 == 0;
            let topics: Vec<u32> = (0..3).map(|_| random.below(3) as u32).collect();
            let mut group = Group::new(&topics);
            for number in 0..4 {
                group.join(number);
                for accepts in &mut group.members[number].1 {
                    *accepts = !picky || random.below(3) > 0;
                }
            }
            for owner in &mut group.owners {
                *owner = Some(random.below(5)).filter(|number| *number < 4);
            }
            let before = group.owners.clone();
            group.assign(Strategy::Sticky);
            group.check();

            let cost = |group: &Group| {
                let counts = group.counts(&group.owners).into_iter();
                let unevenness: usize = counts.map(|count| count * count).sum();
                (unevenness, group.moved(&before))
            };
            let mut best = cost(&group);
            let mut other = group.clone();
            for code in 0..4_usize.pow(group.owners.len() as u32) {
                let mut digits = code;
                for (owner, topic) in other.owners.iter_mut().zip(group.topic_of()) {
                    let accepts = |number: &usize| group.accepts(*number, topic);
                    *owner = (0..4).filter(accepts).nth(digits % 4);
                    digits /= 4;
                }
                let complete = (0..other.owners.len())
                    .all(|index| other.owners[index].is_some() == group.owners[index].is_some());
                if complete {
                    best = best.min(cost(&other));
                }
            }
            let (unevenness, moved) = cost(&group);
            assert_eq!(unevenness, best.0, "case {case}");
            assert!(moved <= best.1 + usize::from(picky), "case {case}");
        }
    }

    #[test]
    fn consistent_hashing_moves_only_to_who_joins_and_from_who_leaves() {
        let strategy = Strategy::ConsistentHash;
        for picky in [false, true] {
            churn(strategy, picky, |newcomer, leaver, before, after| {
                let pairs = before.owners.iter().zip(&after.owners);
                for (then, now) in pairs {
                    assert!(then == now || *now == newcomer || *then == leaver);
                }
            });
        }
    }

    #[test]
    fn who_joins_takes_about_its_share_by_consistent_hashing() {
        let mut group = Group::new(&[4096]);
        for members in 1..=16 {
            group.join(members);
            group.assign(Strategy::ConsistentHash);
            let taken = *group.counts(&group.owners).last().unwrap();
            let quarters = 4 * taken * members;
            assert!((3 * 4096..=5 * 4096).contains(&quarters), "{taken}");
        }
    }

    /// Another hash would move what belongs to groups that outlive the change.
    #[test]
    fn consistent_hashing_hashes_as_documented() {
        let mut group = Group::new(&[6, 2]);
        for number in 0..3 {
            group.join(number);
        }
        group.assign(Strategy::ConsistentHash);
        let owners: Vec<usize> = group.owners.iter().flatten().copied().collect();
        assert_eq!(owners, [1, 0, 0, 1, 2, 2, 0, 1]);
    }

    #[test]
    fn of_equal_identities_the_older_member_owns_by_consistent_hashing() {
        let topic = TopicPartitions {
            name: "a",
            partitions: 4,
            acceptors: &[0, 1],
        };
        let owners = assign(Strategy::ConsistentHash, &[topic], &["m", "m"], &[None; 4]);
        assert_eq!(owners, [Some(0); 4]);
    }
}
