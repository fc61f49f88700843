//! Runs `testscripts/*`: one entry a line, then what was answered and what watchers are told.

use std::{error::Error, fmt::Write as _, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use conclave_proto::{etcdserverpb as pb, etcdserverpb::response_op::Response, mvccpb::KeyValue};
use goldenscript::{Argument, Command, Context};

use super::{language, world::World};
use crate::{
    lease::{self, Grant},
    members,
    mvcc::Kind,
    state::{
        Applied, Events, LeaseEffect, Reply, check_txn, is_read_only, query, range_reply, read_txn, tests::world::small,
    },
    types::{LogIndex, MemberId, Term},
};

struct Runner(World);

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut line = vec![command.name.clone()];
        let (mut key, mut proposed) = (String::new(), self.0.term);
        for arg in &command.args {
            match arg {
                Argument::KeyValue(name, value) if name == "idem" => key.clone_from(value),
                Argument::KeyValue(name, value) if name == "proposed" => proposed = Term(value.parse()?),
                Argument::KeyValue(name, value) => line.push(format!("{name}={value}")),
                Argument::Positional(word) => line.push(word.clone()),
                other => return Err(format!("what is {other}?").into()),
            }
        }
        let text = line.join(" ");
        match command.name.as_str() {
            "term" => self.0.term = Term(line[1].parse()?),
            "get" => return Ok(self.get(&text)?),
            "read" => return Ok(self.read(&text.replacen("read", "txn", 1))?),
            "leases" => return Ok(self.leases()),
            "members" => return Ok(self.members()),
            "member" => self.member(line[1].parse()?),
            "again" => return Ok(self.again()),
            "empty" => {
                self.0.last = self.0.last.next();
                let empty = crate::state::Committed { index: self.0.last, term: self.0.term, entry: None };
                return Ok(show(&self.0.apply_committed(empty)));
            }
            _ => {
                let committed = self.0.committed(language::command(&text)?, &key, proposed);
                return Ok(show(&self.0.apply_committed(committed)));
            }
        }
        Ok(String::new())
    }
}

impl Runner {
    fn get(&self, text: &str) -> Result<String, String> {
        let view = self.0.view();
        let request = language::range(text)?;
        let reply = query(&request).and_then(|query| range_reply(&view.view, view.position, &query));
        Ok(match reply {
            Ok(reply) => show_range(&reply) + "\n",
            Err(error) => format!("{error}\n"),
        })
    }

    fn read(&self, text: &str) -> Result<String, String> {
        let Ok(super::super::entry::command::Kind::Txn(txn)) = language::command(text) else {
            return Err("that is no txn".into());
        };
        if !is_read_only(&txn) {
            return Ok("not read-only\n".into());
        }
        let view = self.0.view();
        let published = Arc::new(ArcSwap::from(Arc::clone(&view)));
        Ok(match check_txn(&txn, 128).and_then(|()| read_txn(&published, &view, &txn)) {
            Ok(reply) => show_txn(&reply, 0),
            Err(error) => format!("{error}\n"),
        })
    }

    fn leases(&self) -> String {
        let view = &self.0.view().view;
        let mut out = String::new();
        for (id, Grant { ttl_ms, index }) in lease::all(view) {
            let keys: Vec<_> = lease::keys(view, id).iter().map(|key| text(key)).collect();
            let _ = writeln!(out, "lease {id} ttl {ttl_ms} ms since entry {index} keys {keys:?}");
        }
        out
    }

    fn members(&self) -> String {
        members::all(&self.0.view().view).iter().map(|member| format!("{member:?}\n")).collect()
    }

    fn member(&mut self, id: u64) {
        let member = members::Member {
            id: MemberId(id),
            name: String::new(),
            peer_urls: vec!["http://p".into()],
            client_urls: vec![],
            learner: false,
        };
        self.0.state.bootstrap(&[member], vec![7]);
    }

    /// Hands the last entry in again, as a restart does with what was not flushed.
    fn again(&mut self) -> String {
        let index = self.0.last;
        self.0.last = LogIndex(index.0 - 1);
        let put = language::command("put again again").expect("a command");
        let committed = self.0.committed(put, "", self.0.term);
        format!("{} applied\n", self.0.state.apply(vec![committed]).expect("the entry is skipped").len())
    }
}

