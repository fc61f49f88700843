//! The URLs that members and clients are reached at.

use std::{fmt, net::IpAddr};

/// `http://host:port` with nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// An address, `localhost` or another name.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

impl Url {
    /// One URL, with etcd's words for what is wrong with it.
    ///
    /// # Errors
    /// What to change.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        match scheme {
            "http" => {}
            "https" => return Err(format!("TLS is not available in this version, use http: {text}")),
            "unix" | "unixs" => return Err(format!("unix sockets are not available in this version: {text}")),
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        }
        let (address, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        let no_port = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = address.rsplit_once(':').ok_or_else(no_port)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(no_port)?,
            None if host.contains(':') => return Err(no_port()),
            None => host,
        };
        let port = port.parse().map_err(|_| format!("invalid port {port:?} in URL: {text}"))?;
        Ok(Self { host: host.to_owned(), port })
    }

    /// A list of them, sorted and each once, as etcd keeps them.
    pub(super) fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut urls = text.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// What can be bound: an address or localhost, since a name may mean other hosts too.
    pub(super) fn check_bindable(&self) -> Result<(), String> {
        if self.host == "localhost" || self.host.parse::<IpAddr>().is_ok() {
            Ok(())
        } else {
            Err(format!("expected IP in URL for binding ({self})"))
        }
    }

    /// What can be told to others: not the empty host.
    pub(super) fn check_reachable(&self) -> Result<(), String> {
        if self.host.is_empty() { Err(format!("unexpected empty host ({self})")) } else { Ok(()) }
    }
}
