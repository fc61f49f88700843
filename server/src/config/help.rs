//! What `--help` and `--version` print.

use std::fmt::Write;

use super::flags::{FLAGS, Kind, Standing};

const INTRODUCTION: &str = "\
Conclave is a small, strongly consistent store for coordination. It speaks etcd's v3 API.

Usage:

  conclave [flags]
    Start a member. Without flags: a cluster of one on localhost:2379, data in ./default.etcd.

  conclave --version
    Show the version.

  conclave completion bash|zsh|fish
    Print completions for a shell.

Try it:

  conclave --data-dir /tmp/conclave &
  etcdctl put greeting hello
  etcdctl get greeting

Flags are written --name=value or --name value. Each has an environment variable: ETCD_ and the name in capitals with
underscores (ETCD_DATA_DIR), or CONCLAVE_ for those of Conclave's own. A flag and its variable must not both be set.
Flags of etcd that have no effect here are accepted and warned about; those marked 'refused' stop the start.
";

/// Shown after a start line that could not be read.
#[must_use]
pub fn usage() -> &'static str {
    "Usage:\n\n  conclave [flags]\n    Start a member.\n\n  conclave --help\n    Show all flags.\n"
}

#[must_use]
pub fn help() -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut group = "";
    for flag in FLAGS {
        if flag.group != group {
            group = flag.group;
            text.push_str(&format!("\n{group}:\n"));
        }
        let default = match flag.kind {
            Kind::Bool if flag.default == "false" => String::new(),
            _ => format!(" '{}'", flag.default),
        };
        let choice = match flag.kind {
            Kind::Choice(words) if words.len() > 1 => format!(" One of {}.", words.join(", ").trim_start_matches(", ")),
            _ => String::new(),
        };
        let standing = match flag.standing {
            Standing::Works => String::new(),
            Standing::NoEffect(why) => format!("\n    (no effect: {why})"),
            Standing::Refused(why) => format!("\n    (refused: {why})"),
        };
        writeln!(text, "  --{}{default}\n    {}{choice}{standing}", flag.name, flag.help)
            .expect("a String takes whatever is written");
    }
    text
}

/// etcd's four lines, which tools read, and a fifth that tells the truth.
#[must_use]
pub fn version(etcd: &str) -> String {
    format!(
        "etcd Version: {etcd}\nGit SHA: {}\nGo Version: none\nGo OS/Arch: {}/{}\nConclave Version: {}\n",
        option_env!("CONCLAVE_GIT_SHA").unwrap_or("unknown"),
        std::env::consts::OS,
        architecture(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// The machine under Go's name for it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