fn show(applied: &Applied) -> String {
    let mut out = match &applied.reply {
        Err(error) => format!("{error}\n"),
        Ok(Reply::Put(r)) => show_put(r) + "\n",
        Ok(Reply::DeleteRange(r)) => show_delete(r) + "\n",
        Ok(Reply::Txn(r)) => show_txn(r, 0),
        Ok(Reply::Compact(r)) => format!("compacted, rev {}\n", revision(&r.header)),
        Ok(Reply::LeaseGrant(r)) => format!("granted {} ttl {} s, rev {}\n", r.id, r.ttl, revision(&r.header)),
        Ok(Reply::LeaseRevoke(r)) => format!("revoked, rev {}\n", revision(&r.header)),
        Ok(Reply::Done) => "done\n".into(),
    };
    match &applied.effects.events {
        Events::None => {}
        Events::TooMany => out.push_str("  events: too many\n"),
        Events::Changes(changes) => {
            for change in changes.iter() {
                let kind = if change.kind == Kind::Put { "put" } else { "delete" };
                let _ = write!(out, "  event {}.{} {kind} {}", applied.revision, change.sub, show_kv(&change.kv));
                let _ = writeln!(
                    out,
                    "{}",
                    change.prev.as_ref().map_or(String::new(), |kv| format!(" was {}", show_kv(kv)))
                );
            }
        }
    }
    for effect in &applied.effects.leases {
        let _ = match effect {
            LeaseEffect::Granted { id, grant } => writeln!(out, "  lease {id} lives {} ms", grant.ttl_ms),
            LeaseEffect::Revoked { id } => writeln!(out, "  lease {id} is gone"),
        };
    }
    if let Some(compacted) = applied.effects.compacted {
        let _ = writeln!(out, "  compacted {compacted}");
    }
    out
}

fn show_txn(reply: &pb::TxnResponse, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let held = if reply.succeeded { "succeeded" } else { "failed" };
    let mut out = format!("{indent}{held} rev {}\n", revision(&reply.header));
    for op in &reply.responses {
        let line = match op.response.as_ref().expect("each operation has a reply") {
            Response::ResponseRange(r) => show_range(r),
            Response::ResponsePut(r) => show_put(r),
            Response::ResponseDeleteRange(r) => show_delete(r),
            Response::ResponseTxn(r) => {
                out.push_str(&show_txn(r, depth + 1));
                continue;
            }
        };
        let _ = writeln!(out, "{indent}- {line}");
    }
    out
}

fn show_put(reply: &pb::PutResponse) -> String {
    let prev = reply.prev_kv.as_ref().map_or(String::new(), |kv| format!(" prev {}", show_kv(kv)));
    format!("put, rev {}{prev}", revision(&reply.header))
}

fn show_delete(reply: &pb::DeleteRangeResponse) -> String {
    let prev: Vec<_> = reply.prev_kvs.iter().map(show_kv).collect();
    let prev = if prev.is_empty() { String::new() } else { format!(" prev {}", prev.join(", ")) };
    format!("{} deleted, rev {}{prev}", reply.deleted, revision(&reply.header))
}

fn show_range(reply: &pb::RangeResponse) -> String {
    let kvs: Vec<_> = reply.kvs.iter().map(show_kv).collect();
    let more = if reply.more { " and more" } else { "" };
    format!("{} of {}{more}, rev {} [{}]", kvs.len(), reply.count, revision(&reply.header), kvs.join(", "))
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("each reply has a header").revision
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Create revision, mod revision and version after the `@`.
fn show_kv(kv: &KeyValue) -> String {
    let lease = if kv.lease == 0 { String::new() } else { format!(" lease {}", kv.lease) };
    let (key, value) = (text(&kv.key), text(&kv.value));
    format!("{key}={value}@{}/{}/{}{lease}", kv.create_revision, kv.mod_revision, kv.version)
}

fn script(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/state/testscripts").join(name);
    goldenscript::run(&mut Runner(World::new(small())), path).expect("the script runs");
}

macro_rules! scripts {
    ($($name:ident)*) => { $(#[test] fn $name() { script(stringify!($name)); })* };
}

scripts! { puts_and_deletes txns txn_errors twice_in_one_revision leases compaction idempotency members_publish }
