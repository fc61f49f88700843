//! Requests as one line of text: `put k v lease=5 prev`, `del a..c`, `get a.. rev=3`,
//! `txn if a.version=0 & b.value!=x then put a 1 ; { then get a..z } else del b`.
//!
//! A range is `from..to`, or `from..` to the end of all keys. Operations are parted by `;`, a nested txn stands in braces.

use bytes::Bytes;
use conclave_proto::{
    conclave::raft::v1::{self as entry, command::Kind},
    etcdserverpb::{
        self as pb,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request,
    },
};

type Parsed<T> = Result<T, String>;

pub(super) fn command(line: &str) -> Parsed<Kind> {
    let mut words = Words(line.split_whitespace().collect());
    let kind = match words.next()? {
        "put" => Kind::Put(put(&mut words)?),
        "del" => Kind::DeleteRange(delete(&mut words)?),
        "txn" => Kind::Txn(txn(&mut words)?),
        "compact" => Kind::Compact(entry::Compact { revision: words.number()? }),
        "grant" => Kind::LeaseGrant(entry::LeaseGrant { id: words.number()?, ttl_ms: words.number()? }),
        "revoke" => Kind::LeaseRevoke(entry::LeaseRevoke {
            id: words.number()?,
            expired: words.flag("expired"),
            granted_index: words.option("granted")?.unsigned_abs(),
        }),
        "publish" => Kind::MemberPublish(entry::MemberPublish {
            id: words.number()?.unsigned_abs(),
            name: words.next()?.into(),
            client_urls: vec![words.next()?.into()],
        }),
        other => return Err(format!("no command {other}")),
    };
    if words.0.is_empty() { Ok(kind) } else { Err(format!("left over: {:?}", words.0)) }
}

/// A `get` outside of a txn, which is no command.
pub(super) fn range(line: &str) -> Parsed<pb::RangeRequest> {
    let mut words = Words(line.split_whitespace().skip(1).collect());
    get(&mut words)
}

struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Parsed<&'a str> {
        if self.0.is_empty() { Err("a word is missing".into()) } else { Ok(self.0.remove(0)) }
    }
    fn number(&mut self) -> Parsed<i64> {
        let word = self.next()?;
        word.parse().map_err(|_| format!("{word} is no number"))
    }
    fn accept(&mut self, word: &str) -> bool {
        let there = self.0.first() == Some(&word);
        if there {
            self.0.remove(0);
        }
        there
    }
    /// The options of one operation end where the operation does.
    fn options(&self) -> usize {
        self.0.iter().position(|word| [";", "}", "else", "then"].contains(word)).unwrap_or(self.0.len())
    }
    fn flag(&mut self, name: &str) -> bool {
        let at = self.0[..self.options()].iter().position(|word| *word == name);
        at.inspect(|at| {
            self.0.remove(*at);
        })
        .is_some()
    }
    fn option(&mut self, name: &str) -> Parsed<i64> {
        let found = self.0[..self.options()].iter().enumerate().find_map(|(at, word)| {
            let (key, value) = word.split_once('=')?;
            (key == name).then_some((at, value))
        });
        let Some((at, value)) = found else { return Ok(0) };
        let number = value.parse().map_err(|_| format!("{value} is no number"))?;
        self.0.remove(at);
        Ok(number)
    }
    fn range(&mut self) -> Parsed<(Bytes, Bytes)> {
        Ok(bounds(self.next()?))
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn bounds(text: &str) -> (Bytes, Bytes) {
    match text.split_once("..") {
        None => (bytes(text), Bytes::new()),
        Some((from, "")) => (bytes(from), bytes("\0")),
        Some((from, to)) => (bytes(from), bytes(to)),
    }
}

fn put(words: &mut Words<'_>) -> Parsed<pb::PutRequest> {
    let key = bytes(words.next()?);
    let (lease, prev_kv) = (words.option("lease")?, words.flag("prev"));
    let (ignore_value, ignore_lease) = (words.flag("ignore_value"), words.flag("ignore_lease"));
    let value = if words.options() > 0 { bytes(words.next()?) } else { Bytes::new() };
    Ok(pb::PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease })
}

fn delete(words: &mut Words<'_>) -> Parsed<pb::DeleteRangeRequest> {
    let (key, range_end) = words.range()?;
    Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: words.flag("prev") })
}

fn get(words: &mut Words<'_>) -> Parsed<pb::RangeRequest> {
    let (key, range_end) = words.range()?;
    let (revision, limit) = (words.option("rev")?, words.option("limit")?);
    let (keys_only, count_only) = (words.flag("keys"), words.flag("count"));
    let (sort_order, sort_target) = (words.option("order")? as i32, words.option("target")? as i32);
    Ok(pb::RangeRequest {
        key,
        range_end,
        revision,
        limit,
        keys_only,
        count_only,
        sort_order,
        sort_target,
        ..Default::default()
    })
}

fn txn(words: &mut Words<'_>) -> Parsed<pb::TxnRequest> {
    let mut txn = pb::TxnRequest::default();
    if words.accept("if") {
        txn.compare.push(compare(words.next()?)?);
        while words.accept("&") {
            txn.compare.push(compare(words.next()?)?);
        }
    }
    if words.accept("then") {
        txn.success = operations(words)?;
    }
    if words.accept("else") {
        txn.failure = operations(words)?;
    }
    Ok(txn)
}

fn operations(words: &mut Words<'_>) -> Parsed<Vec<pb::RequestOp>> {
    let mut ops = Vec::new();
    loop {
        let request = match words.next()? {
            "put" => Request::RequestPut(put(words)?),
            "del" => Request::RequestDeleteRange(delete(words)?),
            "get" => Request::RequestRange(get(words)?),
            "{" => {
                let nested = txn(words)?;
                if !words.accept("}") {
                    return Err("a nested txn does not end".into());
                }
                Request::RequestTxn(nested)
            }
            other => return Err(format!("no operation {other}")),
        };
        ops.push(pb::RequestOp { request: Some(request) });
        if !words.accept(";") {
            return Ok(ops);
        }
    }
}

/// `key.target=operand`, with `=`, `!=`, `>` or `<`.
fn compare(word: &str) -> Parsed<pb::Compare> {
    let results = [
        ("!=", CompareResult::NotEqual),
        ("=", CompareResult::Equal),
        (">", CompareResult::Greater),
        ("<", CompareResult::Less),
    ];
    let ((left, right), result) = results
        .into_iter()
        .find_map(|(sign, result)| word.split_once(sign).map(|parts| (parts, result)))
        .ok_or_else(|| format!("{word} compares nothing"))?;
    let (range, target) = left.rsplit_once('.').ok_or_else(|| format!("{left} has no target"))?;
    let (key, range_end) = bounds(range);
    let number = || right.parse::<i64>().map_err(|_| format!("{right} is no number"));
    let (target, union) = match target {
        "value" => (CompareTarget::Value, TargetUnion::Value(bytes(right))),
        "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number()?)),
        other => return Err(format!("no target {other}")),
    };
    Ok(pb::Compare { result: result as i32, target: target as i32, key, range_end, target_union: Some(union) })
}
