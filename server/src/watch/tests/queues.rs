//! The two queues at their bounds, and who wakes whom.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    mvcc::{Change, KeyRange, Kind},
    types::{Revision, Sub},
    watch::{Create, Frame, Inbox, Input, Outbox, Published, StreamId, Taken, inbox::Arrival},
};

const STREAM: StreamId = StreamId(1);

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn frame(watch_id: i64, len: usize) -> Frame {
    Frame { watch_id, body: Bytes::from(vec![0; len]) }
}

fn create() -> Input {
    let create = Create {
        watch_id: 0,
        range: KeyRange::From(Bytes::new()),
        start: Revision(0),
        progress_notify: false,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        fragment: false,
    };
    Input::Create { stream: STREAM, create }
}

fn changes(len: usize) -> Published {
    let kv = conclave_proto::mvccpb::KeyValue { value: vec![0; len].into(), ..Default::default() };
    Published::Changes([Change { kind: Kind::Put, sub: Sub(0), kv, prev: None }].into())
}

fn taken(inbox: &Inbox, max: usize) -> (Vec<String>, bool) {
    let mut arrivals = Vec::new();
    let more = inbox.take(max, &mut arrivals);
    let names = arrivals.iter().map(|arrival| match arrival {
        Arrival::Changes { revision, .. } => format!("changes {revision}"),
        Arrival::Missed { to } => format!("missed to {to}"),
        Arrival::Input(Input::Create { .. }) => "create".into(),
        Arrival::Input(Input::Progress { .. }) => "progress".into(),
        Arrival::Input(Input::Drained { .. }) => "drained".into(),
        Arrival::Input(Input::Close { .. }) => "close".into(),
        Arrival::Input(other) => format!("{other:?}"),
    });
    (names.collect(), more)
}

#[test]
fn outbox_takes_what_fits_and_one_frame_of_any_size() {
    let outbox = Outbox::new(1000);
    let mut cx = Context::from_waker(Waker::noop());
    let mut frames = Vec::new();
    assert!(outbox.push(frame(1, 5000)), "a revision is never split, so its frame must get through");
    assert!(!outbox.push(frame(2, 1)));
    assert!(outbox.is_held());
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Ready(Taken::AllSendDrained));
    assert_eq!(frames, [frame(1, 5000)]);
    // Still held: what was refused must come before what follows.
    assert!(!outbox.push(frame(3, 1)));
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Pending);
    outbox.release();
    assert!(outbox.push(frame(2, 1)));
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Ready(Taken::All));
    assert_eq!(frames, [frame(1, 5000), frame(2, 1)], "taken frames are appended");
}

#[test]
fn outbox_takes_all_bodies_of_an_id_or_none() {
    let outbox = Outbox::new(400);
    let bodies = [Bytes::from(vec![0; 50]), Bytes::from(vec![1; 50])];
    let offered = outbox.offer_all([1, 2, 3].into_iter(), &bodies);
    assert_eq!(offered.served, 1);
    let mut frames = Vec::new();
    assert!(outbox.poll_take(&mut Context::from_waker(Waker::noop()), &mut frames).is_ready());
    assert_eq!(frames.len(), 2);
}

#[test]
fn outbox_wakes_its_task_once_for_many_frames_and_at_the_end_of_a_hold() {
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let mut cx = Context::from_waker(&waker);
    let outbox = Outbox::new(100);
    let mut frames = Vec::new();
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Pending);
    let bodies = [Bytes::from_static(b"x")];
    assert!(outbox.offer_all([1].into_iter(), &bodies).owe_wake);
    assert!(!outbox.offer_all([2].into_iter(), &bodies).owe_wake, "one wake is owed already");
    assert_eq!(count.0.load(Ordering::Relaxed), 0, "the hub wakes at the end of its step");
    outbox.wake();
    assert_eq!(count.0.load(Ordering::Relaxed), 1);

    assert!(!outbox.push(frame(3, 100)));
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Ready(Taken::AllSendDrained));
    // The hold ends between the task's look at it and its take: it must not sleep.
    outbox.release();
    outbox.wake();
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Ready(Taken::All));
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Pending);
    outbox.close();
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert_eq!(outbox.poll_take(&mut cx, &mut frames), Poll::Ready(Taken::Closed));
}

#[test]
fn inbox_refuses_requests_over_the_bound_but_never_the_end_of_a_stream() {
    let inbox = Inbox::new(2, 1000);
    assert!(inbox.send(create()));
    assert!(inbox.send(Input::Progress { stream: STREAM }));
    assert!(!inbox.send(Input::Progress { stream: STREAM }));
    assert!(inbox.send(Input::Drained { stream: STREAM }));
    assert!(inbox.send(Input::Close { stream: STREAM }));
    assert_eq!(taken(&inbox, 1), (vec!["create".into()], true));
    assert!(inbox.send(Input::Progress { stream: STREAM }), "room again");
    let rest = ["progress", "drained", "close", "progress"].map(String::from);
    assert_eq!(taken(&inbox, 9), (rest.into(), false));
}

#[test]
fn inbox_keeps_changes_up_to_the_bound_and_then_only_revisions() {
    let inbox = Inbox::new(10, 2100);
    assert!(inbox.send(create()));
    for revision in 2..6 {
        inbox.publish(Revision(revision), changes(700));
    }
    inbox.publish(Revision(6), changes(1));
    assert!(inbox.send(Input::Progress { stream: STREAM }));
    inbox.publish(Revision(7), Published::TooMany);
    inbox.publish(Revision(8), changes(700));
    let expected = ["create", "changes 2", "changes 3", "missed to 5", "changes 6", "progress", "missed to 8"];
    assert_eq!(taken(&inbox, 99).0, expected);
    inbox.publish(Revision(9), changes(700));
    assert_eq!(taken(&inbox, 99).0, ["changes 9"], "what was taken gives room again");
}

#[test]
fn inbox_keeps_no_changes_and_wakes_nobody_while_nobody_watches() {
    let inbox = Inbox::new(10, 1000);
    for revision in 2..100 {
        inbox.publish(Revision(revision), changes(1));
    }
    assert!(inbox.wait(Duration::ZERO));
    assert!(inbox.send(create()));
    inbox.publish(Revision(100), changes(1));
    assert_eq!(taken(&inbox, 99).0, ["missed to 99", "create", "changes 100"]);
    inbox.set_idle();
    inbox.publish(Revision(101), changes(1));
    assert_eq!(taken(&inbox, 99).0, ["missed to 101"]);
    assert!(inbox.send(create()));
    inbox.set_idle();
    inbox.publish(Revision(102), changes(1));
    assert_eq!(taken(&inbox, 99).0, ["create", "changes 102"], "a request to watch was under way");
}

#[test]
fn inbox_wakes_its_hub() {
    let inbox = Arc::new(Inbox::new(10, 1000));
    let waiting = std::thread::spawn({
        let inbox = inbox.clone();
        // An hour: only a wake ends it.
        move || (inbox.wait(Duration::from_secs(3600)), taken(&inbox, 9).0, inbox.wait(Duration::from_secs(3600)))
    });
    assert!(inbox.send(create()));
    inbox.stop();
    let (_, arrived, running) = waiting.join().unwrap();
    assert_eq!(arrived, ["create"]);
    assert!(!running, "stopped");
}

#[test]
fn hub_and_queues_may_go_to_threads() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Inbox>();
    shared::<Outbox>();
    moved::<crate::watch::Hub>();
}
