//! The rules of the house that a machine can check (docs and `ARCHITECTURE.md` say why they are).
//!
//! An exception stands in the rule's own list, with its reason; a reason that no longer applies is a failure too, so that
//! the lists stay short.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use conclave_tests::process::root;

/// Which rooms a room may name. Leaves are left out on the right: every room may name [`LEAVES`], and the shell may name
/// [`SHELL_LEAVES`] too. Whatever is not here is not a room.
const ARROWS: &[(&str, &[&str])] = &[
    ("server", &["api", "http", "peer", "node", "watch", "state", "engine", "members", "lease", "mvcc"]),
    ("api", &["node", "watch", "state", "mvcc", "lease", "members"]),
    ("http", &["node", "watch", "state", "mvcc", "engine"]),
    ("peer", &["node", "snapshot"]),
    ("node", &["state", "mvcc", "watch", "lease", "members", "snapshot", "engine"]),
    ("state", &["mvcc", "lease", "auth", "members", "alarm", "engine"]),
    ("watch", &["mvcc"]),
    ("snapshot", &["engine"]),
    ("mvcc", &["engine"]),
    ("lease", &["engine"]),
    ("auth", &["engine"]),
    ("members", &["engine"]),
    ("alarm", &["engine"]),
    ("engine", &[]),
    ("config", &[]),
    ("metrics", &[]),
    ("tls", &[]),
    ("error", &[]),
    ("mutants", &[]),
    ("types", &[]),
];
const LEAVES: &[&str] = &["types", "error", "mutants"];
const SHELL: &[&str] = &["server", "api", "http", "peer", "node"];
const SHELL_LEAVES: &[&str] = &["config", "metrics", "tls"];

/// The rooms that know no clock, no chance, no thread and no async.
const CORE: &[&str] = &["engine", "mvcc", "lease", "auth", "members", "alarm", "state", "watch", "snapshot"];
const NOT_IN_CORE: &[&str] =
    &["tokio", "Instant", "SystemTime", "thread", "rand", "rand_chacha", "HashMap", "HashSet", "async", "env"];

/// (file, word, reason)
const CORE_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("server/src/engine/memory.rs", "rand", "the twin of RocksDB draws its crashes from a seed that is handed in"),
    ("server/src/engine/memory.rs", "rand_chacha", "the same"),
    ("server/src/watch/groups.rs", "HashMap", "looked up by key on the hot path, never walked"),
    (
        "server/src/watch/inbox.rs",
        "Instant",
        "the hub's thread waits here with a bound; what it does next is in `Hub::step`",
    ),
];

/// A file this long has taken in a second concern.
const FILE_LINES: usize = 700;
/// A function this long does not fit on a screen.
const FUNCTION_LINES: usize = 70;
/// (file or file::function, reason)
const LONG: &[(&str, &str)] = &[("server/src/watch/tests/scripts.rs::run", "one arm for each command of a script")];

/// One source file.
struct Source {
    /// Relative to the root.
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs") || self.path.starts_with("tests/")
    }

    /// Its room, if it is the server's.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("server/src/")?;
        let room = inside.split('/').next()?;
        Some(room.strip_suffix(".rs").unwrap_or(room))
    }

    /// Lines without comments and without the contents of strings, numbered from 1. What follows a `#[cfg(test)]` with a
    /// body of its own is left out: tests may do what code may not.
    fn code(&self) -> impl Iterator<Item = (usize, String)> {
        let inline_tests = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        self.text[..inline_tests].lines().enumerate().map(|(n, line)| (n + 1, bare(line)))
    }
}

/// A line without comment and string contents.
fn bare(line: &str) -> String {
    let (mut out, mut chars, mut quoted) = (String::new(), line.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => drop(chars.next()),
            '"' => {
                quoted = !quoted;
                out.push(c);
            }
            '\'' if !quoted && chars.clone().nth(1) == Some('\'') => {
                // A character literal, which may be a quote.
                chars.next();
                chars.next();
            }
            '/' if !quoted && chars.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => out.push(c),
        }
    }
    out
}

