//! The other members: from the configuration and the disk to the room `peer`, and the wait of a first start.

use std::{net::TcpListener, time::Duration};

use super::{Ends, failure::Failure};
use crate::{
    config::Config,
    node::Prepared,
    peer::{Greeted, Me, Peers, PeersConfig, Timing},
    state,
};

/// How often a first start says whom it waits for.
const SAY_WAITING: Duration = Duration::from_secs(5);

pub(super) fn start(config: &Config, listeners: Vec<TcpListener>, prepared: &Prepared) -> Result<Peers, Failure> {
    let identity = prepared.identity();
    let me = Me {
        cluster: identity.cluster,
        member: identity.member,
        incarnation: identity.incarnation,
        level: state::LEVEL,
    };
    let others = prepared.members().into_iter().filter(|member| member.id != me.member);
    let timing =
        Timing { election: config.election_timeout, read: config.raft_read_timeout, write: config.raft_write_timeout };
    let config = PeersConfig { me, others: others.map(|member| (member.id, member.peer_urls)).collect(), timing };
    let known = prepared.known_peers()?;
    Peers::start(config, listeners, prepared.transport(), known).map_err(|error| super::thread_failed(error).into())
}

/// Waits until every other member has let this one in. False: somebody asked for the end first.
pub(super) async fn greet(peers: &Peers, ends: &mut Ends) -> Result<bool, Failure> {
    let mut greeted = peers.greeted();
    let mut say = tokio::time::interval(SAY_WAITING);
    // The first tick comes at once, and most starts need no more than that.
    say.tick().await;
    loop {
        let now = greeted.borrow_and_update().clone();
        match &now {
            Greeted::All => return Ok(true),
            Greeted::Emptied { by, known } => return Err(Failure::emptied(by.0, *known)),
            Greeted::Waiting(_) => {}
        }
        tokio::select! {
            changed = greeted.changed() => changed.map_err(|_| "the thread of peers is gone".to_owned())?,
            signal = ends.next() => {
                tracing::info!(signal, "stopping before the first start was finished");
                return Ok(false);
            }
            _ = say.tick() => {
                if let Greeted::Waiting(members) = &now {
                    let members: Vec<_> = members.iter().map(|member| format!("{:x}", member.0)).collect();
                    let members = members.join(",");
                    tracing::info!(members, "a first start waits for all other members of the initial cluster");
                }
            }
        }
    }
}

/// Comes back when this member must end because another one knows it under another incarnation.
pub(super) async fn emptied(peers: &Peers) -> Failure {
    let mut greeted = peers.greeted();
    loop {
        if let Greeted::Emptied { by, known } = *greeted.borrow_and_update() {
            return Failure::emptied(by.0, known);
        }
        if greeted.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
