//! The named bounds, asserted between batches: what memory holds never grows past them. For tests and simulation.

use alloc::vec::Vec;

use crate::broker::Broker;
use crate::config::Config;
use crate::connection::Connection;
use crate::namespace::Namespace;
use crate::subscription::UNLIMITED;

impl Broker {
    /// Asserts the bounds of the broker, of its connections and of its namespaces.
    pub(crate) fn check_bounds(&self) {
        let config = &self.cx.config;
        let namespaces = self.namespaces.len() as u64;
        within("namespaces_max", namespaces, config.namespaces_max);
        let connections = self.cx.connections.len() as u64;
        within("connections_max", connections, config.connections_max);
        within("loads_max", self.cx.loads.len() as u64, config.loads_max);
        within("catch_ups_max", self.cx.catch_ups, config.catch_ups_max);
        within("imports_max", self.cx.imports, config.imports_max);
        let held = self.cx.connections.iter().flat_map(|(_, one)| &one.held);
        let held: u64 = held.map(|held| held.frame.len() as u64).sum();
        assert_eq!(held, self.cx.held_bytes, "what is held back is counted");
        within("held_bytes_max", held, config.held_bytes_max);
        for (_, connection) in &self.cx.connections {
            connection.check_bounds(config);
        }
        for (_, namespace) in &self.namespaces {
            namespace.check_bounds(config);
        }
    }
}

impl Connection {
    fn check_bounds(&self, config: &Config) {
        let counts = [
            (
                "held_commands_max",
                self.held.len(),
                config.held_commands_max,
            ),
            (
                "subscriptions_max",
                self.subscriptions.len(),
                config.subscriptions_max,
            ),
            (
                "memberships_max",
                self.memberships.len(),
                config.memberships_max,
            ),
            ("presences_max", self.places.len(), config.presences_max),
            ("watches_max", self.watches.len(), config.watches_max),
        ];
        for (bound, count, max) in counts {
            within(bound, count as u64, max);
        }
    }
}

impl Namespace {
    fn check_bounds(&self, config: &Config) {
        // The broker's own topics are there where there is room or not: one for each group.
        let own = self.topics.iter();
        let topics = own.filter(|(_, topic)| !topic.name.starts_with('$'));
        within("topics_max", topics.count() as u64, config.topics_max);
        within(
            "dedup_entries_max",
            self.dedup_entries,
            config.dedup_entries_max,
        );
        within("producers_max", self.producers, config.producers_max);
        let schedule = &self.schedule;
        within(
            "scheduled_max",
            schedule.order.len() as u64,
            config.scheduled_max,
        );
        within(
            "scheduled_bytes_max",
            schedule.size_bytes,
            config.scheduled_bytes_max,
        );
        within(
            "requests_max",
            self.inquiries.len() as u64,
            config.requests_max,
        );
        within("limiters_max", self.limits.peers(), config.limiters_max);
        within("reads_max", self.reads.len() as u64, config.reads_max);
        within("exports_max", self.exports.len() as u64, config.exports_max);
        within("rings_bytes_max", self.rings_bytes, config.rings_bytes_max);
        let partitions = self.topics.iter().flat_map(|(_, topic)| &topic.partitions);
        let logs: Vec<_> = partitions.map(|state| &state.log).collect();
        let kept: u64 = logs.iter().map(|log| log.ring_bytes()).sum();
        assert_eq!(kept, self.rings_bytes, "what rings keep is counted");
        for log in logs {
            within(
                "ring_messages_max",
                log.ring().len() as u64,
                config.ring_messages_max,
            );
            within("ring_bytes_max", log.ring_bytes(), config.ring_bytes_max);
        }
        for (_, subscription) in &self.subscriptions {
            if subscription.credit != UNLIMITED {
                within("credit_max", subscription.credit, config.credit_max);
            }
        }
        within("groups_max", self.groups.len() as u64, config.groups_max);
        for (_, group) in &self.groups {
            within(
                "members_max",
                group.members.len() as u64,
                config.members_max,
            );
            within(
                "filters_max",
                group.filters.len() as u64,
                config.filters_max,
            );
            for (_, member) in &group.members {
                within(
                    "filters_max",
                    member.filters.len() as u64,
                    config.filters_max,
                );
                within(
                    "max_in_flight_max",
                    member.in_flight,
                    config.max_in_flight_max,
                );
                if member.credit != UNLIMITED {
                    within("credit_max", member.credit, config.credit_max);
                }
            }
            for (_, log) in &group.logs {
                within("parked_max", log.parked, config.parked_max);
            }
        }
    }
}

fn within(bound: &str, count: u64, max: u64) {
    assert!(count <= max, "{count} are more than {max} ({bound})");
}
