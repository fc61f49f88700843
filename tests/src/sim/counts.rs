//! What a campaign met. A campaign that met too little proves nothing.

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $text:literal, $when:ident;)*) => {
        /// What happened in one run, or in several.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// One line each.
            #[must_use]
            pub fn report(&self) -> String {
                let mut out = String::new();
                $(out += &format!("{:>12} {}\n", self.$name, $text);)*
                out
            }

            /// What should have happened in a campaign and did not. `sole`: all its clusters were of one member.
            #[must_use]
            pub fn missing(&self, sole: bool) -> Vec<&'static str> {
                let mut out = Vec::new();
                $(if self.$name == 0 && counts!(@due $when, sole) { out.push($text); })*
                out
            }
        }
    };
    (@due always, $sole:ident) => { true };
    (@due many, $sole:ident) => { !$sole };
    // It takes seven seconds without a leader, or more clients than there are.
    (@due rarely, $sole:ident) => { false };
}

counts! {
    runs: "runs", always;
    virtual_ms: "simulated milliseconds", always;
    events: "events", always;
    elections: "elections won", always;
    leader_changes: "leader changes with writes under way", many;
    transfers: "transfers of leadership", many;
    crashes: "crashes", always;
    crashes_in_calls: "crashes in the middle of a disk call", always;
    blackouts: "power losses of all members at once", many;
    disk_errors: "failed disk calls, after which the member stopped", always;
    unsynced_lost: "crashes that lost unsynced sectors", always;
    torn_tails: "starts that cut a torn tail", always;
    flush_rollbacks: "crashes that took the store back", always;
    rotten: "logs that lost what was synced, and were noticed", many;
    pauses: "pauses", always;
    slow_disks: "slow disks", always;
    partitions: "partitions", many;
    one_way: "one-way cuts", many;
    partial: "partial cuts", many;
    messages: "messages delivered", many;
    messages_lost: "messages lost", many;
    messages_doubled: "messages doubled", many;
    messages_overtaken: "messages that overtook another", many;
    log_cuts: "log cuts", always;
    archives_sent: "archives sent", many;
    archives_installed: "archives that became the state", many;
    archives_redone: "archives that became the state after a crash", rarely;
    compactions: "compactions", always;
    history_dropped: "entries of history dropped", always;
    decided: "entries decided", always;
    on_disk_checks: "entries looked for on all disks", always;
    acknowledged: "acknowledged writes", always;
    forwarded: "forwarded proposals", many;
    unknown: "requests of unknown outcome", always;
    refused: "requests refused before they were proposed", rarely;
    repeated: "requests made again under their idempotency key", always;
    reads: "linearizable reads", always;
    read_rounds: "reads that took a round of heartbeats", many;
    serializable_reads: "serializable reads", always;
    past_reads: "reads of the past", always;
    past_reads_refused: "reads refused after a compaction", always;
    hashes: "hashes compared", always;
    watch_events: "watch events", always;
    watch_progress: "watch progress answers", always;
    watch_resumed: "watchers that went on elsewhere or after a crash", always;
    watchers_compacted: "watchers told of a compaction", always;
    leases_renewed: "leases renewed", always;
    leases_expired: "leases expired", always;
}
