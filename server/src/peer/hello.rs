//! Who is at the other end, and whether to talk to them: one pure function for both ends.

use conclave_proto::conclave::peer::v1 as pb;

use crate::types::{ClusterId, LogIndex, MemberId};

/// Version of the protocol that is spoken here. One that breaks with it raises this number and speaks both for a while.
pub(super) const PROTOCOL: u32 = 1;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Control,
    Append,
    Archive,
}

/// This end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Me {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: u64,
    pub level: u32,
}

/// What the other end says of itself. Made from a hello or from the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub protocol: u32,
    pub cluster: ClusterId,
    pub member: MemberId,
    pub incarnation: u64,
    /// Whom it wants to talk to.
    pub to: MemberId,
    pub level: u32,
    pub last: LogIndex,
}

/// Why an end will not talk to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    Protocol,
    Cluster,
    Addressee,
    /// It says that it is the member that judges.
    Itself,
    Stranger,
    /// It is known, and under another incarnation: its folder is not the one it had.
    Incarnation,
    Malformed,
}

impl Refusal {
    pub(super) const ALL: [(Self, pb::Refusal); 7] = [
        (Self::Protocol, pb::Refusal::Protocol),
        (Self::Cluster, pb::Refusal::Cluster),
        (Self::Addressee, pb::Refusal::Addressee),
        (Self::Itself, pb::Refusal::Self_),
        (Self::Stranger, pb::Refusal::Stranger),
        (Self::Incarnation, pb::Refusal::Incarnation),
        (Self::Malformed, pb::Refusal::Malformed),
    ];

    /// For the log: what the refused end should look at.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Protocol => "it speaks another version of the peer protocol",
            Self::Cluster => "it belongs to another cluster",
            Self::Addressee => "it was reached under the address of another member",
            Self::Itself => "it is this member itself, or a second process under its id",
            Self::Stranger => "it is no member of the cluster as known here",
            Self::Incarnation => {
                "its data folder is not the one under which it is known: its disk was emptied or exchanged"
            }
            Self::Malformed => "its hello makes no sense",
        }
    }
}

/// Whether to talk to the other end. `is_member`: it is a member as far as is known here. `known`: the incarnation under
/// which it is remembered, if it is.
///
/// The order is that of how much a mismatch explains: whoever speaks another protocol may mean anything by the rest, and
/// whoever is of another cluster is no stranger but lost.
///
/// # Errors
/// Why not.
pub fn judge(me: &Me, other: &Greeting, is_member: bool, known: Option<u64>) -> Result<(), Refusal> {
    if other.protocol != PROTOCOL {
        return Err(Refusal::Protocol);
    }
    if other.cluster != me.cluster {
        return Err(Refusal::Cluster);
    }
    if other.to != me.member {
        return Err(Refusal::Addressee);
    }
    if other.member == me.member {
        return Err(Refusal::Itself);
    }
    if !is_member {
        return Err(Refusal::Stranger);
    }
    // 0 is what a field says that was left out, and no folder's number; the draw is one of 2^64.
    if other.incarnation == 0 || other.level == 0 {
        return Err(Refusal::Malformed);
    }
    match known {
        Some(known) if known != other.incarnation => Err(Refusal::Incarnation),
        _ => Ok(()),
    }
}

/// The hello of this end.
pub(super) fn hello(me: &Me, to: MemberId, purpose: Purpose, last: LogIndex) -> pb::Hello {
    pb::Hello {
        protocol: PROTOCOL,
        cluster: me.cluster.0,
        member: me.member.0,
        incarnation: me.incarnation,
        to: to.0,
        level: me.level,
        purpose: match purpose {
            Purpose::Control => pb::Purpose::Control,
            Purpose::Append => pb::Purpose::Append,
            Purpose::Archive => pb::Purpose::Archive,
        }
        .into(),
        last_index: last.0,
    }
}

/// What a hello says; the purpose is none if it is not one that exists.
pub(super) fn read_hello(hello: &pb::Hello) -> (Greeting, Option<Purpose>) {
    let purpose = match hello.purpose() {
        pb::Purpose::Unspecified => None,
        pb::Purpose::Control => Some(Purpose::Control),
        pb::Purpose::Append => Some(Purpose::Append),
        pb::Purpose::Archive => Some(Purpose::Archive),
    };
    let greeting = Greeting {
        protocol: hello.protocol,
        cluster: ClusterId(hello.cluster),
        member: MemberId(hello.member),
        incarnation: hello.incarnation,
        to: MemberId(hello.to),
        level: hello.level,
        last: LogIndex(hello.last_index),
    };
    (greeting, purpose)
}

/// The answer of this end. `known`: the incarnation under which the caller is remembered.
pub(super) fn reply(me: &Me, last: LogIndex, judged: Result<(), Refusal>, known: Option<u64>) -> pb::HelloReply {
    let refusal = match judged {
        Ok(()) => pb::Refusal::None,
        Err(refusal) => {
            Refusal::ALL.into_iter().find(|(mine, _)| *mine == refusal).expect("the table has every refusal").1
        }
    };
    pb::HelloReply {
        protocol: PROTOCOL,
        cluster: me.cluster.0,
        member: me.member.0,
        incarnation: me.incarnation,
        level: me.level,
        last_index: last.0,
        refusal: refusal.into(),
        known_incarnation: known.unwrap_or(0),
    }
}

/// What an answer says: who answered, and why we were refused, if we were.
pub(super) fn read_reply(reply: &pb::HelloReply, me: MemberId) -> (Greeting, Option<Refusal>) {
    let refused = match reply.refusal() {
        // A number of a later version means a refusal too: it is not the one that means "accepted".
        pb::Refusal::None if reply.refusal == 0 => None,
        other => Some(
            Refusal::ALL.into_iter().find(|(_, theirs)| *theirs == other).map_or(Refusal::Malformed, |(mine, _)| mine),
        ),
    };
    let greeting = Greeting {
        protocol: reply.protocol,
        cluster: ClusterId(reply.cluster),
        member: MemberId(reply.member),
        incarnation: reply.incarnation,
        to: me,
        level: reply.level,
        last: LogIndex(reply.last_index),
    };
    (greeting, refused)
}
