//! Which of many key ranges hold a key: a treap ordered by range, in which each node knows the furthest end below it.
//!
//! A query takes O(log n + answers) however the ranges overlap; a map of segments would take O(n²) memory for ranges
//! that nest, and clients choose the ranges. Priorities come from a counter, so two members that were asked the same
//! build the same tree; expected depth is O(log n).

use std::cmp::Ordering;

use bytes::Bytes;

/// A range `from <= key < to`; without `to` it is open to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) from: Bytes,
    pub(super) to: Option<Bytes>,
}

impl Ord for Interval {
    fn cmp(&self, other: &Self) -> Ordering {
        self.from.cmp(&other.from).then_with(|| cmp_end(self.to.as_deref(), other.to.as_deref()))
    }
}

impl PartialOrd for Interval {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Open ends come last.
fn cmp_end(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

/// Place of a node in the arena; `NIL` is no node. 2^32 - 1 ranges are far above the bound on watchers.
type Place = u32;
const NIL: Place = u32::MAX;

#[derive(Debug)]
struct Node<T> {
    interval: Interval,
    value: T,
    priority: u64,
    left: Place,
    right: Place,
    /// The node at or below this one whose range ends last.
    furthest: Place,
}

/// Ranges with a value each.
#[derive(Debug)]
pub(super) struct IntervalMap<T> {
    nodes: Vec<Option<Node<T>>>,
    free: Vec<Place>,
    root: Place,
    inserted: u64,
}

impl<T> Default for IntervalMap<T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NIL, inserted: 0 }
    }
}

impl<T> IntervalMap<T> {
    pub(super) fn get_mut(&mut self, interval: &Interval) -> Option<&mut T> {
        let mut at = self.root;
        while at != NIL {
            at = match interval.cmp(&self.node(at).interval) {
                Ordering::Less => self.node(at).left,
                Ordering::Greater => self.node(at).right,
                Ordering::Equal => return Some(&mut self.node_mut(at).value),
            };
        }
        None
    }

    /// The range must not be in the map yet.
    pub(super) fn insert(&mut self, interval: Interval, value: T) {
        self.inserted += 1;
        let priority = scatter(self.inserted);
        let (left, right) = self.split(self.root, &interval);
        let place = self.place(Node { interval, value, priority, left: NIL, right: NIL, furthest: NIL });
        self.refresh(place);
        let left = self.merge(left, place);
        self.root = self.merge(left, right);
    }

    pub(super) fn remove(&mut self, interval: &Interval) -> Option<T> {
        let (root, removed) = self.cut(self.root, interval);
        self.root = root;
        let node = self.nodes[removed? as usize].take().expect("a place in the tree holds a node");
        self.free.push(removed?);
        Some(node.value)
    }

    /// Calls `visit` for each range that holds `key`, in order of ranges.
    pub(super) fn stab(&self, key: &[u8], visit: &mut impl FnMut(&T)) {
        self.stab_at(self.root, key, visit);
    }

    fn stab_at(&self, at: Place, key: &[u8], visit: &mut impl FnMut(&T)) {
        if at == NIL {
            return;
        }
        let node = self.node(at);
        // Everything below ends at or before the key.
        if !ends_after(&self.node(node.furthest).interval, key) {
            return;
        }
        self.stab_at(node.left, key, visit);
        // All on the right start later still.
        if node.interval.from.as_ref() > key {
            return;
        }
        if ends_after(&node.interval, key) {
            visit(&node.value);
        }
        self.stab_at(node.right, key, visit);
    }

    /// Splits the tree at `at` into what is below `interval` and the rest.
    fn split(&mut self, at: Place, interval: &Interval) -> (Place, Place) {
        if at == NIL {
            return (NIL, NIL);
        }
        if self.node(at).interval < *interval {
            let (left, right) = self.split(self.node(at).right, interval);
            self.node_mut(at).right = left;
            self.refresh(at);
            (at, right)
        } else {
            let (left, right) = self.split(self.node(at).left, interval);
            self.node_mut(at).left = right;
            self.refresh(at);
            (left, at)
        }
    }

    /// Joins two trees of which all of `left` is below all of `right`.
    fn merge(&mut self, left: Place, right: Place) -> Place {
        if left == NIL {
            return right;
        }
        if right == NIL {
            return left;
        }
        if self.node(left).priority > self.node(right).priority {
            let joined = self.merge(self.node(left).right, right);
            self.node_mut(left).right = joined;
            self.refresh(left);
            left
        } else {
            let joined = self.merge(left, self.node(right).left);
            self.node_mut(right).left = joined;
            self.refresh(right);
            right
        }
    }

