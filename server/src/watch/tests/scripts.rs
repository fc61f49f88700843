//! Scripts: what clients ask and what they are told, in prose that can be read.

use std::{collections::BTreeMap, error::Error, fmt::Write as _};

use bytes::Bytes;
use conclave_proto::{
    etcdserverpb::WatchResponse,
    mvccpb::{Event, KeyValue, event::EventType},
};
use goldenscript::{ArgumentConsumer, Command, Context};

use super::world::{World, decode, options};
use crate::{
    mvcc::KeyRange,
    types::Revision,
    watch::{Create, Inbox, Input, Published, StreamId, Taken, stream::Watcher},
};

struct Runner {
    world: World,
    streams: BTreeMap<String, StreamId>,
}

impl Runner {
    fn new() -> Self {
        Self { world: World::new(options(), Inbox::new(100, 1 << 20)), streams: BTreeMap::new() }
    }

    fn stream(&self, args: &mut ArgumentConsumer<'_>) -> Result<StreamId, Box<dyn Error>> {
        let name = args.take_key("s").ok_or("s= is missing")?;
        Ok(*self.streams.get(name).ok_or("no such stream")?)
    }

    fn send(&self, input: Input) -> String {
        if self.world.inbox.send(input) { String::new() } else { "inbox full\n".into() }
    }

    fn watch(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let stream = self.stream(args)?;
        let number =
            |text: Option<&str>| text.map_or(Ok(0), |text| text.parse::<i64>().map_err(|error| error.to_string()));
        let key = Bytes::copy_from_slice(args.take_key("key").unwrap_or("").as_bytes());
        let range = match args.take_key("end") {
            None => KeyRange::One(key),
            Some("") => KeyRange::From(key),
            Some(to) => KeyRange::Between { from: key, to: Bytes::copy_from_slice(to.as_bytes()) },
        };
        let (watch_id, start) = (number(args.take_key("id"))?, Revision(number(args.take_key("start"))?));
        let mut flags = Vec::new();
        while let Some(flag) = args.next_pos() {
            flags.push(flag);
        }
        let is = |name| flags.contains(&name);
        let create = Create {
            watch_id,
            range,
            start,
            progress_notify: is("progress"),
            no_put: is("noput"),
            no_delete: is("nodelete"),
            prev_kv: is("prev"),
            fragment: is("fragment"),
        };
        Ok(self.send(Input::Create { stream, create }))
    }

    /// Arguments: `key=value` puts, a bare key is deleted. With `lose` the changes do not reach the hub.
    fn write(&mut self, args: &mut ArgumentConsumer<'_>, lose: bool) {
        let mut ops: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
        while let Some((key, value)) = args.next_key() {
            ops.push((key.as_bytes(), Some(value.as_bytes())));
        }
        while let Some(key) = args.next_pos() {
            ops.push((key.as_bytes(), None));
        }
        if lose {
            self.world.store.borrow_mut().apply(&ops);
            let revision = self.world.store.borrow().revision;
            self.world.inbox.publish(revision, Published::TooMany);
        } else {
            self.world.write(&ops);
        }
    }

    fn take(&mut self, stream: StreamId) -> String {
        let Some((frames, taken)) = self.world.take(stream) else { return "nothing\n".into() };
        let mut out = String::new();
        for frame in &frames {
            let _ = writeln!(out, "{}", show(&decode(frame)));
        }
        match taken {
            Taken::All => {}
            Taken::AllSendDrained => out.push_str("and more is kept back\n"),
            Taken::Closed => out.push_str("closed\n"),
        }
        out
    }

