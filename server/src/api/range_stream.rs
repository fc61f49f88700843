//! RangeStream: a range in chunks, all of them at the revision that was current when it began.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use conclave_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::{Api, body::Outgoing, encode::RangeReply, frame, frame::Messages, range, status::Status};
use crate::{
    mvcc::{self, KeyRange, Query, ReadView, Summary},
    state,
    types::Revision,
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
        let (read, next) = {
            let view = Arc::clone(&view);
            api.readers.run(move || chunk.read(&view, target)).await??
        };
        range::recheck(api, request.revision.max(read.revision.0))?;
        out.send(read.message).await;
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

struct ReadChunk {
    message: Bytes,
    /// The past revision that was read, 0 for the view's own.
    revision: Revision,
}

impl Chunk {
    /// Reads one chunk; with it comes where the next begins, or nothing after the last.
    fn read(mut self, view: &ReadView, target: usize) -> Result<(ReadChunk, Option<Self>), Status> {
        let revision = self.query.revision;
        let mut reply = RangeReply::new(4096);
        let mut last = Vec::new();
        let Summary { count, more } = mvcc::range(&view.view, view.position, &self.query, &mut |version| {
            reply.push(version);
            last.clear();
            last.extend_from_slice(version.key);
        })?;
        let read = reply.keys();
        self.left = self.left.map(|left| left.saturating_sub(read));
        let done = self.query.count_only || !more || self.left == Some(0);
        if done {
            // The count of this chunk's range covers all that was not sent before it.
            let more = more && !self.query.count_only;
            reply.header(&self.header);
            reply.summary(Summary { count: self.sent + count, more });
            return Ok((ReadChunk { message: reply.finish_streamed()?, revision }, None));
        }
        self.sent += i64::try_from(read).expect("a chunk holds fewer keys than its limit");
        self.query.limit = next_limit(self.query.limit, reply.len(), target);
        if let Some(left) = self.left {
            self.query.limit = self.query.limit.min(left);
        }
        last.push(0);
        self.query.range = after(self.query.range, last);
        Ok((ReadChunk { message: reply.finish_streamed()?, revision }, Some(self)))
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

fn after(range: KeyRange, from: Vec<u8>) -> KeyRange {
    match range {
        KeyRange::Between { to, .. } => KeyRange::Between { from: from.into(), to },
        KeyRange::From(_) => KeyRange::From(from.into()),
        // A range of one key never has more.
        one @ KeyRange::One(_) => one,
    }
}
