//! Runs the real `etcdctl` against a server and brings what it prints into the form that is compared.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use anyhow::{Context, Result, bail};
use conclave_proto::etcdserverpb as pb;
use serde_json::Value;

use crate::{
    client::{Client, PATIENCE},
    process::{Server, peers},
};

/// Every output format of `etcdctl`.
pub const FORMATS: [&str; 5] = ["simple", "fields", "json", "protobuf", "table"];

/// `etcdctl` pointed at one server whose output is not compared with another's.
#[derive(Clone, Debug)]
pub struct Bare {
    endpoint: String,
}

/// `etcdctl` pointed at one server.
#[derive(Debug)]
pub struct Ctl {
    bare: Bare,
    pub client: Client,
    /// What is this server's own, and what to call it instead.
    names: Vec<(String, &'static str)>,
}

/// What a run printed, made comparable.
#[derive(Debug, PartialEq, Eq)]
pub struct Printed {
    pub success: bool,
    pub out: String,
    /// The lines that begin with `Error:`; the rest of the error output is a log with times in it.
    pub errors: Vec<String>,
}

impl Bare {
    #[must_use]
    pub fn new(client: std::net::SocketAddr) -> Self {
        Self { endpoint: client.to_string() }
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(peers()?.join("etcdctl"));
        command.args(["--endpoints", &self.endpoint]).args(args);
        // The caller's own settings must not reach the test.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    fn output(&self, args: &[&str], stdin: &str) -> Result<Output> {
        let mut child = self.command(args)?.spawn()?;
        child.stdin.take().expect("piped").write_all(stdin.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Runs it to its end; what it prints is left as it is.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn run(&self, args: &[&str], stdin: &str) -> Result<Printed> {
        let output = self.output(args, stdin)?;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Printed { success: output.status.success(), out, errors: errors(&output) })
    }

    /// Starts it; its lines come as it prints them.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn follow(&self, args: &[&str]) -> Result<Followed> {
        let mut child = self.command(args)?.stderr(Stdio::null()).spawn()?;
        let (lines, read) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Followed { child, lines: read })
    }
}

fn errors(output: &Output) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().filter(|line| line.starts_with("Error:")).map(str::to_owned).collect()
}

impl Ctl {
    /// Learns the server's own names: ids and addresses.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn new(server: &Server) -> Result<Self> {
        let mut client = Client::connect(&server.url()).await?;
        let members = client.cluster.member_list(pb::MemberListRequest { linearizable: true }).await?.into_inner();
        let header = members.header.context("a header")?;
        let mut names = vec![(server.client.to_string(), "CLIENT"), (server.peer.to_string(), "PEER")];
        for (id, name) in [(header.cluster_id, "CLUSTER"), (header.member_id, "MEMBER")] {
            names.push((id.to_string(), name));
            names.push((format!("{id:x}"), name));
        }
        Ok(Self { bare: Bare::new(server.client), client, names })
    }

    /// From now on this lease goes by a name.
    pub fn name_lease(&mut self, id: i64) {
        self.names.push((id.to_string(), "LEASE"));
        self.names.push((format!("{id:016x}"), "LEASE"));
        self.names.push((format!("{id:x}"), "LEASE"));
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn run(&self, args: &[&str], stdin: &str) -> Result<Printed> {
        let output = self.bare.output(args, stdin)?;
        let format = args.iter().find_map(|arg| arg.strip_prefix("--write-out=")).unwrap_or("simple");
        let out = match format {
            "protobuf" => without_header(&output.stdout)?,
            _ => String::from_utf8_lossy(&output.stdout).into_owned(),
        };
        let errors = errors(&output).iter().map(|line| self.renamed(line)).collect();
        Ok(Printed { success: output.status.success(), out: self.comparable(&out, format), errors })
    }

    /// Starts it; its lines come as it prints them.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn follow(&self, args: &[&str]) -> Result<Followed> {
        self.bare.follow(args)
    }

    /// The text without this server's own names.
    #[must_use]
    pub fn renamed(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (own, name)| text.replace(own.as_str(), name))
    }

    /// The text without what may differ.
    fn comparable(&self, text: &str, format: &str) -> String {
        let text = self.renamed(text);
        match format {
            "json" => text.lines().map(json_without_terms).collect::<Vec<_>>().join("\n"),
            "fields" => {
                let lines = text.lines().filter(|line| !line.starts_with("\"RaftTerm\""));
                lines.collect::<Vec<_>>().join("\n")
            }
            // Columns are as wide as ids and addresses were.
            "table" => text.split(' ').filter(|w| !w.is_empty()).map(without_runs).collect::<Vec<_>>().join(" "),
            _ => text,
        }
    }
}

/// Text without repetitions of a table's lines.
fn without_runs(text: &str) -> String {
    let mut out = String::new();
    out.extend(text.chars().scan(' ', |last, c| Some((std::mem::replace(last, c), c))).filter_map(|(last, c)| {
        let repeated = c == '─' && last == '─';
        (!repeated).then_some(c)
    }));
    out
}

/// A running `etcdctl`.
#[derive(Debug)]
pub struct Followed {
    child: Child,
    pub lines: Receiver<String>,
}

impl Followed {
    /// Reads until a line equals `last`; what came before and it.
    ///
    /// # Errors
    /// If it does not come in time.
    pub fn until(&self, last: &str) -> Result<Vec<String>> {
        let mut all = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => all.push(line),
                Err(e) => bail!("{last:?} did not come ({e}); there were {all:#?}"),
            }
            if all.last().is_some_and(|line| line == last) {
                return Ok(all);
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of JSON with terms set to zero; a line that is no JSON is left as it is, and so differs.
fn json_without_terms(line: &str) -> String {
    // The names of ids stand where numbers were: they are quoted first.
    let quoted = ["CLUSTER", "MEMBER", "LEASE"].iter().fold(line.to_owned(), |line, name| {
        line.replace(&format!(":{name}"), &format!(":\"{name}\"")).replace(&format!("[{name}"), &format!("[\"{name}\""))
    });
    let Ok(mut value) = serde_json::from_str::<Value>(&quoted) else { return line.to_owned() };
    zero_terms(&mut value);
    value.to_string()
}

fn zero_terms(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "raft_term" {
                    *value = Value::from(0);
                } else {
                    zero_terms(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(zero_terms),
        _ => {}
    }
}

/// A protobuf message in hexadecimal, without its field 1, which is the header in every response.
fn without_header(message: &[u8]) -> Result<String> {
    let mut rest = message;
    let mut kept = String::new();
    while !rest.is_empty() {
        let start = rest;
        let (number, wire) = prost::encoding::decode_key(&mut rest)?;
        let context = prost::encoding::DecodeContext::default();
        prost::encoding::skip_field(wire, number, &mut rest, context)?;
        if number != 1 {
            let field = &start[..start.len() - rest.len()];
            kept.extend(field.iter().map(|byte| format!("{byte:02x}")));
            kept.push(' ');
        }
    }
    Ok(kept)
}

/// Text without numbers, units and the widths that come from them: for what says sizes, times and indexes.
#[must_use]
pub fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        let repeated = "# -─".contains(c) && out.ends_with(c);
        if !repeated {
            out.push(c);
        }
    }
    // `#.# GB` and `#` differ only by how large the number is; its sign is no matter of size.
    let mut out = out.replace("#.#", "#").replace("#.#", "#");
    for unit in [" kB", " MB", " GB", " B", "ms", "µs", "s"] {
        out = out.replace(&format!("#{unit}"), "#");
    }
    out
}
