//! The wire: etcd's v3 packages, field for field, and Conclave's own beside them.
//!
//! Nothing but generated types stands here. Names and numbers of etcd's messages are etcd 3.7's; every `bytes` field is
//! a [`bytes::Bytes`], so that a decoded request shares the buffer it came in.
//!
//! The feature `client` adds tonic stubs (`etcdserverpb::kv_client` and so on); the server frames gRPC itself and needs
//! none.

#![allow(clippy::doc_markdown, clippy::large_enum_variant, unreachable_pub)]

pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}
pub mod grpc {
    pub mod health {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
        }
    }
}
pub mod conclave {
    pub mod peer {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/conclave.peer.v1.rs"));
        }
    }
    pub mod raft {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/conclave.raft.v1.rs"));
        }
    }
}

/// The compiled descriptors of all packages, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
