//! A txn: checks on the state before it, then its operations in order.
//!
//! Everything that can fail is found before anything is written. After the first write nothing may fail any more: half a
//! txn could not be taken back once a piece of it is in the store, and members that failed at different places would
//! differ.

use std::slice::Iter;

use conclave_proto::etcdserverpb::{self as pb, request_op::Request, response_op::Response};

use super::{
    command,
    compare::{self, branch},
    guard::Spans,
    query::{header, query, range_reply},
    work::Work,
};
use crate::{
    engine::Read,
    error::Error,
    mvcc::{self, Position, Published, ReadView},
    types::Revision,
};

/// A txn whose every op is a Range never goes through the log; it is answered from a view. A nested txn counts as a
/// write, whatever is in it.
#[must_use]
pub fn is_read_only(r: &pb::TxnRequest) -> bool {
    r.success.iter().chain(&r.failure).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// A txn is answered without asking the leader only if all that it reads may be.
#[must_use]
pub fn is_serializable(r: &pb::TxnRequest) -> bool {
    r.success.iter().chain(&r.failure).all(|op| matches!(&op.request, Some(Request::RequestRange(r)) if r.serializable))
}

/// Answers a txn that [`is_read_only`]. What its other branch would read is neither refused nor lost to a compaction.
pub fn read_txn(published: &Published, view: &ReadView, r: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
    let path = compare::path(&view.view, view.position, r);
    check(&view.view, view.position, r, &path)?;
    let succeeded = path[0];
    let ranges = || {
        branch(r, succeeded).iter().map(|op| match &op.request {
            Some(Request::RequestRange(range)) => range,
            _ => unreachable!("the caller has asked whether the txn only reads"),
        })
    };
    // History must outlast the read of the oldest revision; then it has outlasted the others.
    let oldest = ranges().map(|range| range.revision).filter(|revision| *revision > 0).min();
    mvcc::read_past(published, view, Revision(oldest.unwrap_or(0)), |view| {
        let replies = ranges().map(|range| {
            let reply = range_reply(&view.view, view.position, &query(range)?)?;
            Ok(pb::ResponseOp { response: Some(Response::ResponseRange(reply)) })
        });
        let responses = replies.collect::<Result<Vec<_>, Error>>()?;
        Ok(pb::TxnResponse { header: header(view.position.revision), succeeded, responses })
    })
}

pub(super) fn apply(work: &mut Work<'_>, r: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
    if work.is_first() {
        work.outcome.path = compare::path(work.read(), work.at(), r);
        check(work.read(), work.at(), r, &work.outcome.path)?;
    }
    let path = work.outcome.path.clone();
    let mut reply = run(work, r, &mut path.iter());
    reply.header = header(work.at().revision);
    Ok(reply)
}

/// The operations of the branches that were chosen. The header of a nested reply is there and empty, as etcd's is.
fn run(work: &mut Work<'_>, txn: &pb::TxnRequest, path: &mut Iter<'_, bool>) -> pb::TxnResponse {
    let succeeded = *path.next().expect("each txn that is entered has its answer");
    let responses = branch(txn, succeeded)
        .iter()
        .map(|op| {
            let response = match &op.request {
                Some(Request::RequestRange(r)) => Some(Response::ResponseRange(range(work, r))),
                Some(Request::RequestPut(r)) => Some(Response::ResponsePut(command::put(work, r))),
                Some(Request::RequestDeleteRange(r)) => {
                    Some(Response::ResponseDeleteRange(command::delete_range(work, r)))
                }
                Some(Request::RequestTxn(r)) => Some(Response::ResponseTxn(run(work, r, path))),
                None => None,
            };
            pb::ResponseOp { response }
        })
        .collect();
    pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded, responses }
}

fn range(work: &mut Work<'_>, r: &pb::RangeRequest) -> pb::RangeResponse {
    let reply = if work.begin_op() {
        let query = query(r).expect("options were checked before the first write");
        range_reply(work.read(), work.at(), &query).expect("the revision was checked before the first write")
    } else {
        pb::RangeResponse { header: header(work.at().revision), ..Default::default() }
    };
    work.end_op();
    reply
}

/// What can fail in the branches that were chosen, in the order of the operations; on the state before the txn.
fn check(read: &impl Read, at: Position, txn: &pb::TxnRequest, path: &[bool]) -> Result<(), Error> {
    let mut check = Check { read, at, path: path.iter(), deletes: Vec::new(), deleted: Spans::default() };
    check.ops(txn)
}

struct Check<'a, R> {
    read: &'a R,
    at: Position,
    path: Iter<'a, bool>,
    /// Deletes that were passed and are not in `deleted` yet.
    deletes: Vec<&'a pb::DeleteRangeRequest>,
    deleted: Spans,
}

impl<'a, R: Read> Check<'a, R> {
    fn ops(&mut self, txn: &'a pb::TxnRequest) -> Result<(), Error> {
        let held = *self.path.next().expect("each txn that is entered has its answer");
        for op in branch(txn, held) {
            match &op.request {
                Some(Request::RequestRange(r)) => self.range(r)?,
                Some(Request::RequestPut(r)) => self.put(r)?,
                Some(Request::RequestDeleteRange(r)) => self.deletes.push(r),
                Some(Request::RequestTxn(r)) => self.ops(r)?,
                None => {}
            }
        }
        Ok(())
    }

    /// A negative revision is the current one only while nothing was compacted above it: here, unlike in a Range of its
    /// own, etcd holds it against the compacted revision first.
    fn range(&self, r: &pb::RangeRequest) -> Result<(), Error> {
        query(r)?;
        if r.revision == 0 {
            Ok(())
        } else if r.revision > self.at.revision.0 {
            Err(Error::FutureRev)
        } else if r.revision < self.at.compacted.0 {
            Err(Error::Compacted)
        } else {
            Ok(())
        }
    }

    fn put(&mut self, r: &pb::PutRequest) -> Result<(), Error> {
        command::check_put(self.read, r)?;
        if r.ignore_value || r.ignore_lease {
            // The key exists, but a delete before this put in the same txn may have taken it away by then. etcd lets
            // that pass and dies of it on every member.
            for delete in self.deletes.drain(..) {
                self.deleted.insert_open_range(&delete.key, &delete.range_end);
            }
            if self.deleted.contains(&r.key) {
                return Err(Error::KeyNotFound);
            }
        }
        Ok(())
    }
}
