//! Completions for shells.

use clap::{Arg, ArgAction, Command, builder::PossibleValuesParser};
use clap_complete::{Shell, generate};

use super::flags::{FLAGS, Kind};

/// The script for a shell; nothing if the shell is not known.
#[must_use]
pub fn completion(shell: &str) -> Option<String> {
    let shell = match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => return None,
    };
    let mut script = Vec::new();
    generate(shell, &mut command(), "conclave", &mut script);
    Some(String::from_utf8(script).expect("clap writes UTF-8"))
}

/// The table as clap knows commands; clap only writes completions, it reads no start line.
fn command() -> Command {
    let shells = PossibleValuesParser::new(["bash", "zsh", "fish"]);
    let completion = Command::new("completion")
        .about("Print completions for a shell")
        .arg(Arg::new("shell").required(true).value_parser(shells));
    FLAGS.iter().fold(Command::new("conclave").disable_version_flag(true).subcommand(completion), |command, flag| {
        let argument = Arg::new(flag.name).long(flag.name).help(flag.help);
        command.arg(match flag.kind {
            Kind::Bool => argument.action(ArgAction::SetTrue),
            Kind::Choice(words) => argument.value_parser(PossibleValuesParser::new(words)),
            Kind::Text | Kind::Number | Kind::Signed | Kind::Duration | Kind::Urls => argument,
        })
    })
}
