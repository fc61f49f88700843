//! The real `etcdctl` cannot tell the two servers apart: same output in every format, same errors, same exit codes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use conclave_proto::etcdserverpb as pb;
use conclave_tests::{
    etcdctl::{Ctl, FORMATS, without_numbers},
    process::{Kind, Options, Server},
};

/// Commands that answer from the store or change it. Each is run in every format, against both servers in step.
const COMMANDS: &[&str] = &[
    "put greeting hello",
    "put greeting hallo --prev-kv",
    "put greet/a 1",
    "put greet/b 2",
    "put greet/c 3",
    "put greet/b 22",
    "put greeting --ignore-value",
    "put greeting moin --ignore-lease",
    "put missing --ignore-value",
    "put other value --lease=7b",
    "get greeting",
    "get greet --prefix",
    "get greet --prefix --limit=2",
    "get greet --prefix --keys-only",
    "get greet --prefix --count-only",
    "get greet --prefix --sort-by=MODIFY --order=DESCEND",
    "get greet --prefix --sort-by=VERSION --order=ASCEND",
    "get greet --prefix --sort-by=CREATE",
    "get greet --prefix --sort-by=VALUE --order=ASCEND",
    "get greet --prefix --print-value-only",
    "get greet/a greet/c",
    "get greet/b --from-key",
    "get \"\" --from-key",
    "get greeting --rev=2",
    "get greeting --rev=999999",
    "get greeting --consistency=s",
    "get greet --prefix --min-mod-rev=5 --max-mod-rev=7",
    "get greet --prefix --min-create-rev=4 --max-create-rev=6",
    "get greet --prefix --hex",
    "get greet --prefix --stream",
    "get nothing",
    "get",
    "del greet/a --prev-kv",
    "del greet/a",
    "del greet/ --prefix --prev-kv",
    "del greet/x greet/z",
    "del zzz --from-key",
    "lease timetolive 7b",
    "lease revoke 7b",
    "lease keep-alive --once 7b",
    "lease grant 9000000001",
    "lease list",
    "endpoint hashkv",
    "endpoint hashkv --rev=3",
    "member list",
];

/// What says sizes, times and indexes, which may differ: numbers are left out of the comparison.
const LOOSE: &[&str] = &["endpoint status", "endpoint health", "endpoint status --cluster", "version"];

const TXNS: &[(&str, &str)] = &[
    ("taken", "value(\"greeting\") = \"moin\"\n\nput txn yes\nget txn\n\nput txn no\n\n"),
    ("not taken", "version(\"nothing\") > \"0\"\n\nput txn yes\n\nget greeting\ndel txn\n\n"),
    ("several", "mod(\"txn\") > \"0\"\ncreate(\"txn\") = \"0\"\nlease(\"txn\") = \"0\"\n\n\n\nget greet --prefix\n\n"),
    ("twice the same key", "\n\nput a 1\nput a 2\n\n\n"),
];

struct Pair {
    ctls: [Ctl; 2],
    _servers: [Server; 2],
}

impl Pair {
    async fn start(second: Kind) -> Result<Self> {
        let options = Options::default();
        let servers = [Server::start(Kind::Etcd, &options)?, Server::start(second, &options)?];
        Ok(Self { ctls: [Ctl::new(&servers[0]).await?, Ctl::new(&servers[1]).await?], _servers: servers })
    }

    fn same(&self, args: &[&str], stdin: &str) -> Result<String> {
        let [a, b] = [self.ctls[0].run(args, stdin)?, self.ctls[1].run(args, stdin)?];
        ensure!(a == b, "etcdctl {}\nfirst:  {a:#?}\nsecond: {b:#?}", args.join(" "));
        Ok(a.out)
    }

    fn alike(&self, args: &[&str]) -> Result<()> {
        let [mut a, mut b] = [self.ctls[0].run(args, "")?, self.ctls[1].run(args, "")?];
        for printed in [&mut a, &mut b] {
            printed.out = without_numbers(&printed.out);
        }
        ensure!(a == b, "etcdctl {}\nfirst:  {a:#?}\nsecond: {b:#?}", args.join(" "));
        Ok(())
    }
}

fn split<'a>(command: &'a str, format: &'a str) -> Vec<&'a str> {
    command.split(' ').map(|word| word.trim_matches('"')).chain([format]).collect()
}

async fn commands(pair: &Pair) -> Result<()> {
    for command in COMMANDS {
        for format in FORMATS {
            let format = format!("--write-out={format}");
            // Members carry ids and addresses; of what leases answer, etcdctl prints the header alone.
            let own = *command == "member list" || command.starts_with("lease ");
            if !(own && format.ends_with("protobuf")) {
                pair.same(&split(command, &format), "")?;
            }
        }
    }
    for (what, script) in TXNS {
        for format in FORMATS {
            pair.same(&["txn", &format!("--write-out={format}")], script).with_context(|| format!("txn: {what}"))?;
        }
    }
    for command in LOOSE {
        for format in FORMATS.iter().filter(|format| **format != "protobuf") {
            pair.alike(&split(command, &format!("--write-out={format}")))?;
        }
    }
    pair.same(&["put", "from-stdin"], "many\nlines\n")?;
    pair.same(&["get", "from-stdin"], "")?;
    Ok(())
}

