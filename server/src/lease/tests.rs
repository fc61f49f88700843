use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Expiry, Grant, MAX_TTL_SECONDS, clamp_ttl, expiry::RETRY_MS, table};
use crate::{
    engine::{Batch, Engine},
    error::Error,
    types::{LeaseId, LogIndex},
};

/// The index is that of the TTL, so that a test can tell whose it is.
fn lasting(ttl_ms: i64) -> Grant {
    Grant { ttl_ms, index: LogIndex(ttl_ms.unsigned_abs()) }
}

#[test]
fn ttl_is_clamped_as_etcd_does() {
    assert_eq!(clamp_ttl(60, 1_000), Ok(60_000));
    for short in [i64::MIN, -1, 0, 1, 2] {
        assert_eq!(clamp_ttl(short, 1_000), Ok(2_000), "1.5 election timeouts, rounded up");
    }
    assert_eq!(clamp_ttl(3, 50_000), Ok(75_000));
    assert_eq!(clamp_ttl(MAX_TTL_SECONDS, 1_000), Ok(MAX_TTL_SECONDS * 1_000));
    assert_eq!(clamp_ttl(MAX_TTL_SECONDS + 1, 1_000), Err(Error::LeaseTTLTooLarge));
    assert_eq!(clamp_ttl(0, u64::MAX), Ok(MAX_TTL_SECONDS * 1_000));
}

#[test]
fn golden() {
    let example = Grant { ttl_ms: 60_000, index: LogIndex(300) };
    assert_eq!(&table::encode(example)[..], b"\x01\xe0\xd4\x03\xac\x02");
    assert_eq!(table::decode(b"\x01\xe0\xd4\x03\xac\x02"), Some(example));
    for rot in [b"".as_slice(), b"\x01", b"\x02\x01\x01", b"\x01\xe0", b"\x01\x01", b"\x01\x01\x01\x00"] {
        assert_eq!(table::decode(rot), None, "{rot:?}");
    }
}

#[test]
fn keys_of_one_lease_are_apart_from_its_neighbours() {
    let engine = Engine::memory();
    let mut batch = Batch::new(engine.view());
    for id in [i64::MIN, -1, 1, 2, i64::MAX] {
        table::grant(&mut batch, LeaseId(id), lasting(id.unsigned_abs().min(1 << 40) as i64));
        for key in [b"a".as_slice(), b"\0", b"\xff\xff", b"b"] {
            table::attach(&mut batch, LeaseId(id), key);
        }
    }
    table::detach(&mut batch, LeaseId(1), b"b");
    engine.write(batch);
    let view = engine.view();
    assert_eq!(table::keys(&view, LeaseId(1)), [b"\0".as_slice(), b"a", b"\xff\xff"]);
    assert_eq!(table::keys(&view, LeaseId(i64::MAX)).len(), 4);
    assert_eq!(table::keys(&view, LeaseId(3)).len(), 0);
    assert_eq!(table::keys_from(&view, LeaseId(2), b"a", 2), [b"a".as_slice(), b"b"]);
    let ids: Vec<i64> = table::all(&view).into_iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [i64::MIN, -1, 1, 2, i64::MAX]);
    assert_eq!(table::get(&view, LeaseId(2)), Some(lasting(2)));
    assert_eq!(table::get(&view, LeaseId(9)), None);
}

/// What the clockwork promises, told naively: deadlines in a map, every question answered by looking at all of them.
#[derive(Default)]
struct Model {
    /// id → (ttl, deadline, when it may be handed out again)
    leases: BTreeMap<LeaseId, (u64, u64, u64)>,
}