    fn state(&self) -> String {
        let hub = &self.world.hub;
        let mut out = format!("revision {}\n", hub.revision);
        for (name, id) in &self.streams {
            let Some(stream) = hub.streams.get(id) else {
                let _ = writeln!(out, "{name}: gone");
                continue;
            };
            let _ = writeln!(out, "{name}: {}", if stream.is_free() { "free" } else { "held" });
            for (id, watcher) in &stream.watchers {
                let state = match watcher {
                    Watcher::Synced { .. } => "synced".into(),
                    Watcher::Lagging { next, .. } => format!("lagging next={next}"),
                    Watcher::Future { start, .. } => format!("future start={start}"),
                    Watcher::Ended => "ended".into(),
                };
                let _ = writeln!(out, "{name}/{id}: {state}");
            }
        }
        let stats = hub.stats();
        let (streams, watchers, lagging) = (stats.streams(), stats.watchers(), stats.lagging());
        let _ = write!(out, "streams={streams} watchers={watchers} lagging={lagging} events={}", stats.events());
        let _ = writeln!(out, " compacted={} store reads={}", stats.compacted(), self.world.store.borrow().reads);
        out
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let out = match command.name.as_str() {
            "hub" => {
                let mut options = options();
                let mut inbox_bytes = 1 << 20;
                while let Some((name, value)) = args.next_key() {
                    let value = value.parse()?;
                    match name {
                        "ring" => options.ring_bytes = value,
                        "piece" => options.catch_up_bytes = value,
                        "fragment" => options.max_fragment_bytes = value,
                        "inbox" => inbox_bytes = value,
                        "per_stream" => options.max_watchers_per_stream = value,
                        "watchers" => options.max_watchers = value,
                        other => return Err(format!("unknown option {other}").into()),
                    }
                }
                self.world = World::new(options, Inbox::new(100, inbox_bytes));
                self.streams.clear();
                String::new()
            }
            "open" => {
                let name = args.take_key("s").ok_or("s= is missing")?.to_owned();
                let bytes = args.take_key("bytes").map_or(Ok(1 << 20), str::parse)?;
                self.streams.insert(name, self.world.open(bytes));
                String::new()
            }
            "watch" => self.watch(&mut args)?,
            "refuse" => {
                let stream = self.stream(&mut args)?;
                self.send(Input::Refuse { stream, reason: args.take_key("reason").unwrap_or("").into() })
            }
            // Many requests at once, each of which is answered.
            "flood" => {
                let stream = self.stream(&mut args)?;
                for _ in 0..args.take_key("count").ok_or("count= is missing")?.parse()? {
                    while !self.world.inbox.send(Input::Refuse { stream, reason: "flood".into() }) {
                        self.world.settle();
                    }
                }
                String::new()
            }
            "cancel" => {
                let stream = self.stream(&mut args)?;
                let watch_id = args.take_key("id").ok_or("id= is missing")?.parse()?;
                self.send(Input::Cancel { stream, watch_id })
            }
            "progress" => self.send(Input::Progress { stream: self.stream(&mut args)? }),
            "drained" => self.send(Input::Drained { stream: self.stream(&mut args)? }),
            "close" => self.send(Input::Close { stream: self.stream(&mut args)? }),
            "write" => {
                self.write(&mut args, false);
                String::new()
            }
            "lose" => {
                self.write(&mut args, true);
                String::new()
            }
            "compact" => {
                let at = args.take_key("at").ok_or("at= is missing")?.parse()?;
                self.world.store.borrow_mut().compact(Revision(at));
                String::new()
            }
            "trap" => {
                let at = args.take_key("at").ok_or("at= is missing")?.parse()?;
                self.world.store.borrow_mut().trap = Some(Revision(at));
                String::new()
            }
            "time" => {
                self.world.now_ms = args.take_key("ms").ok_or("ms= is missing")?.parse()?;
                String::new()
            }
            "step" => format!("{}\n", if self.world.step() { "more to do" } else { "at rest" }),
            "run" => {
                self.world.settle();
                String::new()
            }
            "take" => {
                let stream = self.stream(&mut args)?;
                self.take(stream)
            }
            "state" => self.state(),
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(out)
    }
}

fn show(response: &WatchResponse) -> String {
    let revision = response.header.as_ref().expect("every response has a header").revision;
    let mut out = format!("{} @{revision}:", response.watch_id);
    for (said, word) in [(response.created, "created"), (response.canceled, "canceled")] {
        if said {
            let _ = write!(out, " {word}");
        }
    }
    if response.compact_revision != 0 {
        let _ = write!(out, " compacted={}", response.compact_revision);
    }
    if !response.cancel_reason.is_empty() {
        let _ = write!(out, " {:?}", response.cancel_reason);
    }
    for event in &response.events {
        let _ = write!(out, " {}", show_event(event));
    }
    if response.fragment {
        out.push_str(" …");
    }
    if out.ends_with(':') {
        out.push_str(" progress");
    }
    out
}

fn show_event(event: &Event) -> String {
    let kv = event.kv.as_ref().expect("every event has a key");
    let text = |kv: &KeyValue| {
        let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
        format!("{key}={value}@{}", kv.mod_revision)
    };
    let what = match event.r#type() {
        EventType::Put => text(kv),
        EventType::Delete => format!("-{}@{}", String::from_utf8_lossy(&kv.key), kv.mod_revision),
    };
    event.prev_kv.as_ref().map_or(what.clone(), |prev| format!("{what}({})", text(prev)))
}

fn script(name: &str) {
    let path = format!("src/watch/testscripts/{name}");
    goldenscript::run(&mut Runner::new(), path).unwrap();
}

macro_rules! scripts {
    ($($name:ident)*) => { $(#[test] fn $name() { script(stringify!($name)); })* };
}

scripts! {
    answers
    compacted
    fragments
    full_outbox_lags_without_gap
    future_start
    groups
    held_answers
    limits
    lost_changes
    progress
    ranges_and_filters
}
