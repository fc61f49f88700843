//! What may go wrong in a run, drawn from its seed: each kind of misfortune is on or off (swarm testing: a run in which
//! everything happens all the time hides what only two of them can do together).

use rand::{Rng, RngExt};

/// All of it derives from the seed, and is printed with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    pub members: usize,
    pub clients: usize,
    /// Mean time between an answer and the client's next request.
    pub think_ms: u64,
    /// Mean time between misfortunes.
    pub calm_ms: u64,
    pub crashes: bool,
    /// Everybody loses power at once.
    pub blackouts: bool,
    /// Death in the middle of a disk call.
    pub torn_calls: bool,
    pub disk_errors: bool,
    pub slow_disks: bool,
    pub pauses: bool,
    /// A thread runs late now and then.
    pub stalls: bool,
    pub partitions: bool,
    pub one_way: bool,
    pub partial: bool,
    pub loss: bool,
    pub duplicates: bool,
    pub reorder: bool,
    pub drift: bool,
    pub transfers: bool,
    /// The logs of a minority lose what was synced.
    pub rot: bool,
    pub log_cuts: bool,
    /// Logs are cut whoever still needs them: then the whole state is sent.
    pub archives: bool,
    /// Ids of leases that are gone are granted again.
    pub reused_leases: bool,
    /// Usual time of a message on its way.
    pub network_us: u64,
    /// Usual time of a sync.
    pub sync_us: u64,
    /// Usual time until a thread that has work runs.
    pub turn_us: u64,
}

impl Options {
    /// `members`: as many as that, or as many as the seed says.
    #[must_use]
    pub fn draw(rng: &mut impl Rng, members: Option<usize>) -> Self {
        let drawn = [1, 3, 3, 3, 5][rng.random_range(0..5)];
        let mut on = |often: f64| rng.random_bool(often);
        let flags = [on(0.8), on(0.5), on(0.6), on(0.4), on(0.5), on(0.6), on(0.5), on(0.7), on(0.6), on(0.5)];
        let [crashes, blackouts, torn_calls, disk_errors, slow_disks, pauses, stalls, partitions, one_way, partial] =
            flags;
        Self {
            members: members.unwrap_or(drawn),
            crashes,
            blackouts,
            torn_calls,
            disk_errors,
            slow_disks,
            pauses,
            stalls,
            partitions,
            one_way,
            partial,
            loss: on(0.5),
            duplicates: on(0.5),
            reorder: on(0.5),
            drift: on(0.6),
            transfers: on(0.5),
            rot: on(0.3),
            log_cuts: on(0.8),
            archives: on(0.7),
            reused_leases: on(0.5),
            clients: rng.random_range(2..=8),
            think_ms: rng.random_range(30..=500),
            calm_ms: rng.random_range(300..=4_000),
            network_us: [100, 500, 2_000, 20_000][rng.random_range(0..4)],
            sync_us: [100, 1_000, 5_000, 20_000][rng.random_range(0..4)],
            turn_us: [20, 100, 1_000][rng.random_range(0..3)],
        }
    }

    /// The same cluster when nothing goes wrong any more.
    #[must_use]
    pub fn healed(self) -> Self {
        Self {
            crashes: false,
            blackouts: false,
            torn_calls: false,
            disk_errors: false,
            slow_disks: false,
            pauses: false,
            stalls: false,
            partitions: false,
            one_way: false,
            partial: false,
            loss: false,
            duplicates: false,
            reorder: false,
            transfers: false,
            rot: false,
            ..self
        }
    }
}