#[test]
fn expiry_agrees_with_a_naive_model() {
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut expiry, mut model, mut now) = (Expiry::new(), Model::default(), 1_000u64);
        let grace = rng.random_range(0..1_000);
        expiry.promote(std::iter::empty(), now, 0, grace);
        let (mut expired, mut refused) = (0, 0);
        for _ in 0..2_000 {
            let id = LeaseId(rng.random_range(1..20));
            match rng.random_range(0..100) {
                0..15 => {
                    let ttl = rng.random_range(1..8_000u64);
                    expiry.granted(id, lasting(ttl as i64), now);
                    model.leases.insert(id, (ttl, now + ttl + grace, now + ttl + grace));
                }
                15..25 => {
                    expiry.revoked(id);
                    model.leases.remove(&id);
                }
                25..60 => {
                    let expected = model.leases.get_mut(&id).filter(|lease| lease.1 > now).map(|lease| {
                        lease.1 = lease.1.max(now + lease.0 + grace);
                        lease.2 = lease.1;
                        lease.0 as i64
                    });
                    refused += u32::from(expected.is_none());
                    assert_eq!(expiry.renew(id, now), expected, "seed {seed}");
                }
                60..80 => {
                    let max = rng.random_range(0..5);
                    let mut due: Vec<_> = model.leases.iter().filter(|(_, lease)| lease.2 <= now).collect();
                    due.sort_by_key(|(id, lease)| (lease.2, **id));
                    let due: Vec<_> = due.into_iter().map(|(id, lease)| (*id, LogIndex(lease.0))).take(max).collect();
                    for (id, _) in &due {
                        model.leases.get_mut(id).expect("it is due").2 = now + RETRY_MS;
                    }
                    expired += due.len();
                    assert_eq!(expiry.take_expired(now, max), due, "seed {seed}");
                }
                80..82 => {
                    let extend = rng.random_range(0..3_000);
                    expiry.demote();
                    assert_eq!(expiry.renew(id, now), None);
                    let leases = model.leases.iter().map(|(id, lease)| (*id, lasting(lease.0 as i64)));
                    expiry.promote(leases, now, extend, grace);
                    for lease in model.leases.values_mut() {
                        lease.1 = now + extend + lease.0;
                        lease.2 = lease.1;
                    }
                }
                _ => now += rng.random_range(0..2_000),
            }
            let left =
                model.leases.get(&id).map(|lease| (lease.1.saturating_sub(now).min(lease.0) as i64, lease.0 as i64));
            assert_eq!(expiry.remaining(id, now), left, "seed {seed}");
            let mut order: Vec<_> = model.leases.iter().map(|(id, lease)| (lease.1, *id)).collect();
            order.sort_unstable();
            assert_eq!(expiry.list(), order.into_iter().map(|(_, id)| id).collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(expiry.next_due_ms(), model.leases.values().map(|lease| lease.2).min(), "seed {seed}");
        }
        assert!(expired > 0 && refused > 0, "seed {seed} tried nothing");
    }
}

#[test]
fn a_new_leader_spreads_what_would_run_out_at_once() {
    let mut expiry = Expiry::new();
    expiry.promote((1..=3_000).map(|id| (LeaseId(id), lasting(5_000))), 10_000, 1_000, 0);
    assert_eq!(expiry.take_expired(15_999, usize::MAX), []);
    let first = expiry.take_expired(16_000, usize::MAX).len();
    assert_eq!(first, 1);
    let second = expiry.take_expired(16_999, usize::MAX).len();
    assert!((740..=760).contains(&second), "{second} in the first second");
    // The last of them is due within four seconds; those handed out above come again after the retry time.
    let rest = expiry.take_expired(16_000 + RETRY_MS - 1, usize::MAX).len();
    let last = expiry.list().len() - first - second - rest;
    assert!(rest > 0 && last < 1_000, "{rest} in the next two seconds, {last} later");
    assert_eq!(expiry.list().len(), 3_000, "handed out is not forgotten");
}

#[test]
fn few_leases_are_not_spread() {
    let mut expiry = Expiry::new();
    expiry.promote((1..=999).map(|id| (LeaseId(id), lasting(5_000))), 0, 0, 0);
    assert_eq!(expiry.take_expired(4_999, usize::MAX).len(), 0);
    assert_eq!(expiry.take_expired(5_000, usize::MAX).len(), 999);
}

#[test]
fn who_does_not_lead_knows_nothing() {
    let mut expiry = Expiry::new();
    expiry.granted(LeaseId(1), lasting(5_000), 0);
    expiry.revoked(LeaseId(1));
    assert!(!expiry.keeps_time());
    assert_eq!(expiry.renew(LeaseId(1), 0), None);
    assert_eq!(expiry.remaining(LeaseId(1), 0), None);
    assert_eq!(expiry.take_expired(u64::MAX, 10), []);
    assert_eq!((expiry.list(), expiry.next_due_ms()), (vec![], None));
}
