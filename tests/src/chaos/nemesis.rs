//! What befalls the members, from a seed.

use std::{os::unix::process::ExitStatusExt, time::Duration};

use anyhow::{Context, Result, bail};
use rand::{Rng, RngExt, seq::SliceRandom};
use rustix::process::Signal;

use super::network::{Network, Rule};
use crate::{cluster::Cluster, process::Kind};

/// One misfortune, until it is undone.
#[derive(Clone, Debug)]
pub enum Fault {
    /// SIGKILL, of all at the same moment.
    Kill(Vec<usize>),
    /// SIGTERM, and a drain.
    Stop(usize),
    /// SIGSTOP.
    Pause(Vec<usize>),
    /// Nothing gets from one to the other.
    Cut(Vec<(usize, usize)>),
    /// One packet in five is lost, from one to the other.
    Lossy(Vec<(usize, usize)>),
    /// Nothing comes in through this member's proxy.
    Swallow(Vec<usize>),
}

/// What happened how often; each of them that is zero in a long run is a failure of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strokes {
    /// Processes that were killed, whatever with.
    pub kills: usize,
    pub leaders_killed: usize,
    pub all_killed: usize,
    pub stops: usize,
    pub pauses: usize,
    pub leaders_paused: usize,
    pub partitions: usize,
    pub one_way: usize,
    pub leaders_cut_off: usize,
    pub lossy: usize,
}

/// What may be hit: the members that run, and what is known of them.
#[derive(Debug)]
pub struct Nemesis<'a> {
    pub network: &'a Network,
    pub strokes: Strokes,
}

/// Everyone who is not in `of`.
fn others(size: usize, of: &[usize]) -> Vec<usize> {
    (0..size).filter(|n| !of.contains(n)).collect()
}

fn pairs(from: &[usize], to: &[usize]) -> Vec<(usize, usize)> {
    from.iter().flat_map(|from| to.iter().map(|to| (*from, *to))).filter(|(from, to)| from != to).collect()
}

