use super::{Member, all, cluster_id, get, member_id, put, table};
use crate::{
    engine::{Batch, Engine},
    types::{ClusterId, MemberId},
};

fn urls(list: &[&str]) -> Vec<String> {
    list.iter().map(|url| (*url).to_owned()).collect()
}

/// Values printed by `etcdctl member list -w json` of etcd 3.7.1, started with these URLs and tokens.
#[test]
fn ids_are_etcds() {
    let one = member_id(&urls(&["http://127.0.0.1:39280"]), "tok1");
    assert_eq!(one, MemberId(7_520_964_532_626_584_595));
    assert_eq!(cluster_id(&[one]), ClusterId(1_327_232_331_235_423_213));
}

#[test]
fn order_of_urls_and_of_members_does_not_matter() {
    let (a, b) = (urls(&["http://a:1", "http://b:1"]), urls(&["http://b:1", "http://a:1"]));
    assert_eq!(member_id(&a, "t"), member_id(&b, "t"));
    assert_ne!(member_id(&a, "t"), member_id(&a, "u"));
    let (x, y) = (MemberId(1), MemberId(u64::MAX));
    assert_eq!(cluster_id(&[x, y]), cluster_id(&[y, x]));
    assert_ne!(cluster_id(&[x, y]), cluster_id(&[x]));
}

fn example() -> Member {
    Member {
        id: MemberId(0x0102),
        name: "m1".into(),
        peer_urls: urls(&["http://p:1", "http://q:1"]),
        client_urls: urls(&["http://c:1"]),
        learner: true,
    }
}

#[test]
fn golden() {
    let bytes = table::encode(&example());
    assert_eq!(&bytes[..], b"\x01\x01\x02m1\x02\x0ahttp://p:1\x0ahttp://q:1\x01\x0ahttp://c:1");
    assert_eq!(table::decode(example().id, &bytes), Some(example()));
}

/// Whatever stands on the disk, reading it gives a member or nothing, and never memory by a length that is rot.
#[test]
fn rot_is_seen() {
    let bytes = table::encode(&example());
    for cut in 0..bytes.len() {
        assert_eq!(table::decode(example().id, &bytes[..cut]), None);
    }
    let mut other_version = bytes.to_vec();
    other_version[0] = 2;
    assert_eq!(table::decode(example().id, &other_version), None);
    let huge = [b"\x01\x00\x00".as_slice(), &[0xff; 9], &[1]].concat();
    assert_eq!(table::decode(example().id, &huge), None);
}

#[test]
fn table_lists_by_id() {
    let engine = Engine::memory();
    let mut batch = Batch::new(engine.view());
    let second = Member { id: MemberId(u64::MAX), name: String::new(), client_urls: Vec::new(), ..example() };
    put(&mut batch, &second);
    put(&mut batch, &example());
    assert_eq!(all(&batch), [example(), second.clone()]);
    engine.write(batch);
    assert_eq!(get(&engine.view(), second.id), Some(second));
    assert_eq!(get(&engine.view(), MemberId(7)), None);
}
