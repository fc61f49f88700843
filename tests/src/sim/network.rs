//! The network between members: each direction of each link delays, loses, doubles and reorders on its own, and can be
//! cut. What a link does to a message is decided when it is sent; a cut also swallows what is on its way.

use std::collections::{BTreeMap, BTreeSet};

use conclave_server::{node::Message, types::MemberId};
use rand::{Rng, RngExt};

use super::{counts::Counts, options::Options};

/// From one member to another.
pub(super) type Link = (MemberId, MemberId);

/// One in how many messages is lost, or doubled, where that is on.
const LOST_ONE_IN: u32 = 50;
const DOUBLED_ONE_IN: u32 = 30;
/// One in how many messages takes far longer than usual, where messages may overtake each other.
const LATE_ONE_IN: u32 = 20;

#[derive(Debug, Default)]
pub(super) struct Network {
    /// How many troubles cut each link.
    cut: BTreeMap<Link, usize>,
    /// When the last message of a link arrives, so that others come behind it.
    last: BTreeMap<Link, u64>,
}

impl Network {
    pub(super) fn cut(&mut self, links: &BTreeSet<Link>) {
        for link in links {
            *self.cut.entry(*link).or_default() += 1;
        }
    }

    pub(super) fn mend(&mut self, links: &BTreeSet<Link>) {
        for link in links {
            let cuts = self.cut.get_mut(link).expect("it was cut");
            *cuts -= 1;
            if *cuts == 0 {
                self.cut.remove(link);
            }
        }
    }

    pub(super) fn is_cut(&self, message: &Message) -> bool {
        self.cut.contains_key(&(message.from, message.to))
    }

    /// When copies of the message arrive.
    pub(super) fn send(
        &mut self,
        message: &Message,
        now_us: u64,
        options: &Options,
        rng: &mut impl Rng,
        counts: &mut Counts,
    ) -> Vec<u64> {
        if self.is_cut(message) || (options.loss && rng.random_ratio(1, LOST_ONE_IN)) {
            counts.messages_lost += 1;
            return Vec::new();
        }
        let doubled = options.duplicates && rng.random_ratio(1, DOUBLED_ONE_IN);
        counts.messages_doubled += u64::from(doubled);
        let link = (message.from, message.to);
        (0..=u32::from(doubled))
            .map(|_| {
                let usual = options.network_us;
                let mut delay = rng.random_range(usual / 2..=usual * 2);
                if options.reorder && rng.random_ratio(1, LATE_ONE_IN) {
                    delay += rng.random_range(0..usual * 100);
                }
                let last = self.last.entry(link).or_default();
                let mut at = now_us + delay;
                if at < *last {
                    if options.reorder {
                        counts.messages_overtaken += 1;
                    } else {
                        at = *last;
                    }
                }
                *last = at.max(*last);
                at
            })
            .collect()
    }
}
