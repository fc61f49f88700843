//! Telling systemd that the member is ready, for units of `Type=notify` as etcd's are.

use std::{env, io, os::unix::net::UnixDatagram};

/// Says `READY=1` if somebody asked to be told (sd_notify(3)). What goes wrong is logged: the unit will time out.
pub(super) fn ready() {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(path.as_encoded_bytes()) {
        tracing::warn!(error = %error, "cannot tell systemd that the member is ready");
    }
}

fn send(path: &[u8]) -> io::Result<()> {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => {
            use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
            SocketAddr::from_pathname(OsStr::from_bytes(path))?
        }
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}
