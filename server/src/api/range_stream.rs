//! RangeStream: a range in chunks, all of them at the revision that was current when it began.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use conclave_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::{
    Api,
    body::Outgoing,
    encode::RangeReply,
    frame::{self, Framed, Messages},
    status::Status,
};
use crate::{
    mvcc::{self, KeyRange, Published, Query, ReadView, Summary},
    state,
};

/// Keys in the first chunk (etcd's `initialStreamChunkLimit`): small, because nothing is known about their size.
const FIRST_CHUNK: usize = 10;

/// How long the view of the first chunk is kept. A view pins what compaction in the store would free, so a client that
/// reads slowly goes on with newer views, read at the old revision: slower, and it ends if that revision is compacted.
const HOLD_VIEW: Duration = Duration::from_secs(10);

pub(super) async fn range_stream<B>(api: &Api, mut messages: Messages<B>, out: &Outgoing) -> Result<(), Status>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let request: pb::RangeRequest = frame::decode_streamed(messages.only().await?)?;
    state::check_range_stream(&request)?;
    let mut view = if request.serializable { api.handle.read_view() } else { api.handle.linearizable().await? };
    let began = Instant::now();
    let pinned = view.position.revision;
    let header = api.header(pinned, api.handle.status().term);
    let mut chunk = Chunk { query: state::query(&request)?, header, sent: 0, left: None };
    // A target without an order passes the checks. etcd sorts each chunk by it and goes on behind the chunk's last key in
    // that order, and so repeats keys and loses others; here it means nothing.
    chunk.query.sort = None;
    if chunk.query.limit > 0 {
        chunk.left = Some(chunk.query.limit);
    }
    chunk.query.limit = chunk.left.map_or(FIRST_CHUNK, |left| left.min(FIRST_CHUNK));
    let target = api.limits.max_request_bytes;
    loop {
        if began.elapsed() > HOLD_VIEW && view.position.revision == pinned {
            view = api.handle.read_view();
            if chunk.query.revision.0 == 0 {
                chunk.query.revision = pinned;
            }
        }
        let (mut message, next) = {
            let (published, view) = (api.handle.published().clone(), Arc::clone(&view));
            api.readers.run(move || chunk.read(&published, &view, target)).await??
        };
        while let Some(piece) = message.next_piece() {
            out.send(piece).await;
        }
        match next {
            Some(next) => chunk = next,
            None => return Ok(()),
        }
    }
}

/// Where a stream stands between two chunks.
struct Chunk {
    query: Query,
    header: pb::ResponseHeader,
    sent: i64,
    /// Keys that the client's limit still allows; nothing without a limit.
    left: Option<usize>,
}

impl Chunk {
    /// Reads one chunk; with it comes where the next begins, or nothing after the last.
    fn read(mut self, published: &Published, view: &ReadView, target: usize) -> Result<(Framed, Option<Self>), Status> {
        /// A first chunk of small values.
        const LIKELY: usize = 4096;
        let mut reply = RangeReply::new(LIKELY);
        let query = &self.query;
        let (next, rest) = mvcc::read_past(published, view, query.revision, |view| {
            let next = if query.count_only {
                None
            } else {
                mvcc::piece(&view.view, view.position, query, &mut |version| reply.push(version))?
            };
            self.left = self.left.map(|left| left.saturating_sub(reply.keys()));
            // What the limit leaves out is only counted, and so is everything if only the count was asked for.
            let uncounted = match &next {
                Some(next) if self.left == Some(0) => Some(after(query.range.clone(), next.clone())),
                None if query.count_only => Some(query.range.clone()),
                _ => None,
            };
            let rest = uncounted.map(|range| {
                let count = Query { range, count_only: true, ..query.clone() };
                mvcc::range(&view.view, view.position, &count, &mut |_| {}).map(|summary| summary.count)
            });
            Ok((next, rest.transpose()?))
        })?;
        self.sent += i64::try_from(reply.keys()).expect("a chunk holds fewer keys than its limit");
        match next {
            Some(next) if rest.is_none() => {
                self.query.limit = next_limit(self.query.limit, reply.len(), target);
                if let Some(left) = self.left {
                    self.query.limit = self.query.limit.min(left);
                }
                self.query.range = after(self.query.range, next);
                Ok((reply.finish_streamed()?, Some(self)))
            }
            next => {
                reply.header(&self.header);
                reply.summary(Summary { count: self.sent + rest.unwrap_or(0), more: next.is_some() });
                Ok((reply.finish_streamed()?, None))
            }
        }
    }
}

/// Doubles while a chunk stays below half of the target, halves when it passes it.
fn next_limit(limit: usize, bytes: usize, target: usize) -> usize {
    if bytes < target / 2 {
        limit.saturating_mul(2)
    } else if bytes > target {
        (limit / 2).max(1)
    } else {
        limit
    }
}

fn after(range: KeyRange, from: Bytes) -> KeyRange {
    match range {
        KeyRange::Between { to, .. } => KeyRange::Between { from, to },
        KeyRange::From(_) => KeyRange::From(from),
        // A range of one key never has more.
        one @ KeyRange::One(_) => one,
    }
}