fn files(extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                // Build output and other worktrees are not ours to judge.
                if !name.starts_with('.') && name != "target" && name != "data" {
                    walk(&path, extension, found);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), extension, &mut found);
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("found below the root").display().to_string()
}

fn sources() -> Vec<Source> {
    let read = |path: PathBuf| Source { path: relative(&path), text: fs::read_to_string(&path).expect("UTF-8") };
    files("rs").into_iter().map(read).collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

#[track_caller]
fn none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// The first name of each path that starts with `crate::`, groups included.
fn crate_names(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            names.extend(words(rest).next().map(str::to_owned));
            continue;
        };
        let (mut depth, mut at_start, mut word) = (1, true, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 1 && (c.is_alphanumeric() || c == '_') && at_start {
                word.push(c);
            } else if !word.is_empty() {
                names.insert(std::mem::take(&mut word));
                at_start = false;
            }
            if depth == 1 && c == ',' {
                at_start = true;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

#[test]
fn arrows_between_rooms_go_one_way() {
    let arrows = ARROWS.iter().copied().collect::<BTreeMap<_, _>>();
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let Some(room) = source.room().filter(|room| !["lib", "main"].contains(room)) else { continue };
        let Some(allowed) = arrows.get(room) else {
            broken.push(format!("{}: the room {room} is not in the table", source.path));
            continue;
        };
        let code = source.code().map(|(_, line)| line).collect::<Vec<_>>().join("\n");
        for name in crate_names(&code).iter().filter(|name| arrows.contains_key(name.as_str())) {
            let leaf = LEAVES.contains(&name.as_str()) && !LEAVES.contains(&room);
            let shell_leaf = SHELL.contains(&room) && SHELL_LEAVES.contains(&name.as_str());
            let own = name == room || (room == "metrics" && name == "error");
            if !(own || leaf || shell_leaf || allowed.contains(&name.as_str())) {
                broken.push(format!("{}: {room} names {name}", source.path));
            }
        }
    }
    none("arrows that the table does not have", &broken);
}

#[test]
fn the_scanner_of_arrows_sees_all_forms() {
    let code = "use crate::{a::{x, y}, b, c::*};\nuse crate::d::Z; fn f() { crate::e::g(); }\nuse crate::{\n  h,\n  i::{j, k},\n};";
    let names = crate_names(code);
    assert_eq!(names, ["a", "b", "c", "d", "e", "h", "i"].map(String::from).into());
    assert_eq!(bare(r#"let a = "crate::b // no"; // crate::c"#), r#"let a = ""; "#);
}

#[test]
fn core_rooms_know_no_clock_no_chance_no_thread() {
    let mut broken = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        if !source.room().is_some_and(|room| CORE.contains(&room)) {
            continue;
        }
        for (n, line) in source.code() {
            for word in words(&line).filter(|word| NOT_IN_CORE.contains(word)) {
                let excused = CORE_EXCEPTIONS.iter().find(|(file, w, _)| *file == source.path && *w == word);
                match excused {
                    Some(exception) => drop(used.insert(exception)),
                    None => broken.push(format!("{}:{n}: {word}", source.path)),
                }
            }
        }
    }
    none("words that the core may not know", &broken);
    assert_eq!(used.len(), CORE_EXCEPTIONS.len(), "an exception that nothing needs any more");
}

/// What is named in one place only can be exchanged there.
#[test]
fn raft_and_rocksdb_stay_behind_their_doors() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("server/src/")) {
        for (n, line) in source.code() {
            for word in words(&line) {
                let home = match word {
                    "RawNode" | "eraftpb" => "server/src/node/core",
                    "rocksdb" => "server/src/engine/",
                    _ => continue,
                };
                if !source.path.starts_with(home) {
                    broken.push(format!("{}:{n}: {word} belongs to {home}", source.path));
                }
            }
        }
    }
    none("names outside of their room", &broken);
}

#[test]
fn nothing_is_unwrapped_outside_of_tests() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.code().filter(|(_, line)| line.contains(".unwrap()"));
        broken.extend(lines.map(|(n, _)| format!("{}:{n}", source.path)));
    }
    none("say why it holds: expect(\"…\")", &broken);
}

