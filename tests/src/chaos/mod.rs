//! Real members under real faults, and a history of what their clients saw.
//!
//! # The life of a round
//!
//! 1. Three or five members begin, each in a network namespace of its own where the machine allows that ([`network`]).
//! 2. Clients on all of them put, delete, compare and read without a pause and write down everything ([`clients`]);
//!    watchers follow all of it, from member to member ([`watchers`]); somebody asks who leads ([`leaders`]).
//! 3. The nemesis kills, stops, pauses and cuts off members, alone or together, from a seed ([`nemesis`]). The seed gives
//!    the same misfortunes again, not the same run: the machine has its own mind.
//! 4. All is healed. Every member must answer within two election timeouts and what its start takes. Then the verdict
//!    ([`verdict`]): the history is strictly serializable ([`crate::history`]), a watch from revision 1 on any member and
//!    what each watcher put together tell the same, all members hold the same keys with the same hash, no term had two
//!    leaders, and no member ended that was not made to.
//!
//! A round that fails keeps folders and logs. What should happen in a run and did not is a failure too: a nemesis that
//! hits nobody proves nothing.

pub mod clients;
pub mod leaders;
pub mod nemesis;
pub mod network;
pub mod verdict;
pub mod watchers;

use std::{
    path::PathBuf,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    cluster::{Cluster, Layout},
    history::Summary,
    process::Kind,
};
use clients::Clients;
use leaders::Leaders;
use nemesis::{Nemesis, Strokes, alive};
use network::Network;
use watchers::Watchers;

/// Half the defaults, in the same proportion: more elections in the same time.
const HEARTBEAT_MS: u64 = 50;
const ELECTION_MS: u64 = 500;
/// What a debug build needs on a busy machine until it has replayed its log and opened its sockets.
const START: Duration = Duration::from_secs(8);
/// Clients of a round.
const CLIENTS: usize = 12;
/// Misfortunes of a round: longer rounds only make the history larger.
const TURNS: usize = 40;
/// Acknowledgements that the clients may need after a misfortune, so that not all of the history is silence.
const BREATH: usize = 40;

/// A round to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub size: usize,
    pub seed: u64,
    /// Ends when so many processes were killed, if that comes first.
    pub kills: usize,
    /// Ends then, if that comes first.
    pub until: Instant,
    /// For data and logs.
    pub folder: PathBuf,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub rounds: usize,
    pub turns: usize,
    pub strokes: Strokes,
    /// Terms that had a leader, but for the first of each round.
    pub leader_changes: usize,
    pub resumed: usize,
    pub revisions: usize,
    /// From a heal until every member answered; the longest.
    pub slowest_heal: Duration,
    pub history: Summary,
}

impl Report {
    pub fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.turns += other.turns;
        self.strokes.add(other.strokes);
        self.leader_changes += other.leader_changes;
        self.resumed += other.resumed;
        self.revisions += other.revisions;
        self.slowest_heal = self.slowest_heal.max(other.slowest_heal);
        self.history.add(other.history);
    }

    /// What should have happened, and did not.
    #[must_use]
    pub fn missing(&self, network: &Network) -> Vec<&'static str> {
        let (strokes, history) = (&self.strokes, &self.history);
        let namespaces = matches!(network, Network::Namespaces { .. });
        let wanted = [
            ("kills", strokes.kills),
            ("kills of leaders", strokes.leaders_killed),
            ("kills of all", strokes.all_killed),
            ("stops", strokes.stops),
            ("pauses", strokes.pauses),
            ("pauses of leaders", strokes.leaders_paused),
            ("partitions", strokes.partitions),
            ("partitions in one direction", if namespaces { strokes.one_way } else { 1 }),
            ("leaders that were cut off", if namespaces { strokes.leaders_cut_off } else { 1 }),
            ("lossy networks", if namespaces { strokes.lossy } else { 1 }),
            ("changes of leaders", self.leader_changes),
            ("watches that went on elsewhere", self.resumed),
            ("answers", history.done),
            ("requests without an answer", history.unknown),
            ("of these some that took effect", history.unknown_effective),
            ("transactions that failed", history.txns_failed),
            ("reads", history.reads),
            ("serializable reads that were behind", history.reads_behind),
        ];
        wanted.iter().filter(|(_, times)| *times == 0).map(|(name, _)| *name).collect()
    }
}

