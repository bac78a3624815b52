//! Which filters match a topic: a trie over levels, so that filters which do not match cost nothing.
//!
//! A node stands for a filter's prefix of levels. Subscribers hang at the nodes where their filters end; matching
//! yields those nodes. A node lives as long as it has subscribers or children.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use hashbrown::Equivalent;
use slab::Slab;

use crate::hash::Map;

const ROOT: u32 = 0;

/// A place where filters end, valid until the last of its subscribers is removed.
pub(crate) type NodeIndex = u32;

pub(crate) struct Trie {
    nodes: Slab<Node>,
    /// The way down: a node and the next level. `+` and `#` are levels like any other here.
    edges: Map<Edge, NodeIndex>,
    /// Changes whenever a node comes or goes or gets its first subscriber; what was matched before then is stale.
    version: u64,
}

struct Node {
    parent: NodeIndex,
    level: Box<str>,
    children: u32,
    has_plus: bool,
    has_hash: bool,
    subscribers: Vec<u32>,
}

#[derive(PartialEq, Eq)]
struct Edge {
    node: NodeIndex,
    level: Box<str>,
}

struct EdgeRef<'a> {
    node: NodeIndex,
    level: &'a str,
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        EdgeRef {
            node: self.node,
            level: &self.level,
        }
        .hash(state);
    }
}

impl Hash for EdgeRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.node);
        self.level.hash(state);
    }
}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, edge: &Edge) -> bool {
        self.node == edge.node && self.level == &*edge.level
    }
}

impl Trie {
    pub(crate) fn new(seed: u64) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(ROOT, ""));
        Self {
            nodes,
            edges: Map::with_seed(seed),
            version: 0,
        }
    }

    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// The subscribers of the filters that end at `node`.
    pub(crate) fn subscribers(&self, node: NodeIndex) -> &[u32] {
        &self.nodes[node as usize].subscribers
    }

    /// Adds a subscriber to a filter that was checked.
    pub(crate) fn insert(&mut self, filter: &str, subscriber: u32) -> NodeIndex {
        let mut node = ROOT;
        for level in filter.split('/') {
            node = match self.edges.get(&EdgeRef { node, level }) {
                Some(&child) => child,
                None => self.add_child(node, level),
            };
        }
        let subscribers = &mut self.nodes[node as usize].subscribers;
        if subscribers.is_empty() {
            // A node that was only on the way to others is found from now on.
            self.version += 1;
        }
        subscribers.push(subscriber);
        node
    }

    /// Removes a subscriber from the node that `insert` returned, and the nodes that nobody needs any more.
    pub(crate) fn remove(&mut self, node: NodeIndex, subscriber: u32) {
        let subscribers = &mut self.nodes[node as usize].subscribers;
        let index = subscribers.iter().position(|other| *other == subscriber);
        // The order of the others is kept: it is the order of deliveries to them.
        subscribers.remove(index.expect("the subscriber hangs where insert put it"));
        let mut node = node;
        while node != ROOT {
            let leaf = &self.nodes[node as usize];
            if leaf.children > 0 || !leaf.subscribers.is_empty() {
                break;
            }
            let leaf = self.nodes.remove(node as usize);
            self.version += 1;
            self.edges.remove(&EdgeRef {
                node: leaf.parent,
                level: &leaf.level,
            });
            let parent = &mut self.nodes[leaf.parent as usize];
            parent.children -= 1;
            match &*leaf.level {
                "+" => parent.has_plus = false,
                "#" => parent.has_hash = false,
                _ => {}
            }
            node = leaf.parent;
        }
    }

    /// Appends the nodes whose filters match the topic, always in the same order.
    pub(crate) fn matches(&self, topic: &str, found: &mut Vec<NodeIndex>) {
        self.descend(ROOT, Some(topic), topic.starts_with('$'), found);
    }

    /// `rest` is what of the topic lies below `node`; `hidden` forbids wildcards on this level.
    fn descend(
        &self,
        node: NodeIndex,
        rest: Option<&str>,
        hidden: bool,
        found: &mut Vec<NodeIndex>,
    ) {
        let here = &self.nodes[node as usize];
        if here.has_hash && !hidden {
            found.extend(self.edges.get(&EdgeRef { node, level: "#" }));
        }
        let Some(rest) = rest else {
            if !here.subscribers.is_empty() {
                found.push(node);
            }
            return;
        };
        if here.children == 0 {
            return;
        }
        let (level, below) = match rest.split_once('/') {
            Some((level, below)) => (level, Some(below)),
            None => (rest, None),
        };
        // A topic's level can never be "+" or "#", so this edge is not a wildcard's.
        if let Some(&child) = self.edges.get(&EdgeRef { node, level }) {
            self.descend(child, below, false, found);
        }
        if here.has_plus
            && !hidden
            && let Some(&child) = self.edges.get(&EdgeRef { node, level: "+" })
        {
            self.descend(child, below, false, found);
        }
    }

    fn add_child(&mut self, parent: NodeIndex, level: &str) -> NodeIndex {
        self.version += 1;
        let child = self.nodes.insert(Node::new(parent, level)) as NodeIndex;
        self.edges.insert(
            Edge {
                node: parent,
                level: level.into(),
            },
            child,
        );
        let node = &mut self.nodes[parent as usize];
        node.children += 1;
        match level {
            "+" => node.has_plus = true,
            "#" => node.has_hash = true,
            _ => {}
        }
        child
    }
}

impl Node {
    fn new(parent: NodeIndex, level: &str) -> Self {
        Self {
            parent,
            level: level.into(),
            children: 0,
            has_plus: false,
            has_hash: false,
            subscribers: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic;
    use alloc::string::String;

    fn subscribers(trie: &Trie, topic: &str) -> Vec<u32> {
        let mut nodes = Vec::new();
        trie.matches(topic, &mut nodes);
        let mut found: Vec<u32> = nodes
            .iter()
            .flat_map(|node| trie.subscribers(*node))
            .copied()
            .collect();
        found.sort_unstable();
        found
    }

    /// Every filter and name over a small alphabet, against the plain definition of matching.
    #[test]
    fn the_trie_agrees_with_the_definition() {
        let levels = ["a", "b", "", "+", "#", "$s"];
        let mut texts: Vec<String> = Vec::new();
        for first in levels {
            texts.push(first.into());
            for second in levels {
                texts.push([first, second].join("/"));
                for third in levels {
                    texts.push([first, second, third].join("/"));
                }
            }
        }
        let filters: Vec<&String> = texts
            .iter()
            .filter(|text| topic::check_filter(text).is_ok())
            .collect();
        let names = texts
            .iter()
            .filter(|text| !text.is_empty() && !text.contains(['+', '#']));
        let mut trie = Trie::new(1);
        let mut nodes = Vec::new();
        for (index, filter) in filters.iter().enumerate() {
            nodes.push(trie.insert(filter, index as u32));
        }
        for name in names.clone() {
            let expected: Vec<u32> = (0..filters.len())
                .filter(|index| topic::matches(filters[*index], name))
                .map(|i| i as u32)
                .collect();
            assert_eq!(subscribers(&trie, name), expected, "{name}");
        }
        for (index, node) in nodes.iter().enumerate() {
            trie.remove(*node, index as u32);
        }
        assert_eq!(trie.nodes.len(), 1, "an empty trie is its root");
        for name in names {
            assert!(subscribers(&trie, name).is_empty());
        }
    }
}