/// A test that naps is slow where the machine is fast, and wrong where it is slow.
#[test]
fn tests_wait_for_conditions() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.is_test()) {
        let naps = source.code().filter(|(_, line)| line.contains("sleep("));
        broken.extend(naps.map(|(n, _)| format!("{}:{n}", source.path)));
    }
    none("wait for a condition instead of a time", &broken);
}

#[test]
fn files_and_functions_are_short() {
    let mut long = BTreeMap::new();
    for source in sources() {
        let lines = source.text.lines().collect::<Vec<_>>();
        if lines.len() > FILE_LINES {
            long.insert(source.path.clone(), lines.len());
        }
        for (name, length) in functions(&lines) {
            if length > FUNCTION_LINES {
                long.insert(format!("{}::{name}", source.path), length);
            }
        }
    }
    let excused = LONG.iter().map(|(what, _)| *what).collect::<BTreeSet<_>>();
    let broken = long.iter().filter(|(what, _)| !excused.contains(what.as_str()));
    none("too long", &broken.map(|(what, lines)| format!("{what}: {lines} lines")).collect::<Vec<_>>());
    let idle = excused.iter().filter(|what| !long.contains_key(**what)).map(|what| (*what).to_owned());
    none("excused, but short by now", &idle.collect::<Vec<_>>());
}

/// Name and length of each function. rustfmt puts the closing brace of a body at its own indentation.
fn functions(lines: &[&str]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let start = line.trim_start();
        let Some((before, after)) = start.split_once("fn ") else { continue };
        let qualifiers = ["", "pub", "pub(super)", "pub(crate)", "const", "async", "unsafe"];
        if !before.split(' ').all(|word| qualifiers.contains(&word)) {
            continue;
        }
        let name = words(after).next().unwrap_or_default().to_owned();
        let close = format!("{}}}", &line[..line.len() - start.len()]);
        let whole = line.ends_with(';') || line.ends_with('}');
        let end = if whole { Some(0) } else { lines[n..].iter().position(|line| **line == close) };
        found.push((name, end.map_or(1, |end| end + 1)));
    }
    found
}

/// Doors are essays: what is promised, what must hold, what is not here.
#[test]
fn doors_are_essays() {
    let mut broken = Vec::new();
    for source in sources() {
        let door = source.path.ends_with("/mod.rs") && source.path.matches('/').count() == 3;
        if door && source.path.starts_with("server/src/") && !source.is_test() {
            let essay = source.text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
            if !essay.contains("nvariants") {
                broken.push(format!("{}: no invariants", source.path));
            }
        }
    }
    none("doors without an essay", &broken);
}

#[test]
fn links_of_the_docs_resolve() {
    let mut broken = Vec::new();
    for path in files("md") {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let folder = path.parent().expect("a file has a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") && !folder.join(file).exists()
            {
                broken.push(format!("{}: {target}", relative(&path)));
            }
        }
        // A path in backticks that starts with a folder of ours is a link too.
        for (n, quoted) in text.split('`').enumerate() {
            let ours = ["docs/", "scripts/", "server/src/", "proto/", "tests/"].iter().any(|f| quoted.starts_with(f));
            let plain = quoted.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if n % 2 == 1 && ours && plain && !root().join(quoted).exists() {
                broken.push(format!("{}: `{quoted}`", relative(&path)));
            }
        }
    }
    none("links to nowhere", &broken);
}