/// A lease from grant to revoke. Ids are the server's choice and times pass, so both are left out of the comparison.
async fn leases(pair: &mut Pair) -> Result<()> {
    let mut both = Vec::new();
    for ctl in &mut pair.ctls {
        let granted = ctl.run(&["lease", "grant", "600"], "")?;
        let id = granted.out.split(' ').nth(1).context("an id")?.to_owned();
        ctl.name_lease(i64::from_str_radix(&id, 16)?);
        let mut shown = vec![granted, ctl.run(&["put", "leased", "x", &format!("--lease={id}")], "")?];
        for format in FORMATS.iter().filter(|format| **format != "protobuf") {
            let format = format!("--write-out={format}");
            for command in ["timetolive ID", "timetolive ID --keys", "list", "keep-alive --once ID", "grant 7"] {
                let command = format!("lease {command}").replace("ID", &id);
                shown.push(ctl.run(&split(&command, &format), "")?);
            }
        }
        for command in ["revoke", "revoke", "timetolive", "keep-alive --once"] {
            shown.push(ctl.run(&split(&format!("lease {command} {id}"), "--write-out=simple"), "")?);
        }
        shown.push(ctl.run(&["get", "leased"], "")?);
        both.push(shown.iter().map(|p| without_ids(&without_numbers(&format!("{p:?}")))).collect::<Vec<_>>());
    }
    for (a, b) in both[0].iter().zip(&both[1]) {
        ensure!(a == b, "leases\nfirst:  {a}\nsecond: {b}");
    }
    Ok(())
}

/// Text without words that are hexadecimal numbers, of which nothing but digits and `a` to `f` is left.
fn without_ids(text: &str) -> String {
    let is_id = |word: &str| !word.is_empty() && word.chars().all(|c| "#abcdef".contains(c)) && word.contains('#');
    let separators = |c: char| !(c.is_alphanumeric() || c == '#');
    text.split_inclusive(separators)
        .map(|part| {
            let word = part.trim_end_matches(separators);
            if is_id(word) { part.replace(word, "#") } else { part.to_owned() }
        })
        .collect()
}

/// With history: everything from revision 2 on, to the end that a last put marks.
async fn watch_history(pair: &mut Pair) -> Result<()> {
    pair.same(&["put", "watched/end", "the end"], "")?;
    for extra in [vec![], vec!["--prev-kv"], vec!["--write-out=fields"]] {
        let args = [&["watch", "watched", "--prefix", "--rev=2"][..], &extra].concat();
        let last = if extra.contains(&"--write-out=fields") { "\"Value\" : \"the end\"" } else { "the end" };
        let [a, b] = pair.ctls.each_ref().map(|ctl| -> Result<Vec<String>> {
            let lines = ctl.follow(&args)?.until(last)?;
            let terms = lines.iter().filter(|line| !line.contains("RaftTerm"));
            Ok(terms.map(|line| ctl.renamed(line)).collect())
        });
        let (a, b) = (a?, b?);
        ensure!(a == b, "etcdctl {}\nfirst:  {a:#?}\nsecond: {b:#?}", args.join(" "));
    }
    Ok(())
}

/// Without history: only what is put after the watch is there, which a probe tells.
async fn watch_live(pair: &mut Pair) -> Result<()> {
    let mut all = Vec::new();
    for ctl in &mut pair.ctls {
        let follow = ctl.follow(&["watch", "live/", "--prefix"])?;
        let mut put = async |key: &'static str, value: &'static str| {
            let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
            ctl.client.kv.put(pb::PutRequest { key, value, ..Default::default() }).await
        };
        let mut probes = 0;
        while follow.lines.recv_timeout(Duration::from_millis(20)).is_err() {
            put("live/probe", "probe").await?;
            probes += 1;
            ensure!(probes < 5_000, "a watch without history sees nothing");
        }
        put("live/a", "1").await?;
        put("live/b", "2").await?;
        let delete = pb::DeleteRangeRequest { key: "live/a".into(), ..Default::default() };
        ctl.client.kv.delete_range(delete).await?;
        let put = pb::PutRequest { key: "live/end".into(), value: "the end".into(), ..Default::default() };
        ctl.client.kv.put(put).await?;
        let lines = follow.until("the end")?;
        let after = lines.iter().rposition(|line| line == "probe").map_or(0, |at| at + 1);
        all.push(lines[after..].join("\n"));
    }
    ensure!(all[0] == all[1], "first:  {}\nsecond: {}", all[0], all[1]);
    ensure!(all[0].contains("DELETE\nlive/a"), "{}", all[0]);
    Ok(())
}

/// Last, because the past is gone after it.
async fn compaction(pair: &Pair) -> Result<()> {
    pair.same(&["compaction", "5"], "")?;
    pair.same(&["compaction", "5"], "")?;
    pair.same(&["compaction", "6", "--physical"], "")?;
    pair.same(&["compaction", "999999"], "")?;
    pair.same(&["get", "greeting", "--rev=2"], "")?;
    pair.same(&["watch", "greeting", "--rev=2"], "")?;
    Ok(())
}

async fn whole(second: Kind) -> Result<()> {
    let mut pair = Pair::start(second).await?;
    for key in ["watched/a", "watched/b"] {
        pair.same(&["put", key, "first"], "")?;
        pair.same(&["put", key, "second"], "")?;
    }
    pair.same(&["del", "watched/a"], "")?;
    commands(&pair).await?;
    watch_history(&mut pair).await?;
    leases(&mut pair).await?;
    compaction(&pair).await?;
    watch_live(&mut pair).await
}

#[tokio::test]
#[ignore = "long: the oracle against itself, to judge the test"]
async fn etcd_and_etcd_print_the_same() -> Result<()> {
    whole(Kind::Etcd).await
}

#[tokio::test]
async fn etcdctl_cannot_tell_conclave_from_etcd() -> Result<()> {
    whole(Kind::Conclave).await
}
