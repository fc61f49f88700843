//! Every method of the wire contract: one closed list, from which path lookup, metrics and dispatch are made.

use super::status::Status;
use crate::error::Code;

/// How messages flow in a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Unary,
    ServerStream,
    BidiStream,
}

impl Shape {
    /// The label that go-grpc-prometheus gives it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! methods {
    ($($service:literal { $($variant:ident = $name:literal $shape:ident,)* })*) => {
        /// A method that clients may call; whether it is built is the handler's answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Method { $($($variant,)*)* }

        impl Method {
            /// Every method, in the order of its number.
            pub const ALL: &[Self] = &[$($(Self::$variant,)*)*];

            #[must_use]
            pub fn service(self) -> &'static str {
                match self { $($(Self::$variant => $service,)*)* }
            }

            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($(Self::$variant => $name,)*)* }
            }

            #[must_use]
            pub fn shape(self) -> Shape {
                match self { $($(Self::$variant => Shape::$shape,)*)* }
            }

            fn by_path(path: &str) -> Option<Self> {
                match path {
                    $($(concat!("/", $service, "/", $name) => Some(Self::$variant),)*)*
                    _ => None,
                }
            }
        }

        const SERVICES: &[&str] = &[$($service,)*];
    };
}

// The hottest come first: lookup compares in this order.
methods! {
    "etcdserverpb.KV" {
        Range = "Range" Unary,
        Put = "Put" Unary,
        Txn = "Txn" Unary,
        DeleteRange = "DeleteRange" Unary,
        Compact = "Compact" Unary,
        RangeStream = "RangeStream" ServerStream,
    }
    "etcdserverpb.Watch" {
        Watch = "Watch" BidiStream,
    }
    "etcdserverpb.Lease" {
        LeaseKeepAlive = "LeaseKeepAlive" BidiStream,
        LeaseGrant = "LeaseGrant" Unary,
        LeaseRevoke = "LeaseRevoke" Unary,
        LeaseTimeToLive = "LeaseTimeToLive" Unary,
        LeaseLeases = "LeaseLeases" Unary,
    }
    "etcdserverpb.Maintenance" {
        Status = "Status" Unary,
        HashKv = "HashKV" Unary,
        Hash = "Hash" Unary,
        Alarm = "Alarm" Unary,
        Defragment = "Defragment" Unary,
        Snapshot = "Snapshot" ServerStream,
        MoveLeader = "MoveLeader" Unary,
        Downgrade = "Downgrade" Unary,
    }
    "etcdserverpb.Cluster" {
        MemberList = "MemberList" Unary,
        MemberAdd = "MemberAdd" Unary,
        MemberRemove = "MemberRemove" Unary,
        MemberUpdate = "MemberUpdate" Unary,
        MemberPromote = "MemberPromote" Unary,
    }
    "grpc.health.v1.Health" {
        HealthCheck = "Check" Unary,
        HealthWatch = "Watch" ServerStream,
        HealthList = "List" Unary,
    }
    "etcdserverpb.Auth" {
        Authenticate = "Authenticate" Unary,
        AuthEnable = "AuthEnable" Unary,
        AuthDisable = "AuthDisable" Unary,
        AuthStatus = "AuthStatus" Unary,
        UserAdd = "UserAdd" Unary,
        UserGet = "UserGet" Unary,
        UserList = "UserList" Unary,
        UserDelete = "UserDelete" Unary,
        UserChangePassword = "UserChangePassword" Unary,
        UserGrantRole = "UserGrantRole" Unary,
        UserRevokeRole = "UserRevokeRole" Unary,
        RoleAdd = "RoleAdd" Unary,
        RoleGet = "RoleGet" Unary,
        RoleList = "RoleList" Unary,
        RoleDelete = "RoleDelete" Unary,
        RoleGrantPermission = "RoleGrantPermission" Unary,
        RoleRevokePermission = "RoleRevokePermission" Unary,
    }
    "v3lockpb.Lock" {
        Lock = "Lock" Unary,
        Unlock = "Unlock" Unary,
    }
    "v3electionpb.Election" {
        Campaign = "Campaign" Unary,
        Proclaim = "Proclaim" Unary,
        Leader = "Leader" Unary,
        Observe = "Observe" ServerStream,
        Resign = "Resign" Unary,
    }
}

/// The method at a path, or what grpc-go's server says to a path it does not know.
pub(super) fn lookup(path: &str) -> Result<Method, Status> {
    if let Some(method) = Method::by_path(path) {
        return Ok(method);
    }
    // As grpc-go: one leading slash goes, the last slash parts service from method.
    let Some((service, name)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/') else {
        return Err(Status::with(Code::Unimplemented, format!("malformed method name: {path:?}")));
    };
    let text = if SERVICES.contains(&service) {
        format!("unknown method {name} for service {service}")
    } else {
        format!("unknown service {service}")
    };
    Err(Status::with(Code::Unimplemented, text))
}