/// One round.
///
/// # Errors
/// A violation, or a member that does not come back.
pub async fn round(plan: &Plan, network: &Network) -> Result<Report> {
    let flags = vec![format!("--heartbeat-interval={HEARTBEAT_MS}"), format!("--election-timeout={ELECTION_MS}")];
    let mut cluster = Cluster::lay_out(&Layout {
        kind: plan.kind,
        size: plan.size,
        seed: plan.seed,
        flags,
        folder: Some(plan.folder.clone()),
        places: network.places(),
    })?;
    network.heal(&cluster)?;
    let all: Vec<_> = (0..plan.size).collect();
    cluster.start_members(&all)?;
    let urls = cluster.urls();
    let leaders = Leaders::look(urls.clone());
    let clients = Clients::start(urls.clone(), CLIENTS, plan.seed);
    let watchers = Watchers::start(urls, plan.seed);
    let mut nemesis = Nemesis { network, strokes: Strokes::default() };
    let turns = strike(plan, &mut nemesis, &mut cluster, &leaders, &clients).await?;

    nemesis.heal(&mut cluster)?;
    let slowest_heal = verdict::lives(&cluster, START + 2 * Duration::from_millis(ELECTION_MS)).await?;
    alive(&mut cluster)?;
    let zero = clients.zero;
    let mut ops = clients.stop()?;
    let (op, last) = verdict::last_write(&cluster, zero, CLIENTS).await?;
    ops.push(op);
    let (seen, resumed) = tokio::task::spawn_blocking(move || watchers.stop(last)).await??;
    let history = verdict::judge(&cluster, &ops, &seen, last).await?;
    alive(&mut cluster)?;
    let terms = leaders.terms().map_err(anyhow::Error::msg)?;
    Ok(Report {
        rounds: 1,
        turns,
        strokes: nemesis.strokes,
        leader_changes: terms.saturating_sub(1),
        resumed,
        revisions: usize::try_from(last).context("a revision is positive")?,
        slowest_heal,
        history,
    })
}

/// Misfortune after misfortune; how many.
async fn strike(
    plan: &Plan,
    nemesis: &mut Nemesis<'_>,
    cluster: &mut Cluster,
    leaders: &Leaders,
    clients: &Clients,
) -> Result<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let election = Duration::from_millis(ELECTION_MS);
    let mut turns = 0;
    while turns < TURNS && nemesis.strokes.kills < plan.kills && Instant::now() < plan.until {
        turns += 1;
        let mut faults = Vec::new();
        for _ in 0..if rng.random_range(0..3) == 0 { 2 } else { 1 } {
            let leader = leaders.current();
            let mut fault = nemesis.choose(plan.size, leader, &mut rng);
            nemesis.inflict(&mut fault, cluster, leader).with_context(|| format!("turn {turns}, {fault:?}"))?;
            faults.push(fault);
            hold(nemesis::duration(election, &mut rng)).await;
        }
        if rng.random() {
            faults.reverse();
        }
        for fault in faults {
            nemesis.undo(&fault, cluster).with_context(|| format!("turn {turns}, end of {fault:?}"))?;
        }
        alive(cluster).with_context(|| format!("turn {turns}"))?;
        if rng.random_range(0..3) > 0 {
            breathe(clients, START).await;
        } else {
            hold(nemesis::duration(election, &mut rng)).await;
        }
    }
    Ok(turns)
}

/// Time passes: here it is what is wanted, and stands for no condition.
async fn hold(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

/// Until some requests were answered, or too much time has passed; the verdict on that is at the end.
async fn breathe(clients: &Clients, most: Duration) {
    let enough = clients.progress.done.load(SeqCst) + BREATH;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let _ = tokio::time::timeout(most, async {
        while clients.progress.done.load(SeqCst) < enough {
            looks.tick().await;
        }
    })
    .await;
}