    /// Takes the node of `interval` out of the tree at `at`: the new tree, and where the node is.
    fn cut(&mut self, at: Place, interval: &Interval) -> (Place, Option<Place>) {
        if at == NIL {
            return (NIL, None);
        }
        let (left, right) = (self.node(at).left, self.node(at).right);
        let removed = match interval.cmp(&self.node(at).interval) {
            Ordering::Equal => return (self.merge(left, right), Some(at)),
            Ordering::Less => {
                let (left, removed) = self.cut(left, interval);
                self.node_mut(at).left = left;
                removed
            }
            Ordering::Greater => {
                let (right, removed) = self.cut(right, interval);
                self.node_mut(at).right = right;
                removed
            }
        };
        self.refresh(at);
        (at, removed)
    }

    /// Works out `furthest` anew from the node and its children.
    fn refresh(&mut self, at: Place) {
        let node = self.node(at);
        let mut furthest = at;
        for child in [node.left, node.right] {
            if child != NIL {
                let candidate = self.node(child).furthest;
                let (a, b) = (&self.node(candidate).interval, &self.node(furthest).interval);
                if cmp_end(a.to.as_deref(), b.to.as_deref()) == Ordering::Greater {
                    furthest = candidate;
                }
            }
        }
        self.node_mut(at).furthest = furthest;
    }

    fn place(&mut self, node: Node<T>) -> Place {
        if let Some(place) = self.free.pop() {
            self.nodes[place as usize] = Some(node);
            place
        } else {
            self.nodes.push(Some(node));
            Place::try_from(self.nodes.len() - 1).expect("watchers are bounded far below 2^32")
        }
    }

    fn node(&self, at: Place) -> &Node<T> {
        self.nodes[at as usize].as_ref().expect("a place in the tree holds a node")
    }

    fn node_mut(&mut self, at: Place) -> &mut Node<T> {
        self.nodes[at as usize].as_mut().expect("a place in the tree holds a node")
    }
}

fn ends_after(interval: &Interval, key: &[u8]) -> bool {
    interval.to.as_ref().is_none_or(|to| to.as_ref() > key)
}

/// Spreads counted numbers over 64 bits (the finalizer of SplitMix64).
pub(super) fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn key(rng: &mut ChaCha8Rng) -> Bytes {
        let len = rng.random_range(0..3);
        (0..len).map(|_| rng.random_range(b'a'..b'e')).collect()
    }

    /// Against a list that is searched from end to end.
    #[test]
    fn stab_finds_what_a_scan_finds() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut map = IntervalMap::default();
        let mut naive: Vec<(Interval, u64)> = Vec::new();
        for n in 0..20_000 {
            let interval = Interval { from: key(&mut rng), to: rng.random_bool(0.8).then(|| key(&mut rng)) };
            match naive.iter().position(|(at, _)| *at == interval) {
                Some(found) if rng.random_bool(0.6) => {
                    assert_eq!(map.remove(&interval), Some(naive.remove(found).1));
                }
                Some(found) => assert_eq!(map.get_mut(&interval).copied(), Some(naive[found].1)),
                None => {
                    assert_eq!(map.get_mut(&interval).copied(), None);
                    assert_eq!(map.remove(&interval), None);
                    map.insert(interval.clone(), n);
                    naive.push((interval, n));
                    naive.sort();
                }
            }
            let key = key(&mut rng);
            let mut found = Vec::new();
            map.stab(&key, &mut |value| found.push(*value));
            let expected: Vec<_> = naive
                .iter()
                .filter(|(at, _)| at.from <= key && at.to.as_ref().is_none_or(|to| key < *to))
                .map(|(_, value)| *value)
                .collect();
            assert_eq!(found, expected, "at {n}");
        }
    }

    /// Ranges that come in order make no list: a query of one answer must not walk them all.
    #[test]
    fn ordered_ranges_stay_shallow() {
        let mut map = IntervalMap::default();
        for n in 0..10_000_u32 {
            let from = Bytes::copy_from_slice(&n.to_be_bytes());
            map.insert(Interval { from, to: Some(Bytes::copy_from_slice(&(n + 1).to_be_bytes())) }, n);
        }
        fn depth(map: &IntervalMap<u32>, at: Place) -> usize {
            if at == NIL { 0 } else { 1 + depth(map, map.node(at).left).max(depth(map, map.node(at).right)) }
        }
        // Expected about 2 ln n = 18; 60 leaves the chance of a false alarm negligible, and the tree is deterministic.
        assert!(depth(&map, map.root) < 60);
    }
}
