//! From arguments and environment to values, as etcd's start line is read: Go's flag package, then `ETCD_` variables.

use std::collections::BTreeMap;

use super::{
    StartError,
    flags::{FLAGS, Flag, Kind},
    url::Url,
    value,
};

/// What was said, and what is worth telling the operator about it once there is a log.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, String>,
    pub(super) notes: Vec<Note>,
    pub(super) help: bool,
}

/// Something to be logged when the log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub message: String,
    /// A field of the line: name and value.
    pub about: (&'static str, String),
}

impl Given {
    /// The value that was given, or nothing.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The flags that were given, with their values.
    pub(super) fn set(&self) -> impl Iterator<Item = (&'static Flag, &str)> {
        FLAGS.iter().filter_map(|flag| Some((flag, self.values.get(flag.name)?.as_str())))
    }
}

pub(super) fn parse(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Given, StartError> {
    let mut given = Given::default();
    from_arguments(&mut given, arguments)?;
    if !given.help {
        from_environment(&mut given, environment)?;
    }
    Ok(given)
}

fn from_arguments(given: &mut Given, arguments: impl IntoIterator<Item = String>) -> Result<(), StartError> {
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        // One dash and two mean the same; a dash alone, or nothing, ends the flags.
        let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            return Err(StartError::refused(format!("{argument:?} is not a valid flag")));
        };
        if body.is_empty() {
            return match (argument.as_str(), arguments.next()) {
                ("--", None) => Ok(()),
                ("--", Some(rest)) => Err(StartError::refused(format!("{rest:?} is not a valid flag"))),
                _ => Err(StartError::refused(format!("{argument:?} is not a valid flag"))),
            };
        }
        if body.starts_with(['-', '=']) {
            return Err(StartError::usage(format!("bad flag syntax: {argument}")));
        }
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        if matches!(name, "help" | "h") {
            given.help = true;
            return Ok(());
        }
        let Some(flag) = find(name) else {
            return Err(StartError::usage(format!("flag provided but not defined: -{name}{}", similar(name))));
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value.to_owned(),
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => {
                arguments.next().ok_or_else(|| StartError::usage(format!("flag needs an argument: -{name}")))?
            }
        };
        check(flag, &value)
            .map_err(|why| StartError::usage(format!("invalid value {value:?} for flag -{name}: {why}")))?;
        given.values.insert(flag.name, value);
    }
    Ok(())
}

fn from_environment(
    given: &mut Given,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(), StartError> {
    for (variable, value) in environment {
        if !variable.starts_with("ETCD_") && !variable.starts_with("CONCLAVE_") {
            continue;
        }
        if variable == "ETCD_VERSION" {
            // Images set it to the version they hold; as a flag it would print the version and end.
            given.note(true, "cannot set special environment variable", variable);
            continue;
        }
        let Some(flag) = FLAGS.iter().find(|flag| flag.variable() == variable) else {
            given.note(true, "unrecognized environment variable", format!("{variable}={value}"));
            continue;
        };
        if given.is_set(flag.name) {
            return Err(StartError::refused(format!(
                "conflicting environment variable is shadowed by corresponding command-line flag \
                 (either unset environment variable or disable flag): {variable}"
            )));
        }
        if value.is_empty() {
            continue;
        }
        check(flag, &value)
            .map_err(|why| StartError::refused(format!("invalid value {value:?} for {variable}: {why}")))?;
        given.note(false, "recognized and used environment variable", format!("{variable}={value}"));
        given.values.insert(flag.name, value);
    }
    Ok(())
}

impl Given {
    fn note(&mut self, warning: bool, message: &str, variable: String) {
        self.notes.push(Note { warning, message: message.to_owned(), about: ("environment-variable", variable) });
    }
}

pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Whether a value is of the flag's kind; what is wrong with it in Go's words where Go has any.
fn check(flag: &Flag, text: &str) -> Result<(), String> {
    let parsed = match flag.kind {
        Kind::Bool => value::boolean(text).is_some(),
        Kind::Number => value::number(text).is_some(),
        Kind::Signed => value::signed(text).is_some(),
        Kind::Duration => value::duration(text).is_some(),
        Kind::Text => true,
        // Empty means none, as for --listen-metrics-urls.
        Kind::Urls if text.is_empty() => true,
        Kind::Urls => return Url::parse_list(text).map(|_| ()),
        Kind::Choice(words) => {
            return if words.contains(&text) { Ok(()) } else { Err(format!("must be one of {}", words.join(", "))) };
        }
    };
    if parsed { Ok(()) } else { Err("parse error".to_owned()) }
}

/// A hint when a known flag is a letter or two away.
fn similar(name: &str) -> String {
    let name = name.strip_prefix("experimental-").unwrap_or(name);
    FLAGS
        .iter()
        .map(|flag| (distance(flag.name, name), flag.name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map_or(String::new(), |(_, close)| format!(" (did you mean -{close}?)"))
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.bytes().enumerate() {
            let change = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