impl Nemesis<'_> {
    /// Chooses; does nothing yet.
    pub fn choose(&self, size: usize, leader: Option<usize>, rng: &mut impl Rng) -> Fault {
        let mut shuffled: Vec<_> = (0..size).collect();
        shuffled.shuffle(rng);
        let any = shuffled[0];
        let leader = leader.unwrap_or(any);
        let all: Vec<_> = (0..size).collect();
        match rng.random_range(0..100) {
            0..15 => Fault::Kill(vec![any]),
            15..30 => Fault::Kill(vec![leader]),
            30..36 => Fault::Kill(all),
            36..42 => Fault::Kill(shuffled[..=size / 2].to_vec()),
            42..48 => Fault::Stop(if rng.random() { leader } else { any }),
            48..54 => Fault::Pause(vec![any]),
            54..62 => Fault::Pause(vec![leader]),
            62..65 => Fault::Pause(all),
            _ => self.partition(&shuffled, leader, rng),
        }
    }

    fn partition(&self, shuffled: &[usize], leader: usize, rng: &mut impl Rng) -> Fault {
        let (size, any) = (shuffled.len(), shuffled[0]);
        let all: Vec<_> = (0..size).collect();
        if matches!(self.network, Network::Proxies) {
            // In: one member, the leader, or everybody.
            return Fault::Swallow(match rng.random_range(0..3) {
                0 => vec![any],
                1 => vec![leader],
                _ => all,
            });
        }
        let apart = |one: &[usize]| [pairs(one, &others(size, one)), pairs(&others(size, one), one)].concat();
        match rng.random_range(0..9) {
            0..=1 => Fault::Cut(apart(&[leader])),
            2 => Fault::Cut(apart(&[any])),
            3 => Fault::Cut(apart(&shuffled[..size / 2])),
            4 => Fault::Cut(pairs(&[leader], &others(size, &[leader]))),
            5 => Fault::Cut(pairs(&others(size, &[leader]), &[leader])),
            // Both are reached by the third.
            6 => Fault::Cut(vec![(shuffled[0], shuffled[1]), (shuffled[1], shuffled[0])]),
            7 => Fault::Cut(pairs(&all, &all)),
            _ => Fault::Lossy(pairs(&all, &all)),
        }
    }

    /// Lets it happen. What cannot happen, because a member does not run, does not.
    ///
    /// # Errors
    /// If the machine does not do it; or if a member had ended by itself.
    pub fn inflict(&mut self, fault: &mut Fault, cluster: &mut Cluster, leader: Option<usize>) -> Result<()> {
        let size = cluster.members.len();
        match fault {
            Fault::Kill(victims) => {
                victims.retain(|n| cluster.members[*n].server.is_some());
                alive(cluster)?;
                // Stopped first, so that the first to die is not missed by the last.
                for n in &*victims {
                    cluster.members[*n].server.as_ref().context("it runs")?.pause(true)?;
                }
                victims.iter().try_for_each(|n| cluster.kill(*n))?;
                self.strokes.kills += victims.len();
                self.strokes.leaders_killed += usize::from(leader.is_some_and(|leader| victims.contains(&leader)));
                self.strokes.all_killed += usize::from(victims.len() == size);
            }
            Fault::Stop(n) => {
                alive(cluster)?;
                let Some(mut server) = cluster.members[*n].server.take() else { return Ok(()) };
                server.pause(false)?;
                let status = server.stop()?;
                // etcd ends by the signal that it was asked with.
                let as_asked = server.kind == Kind::Etcd && status.signal() == Some(Signal::TERM.as_raw());
                if !status.success() && !as_asked {
                    bail!("{} ended with {status} when it was asked to\n{}", cluster.members[*n].name, server.log());
                }
                self.strokes.stops += 1;
            }
            Fault::Pause(victims) => {
                victims.retain(|n| cluster.members[*n].server.is_some());
                for n in &*victims {
                    cluster.members[*n].server.as_ref().context("it runs")?.pause(true)?;
                }
                self.strokes.pauses += victims.len();
                self.strokes.leaders_paused += usize::from(leader.is_some_and(|leader| victims.contains(&leader)));
            }
            Fault::Cut(pairs) => {
                pairs.iter().try_for_each(|(from, to)| self.network.rule(Rule::Drop, *from, *to, true))?;
                self.strokes.partitions += 1;
                self.strokes.one_way += usize::from(pairs.iter().any(|(from, to)| !pairs.contains(&(*to, *from))));
                let reaches = |n: usize| (0..size).any(|to| to != n && !pairs.contains(&(n, to)));
                self.strokes.leaders_cut_off += usize::from(leader.is_some_and(|leader| !reaches(leader)));
            }
            Fault::Lossy(pairs) => {
                pairs.iter().try_for_each(|(from, to)| self.network.rule(Rule::Lossy, *from, *to, true))?;
                self.strokes.lossy += 1;
            }
            Fault::Swallow(victims) => {
                victims.iter().for_each(|n| Network::swallow(cluster, *n, true));
                self.strokes.partitions += 1;
            }
        }
        Ok(())
    }

    /// Puts it right again.
    ///
    /// # Errors
    /// If the machine does not do it.
    pub fn undo(&mut self, fault: &Fault, cluster: &mut Cluster) -> Result<()> {
        match fault {
            Fault::Kill(victims) => victims.iter().try_for_each(|n| start(cluster, *n)),
            Fault::Stop(n) => start(cluster, *n),
            Fault::Pause(victims) => victims.iter().try_for_each(|n| go_on(cluster, *n)),
            Fault::Cut(pairs) => pairs.iter().try_for_each(|(a, b)| self.network.rule(Rule::Drop, *a, *b, false)),
            Fault::Lossy(pairs) => pairs.iter().try_for_each(|(a, b)| self.network.rule(Rule::Lossy, *a, *b, false)),
            Fault::Swallow(victims) => {
                victims.iter().for_each(|n| Network::swallow(cluster, *n, false));
                Ok(())
            }
        }
    }

    /// Puts everything right.
    ///
    /// # Errors
    /// If the machine does not do it.
    pub fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.network.heal(cluster)?;
        for n in 0..cluster.members.len() {
            go_on(cluster, n)?;
            start(cluster, n)?;
        }
        Ok(())
    }
}

fn start(cluster: &mut Cluster, n: usize) -> Result<()> {
    if cluster.members[n].server.is_none() { cluster.spawn(n) } else { Ok(()) }
}

fn go_on(cluster: &Cluster, n: usize) -> Result<()> {
    cluster.members[n].server.as_ref().map_or(Ok(()), |server| server.pause(false))
}

/// No member ends unless it is made to.
///
/// # Errors
/// If one did.
pub fn alive(cluster: &mut Cluster) -> Result<()> {
    for member in &mut cluster.members {
        if let Some(server) = &mut member.server
            && let Some(status) = server.ended()?
        {
            bail!("{} ended by itself ({status})\n{}", member.name, server.log());
        }
    }
    Ok(())
}

/// How long a fault lasts: mostly shorter than an election, sometimes so long that all know of it.
pub fn duration(election: Duration, rng: &mut impl Rng) -> Duration {
    let most = if rng.random_range(0..4) == 0 { election * 4 } else { election * 3 / 2 };
    Duration::from_millis(rng.random_range(20..u64::try_from(most.as_millis()).expect("short")))
}

impl Strokes {
    pub fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.leaders_killed += other.leaders_killed;
        self.all_killed += other.all_killed;
        self.stops += other.stops;
        self.pauses += other.pauses;
        self.leaders_paused += other.leaders_paused;
        self.partitions += other.partitions;
        self.one_way += other.one_way;
        self.leaders_cut_off += other.leaders_cut_off;
        self.lossy += other.lossy;
    }
}
