//! L1: a lease is not expired before its TTL has passed since the last renewal that was answered (or since its grant), on
//! the clock of the leader that expired it.

use std::collections::BTreeMap;

use conclave_proto::conclave::raft::v1::{LeaseRevoke, command::Kind};
use conclave_server::{
    state::Reply,
    types::{LeaseId, LogIndex, MemberId},
};

use super::{Invariant, Seen, Truth, Verdict, must};

#[derive(Default)]
pub(super) struct NeverEarly {
    leases: BTreeMap<LeaseId, Lease>,
}

/// The newest promise, and the expiry that ended the lease, if one did.
struct Lease {
    ttl_ms: i64,
    since: Clocks,
    expired: Option<(MemberId, LogIndex, Clocks)>,
}

type Clocks = Vec<(MemberId, u64)>;

fn reading(clocks: &Clocks, member: MemberId) -> u64 {
    clocks.iter().find(|(other, _)| *other == member).map_or(0, |(_, reading)| *reading)
}

fn in_time(lease: LeaseId, ttl_ms: i64, since: &Clocks, expired: &(MemberId, LogIndex, Clocks)) -> Verdict {
    let (leader, index, at) = expired;
    let lived = reading(at, *leader).saturating_sub(reading(since, *leader));
    must(lived >= u64::try_from(ttl_ms).unwrap_or(0), || {
        format!("lease {lease} is expired by entry {index} after {lived} ms on the clock of m{leader}, of {ttl_ms}")
    })
}

impl Invariant for NeverEarly {
    fn see(&mut self, seen: &Seen, truth: &Truth) -> Verdict {
        match seen {
            Seen::Renewed(renewed) => {
                let Some(lease) = self.leases.get_mut(&renewed.lease) else { return Ok(()) };
                match &lease.expired {
                    // It was expired while the renewal was under way. A grant may have come behind that.
                    Some(expired) if reading(&expired.2, expired.0) >= reading(&renewed.called, expired.0) => {
                        in_time(renewed.lease, renewed.ttl_ms, &renewed.called, expired)?;
                    }
                    Some(_) => {}
                    None => {
                        let newer = |(member, at): &(MemberId, u64)| *at >= reading(&lease.since, *member);
                        if renewed.called.iter().all(newer) {
                            lease.since.clone_from(&renewed.called);
                        }
                    }
                }
            }
            Seen::Decided(decided) => {
                if let Ok(Reply::LeaseGrant(grant)) = &decided.reply {
                    let (ttl_ms, since) = (grant.ttl * 1_000, decided.clocks.clone());
                    self.leases.insert(LeaseId(grant.id), Lease { ttl_ms, since, expired: None });
                }
                let entry = truth.at(decided.slot.index).and_then(|known| known.entry.as_ref());
                let command = entry.and_then(|entry| entry.command.as_ref()?.kind.as_ref());
                let Some(Kind::LeaseRevoke(LeaseRevoke { id, expired: true, .. })) = command else { return Ok(()) };
                if !matches!(decided.reply, Ok(Reply::LeaseRevoke(_))) {
                    return Ok(());
                }
                let id = LeaseId(*id);
                let leader = entry.and_then(|entry| entry.header.as_ref()?.request_id).map_or(0, |id| id.member);
                let Some(lease) = self.leases.get_mut(&id) else { return Ok(()) };
                let expired = (MemberId(leader), decided.slot.index, decided.clocks.clone());
                in_time(id, lease.ttl_ms, &lease.since, &expired)?;
                lease.expired = Some(expired);
            }
            _ => {}
        }
        Ok(())
    }
}
