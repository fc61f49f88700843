//! Why the member ends by itself: the exit code, one word for machines, a sentence for people.

use std::{fs::OpenOptions, io::Write, path::Path};

use serde_json::json;

use crate::node;

/// Longest text that Kubernetes reads from a termination log.
const MAX_TERMINATION_LOG: usize = 4096;

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: i32,
    pub(super) cause: &'static str,
    pub(super) text: String,
}

impl Failure {
    /// Another member knows this one under another incarnation.
    pub(super) fn emptied(by: u64, known: u64) -> Self {
        Self {
            code: node::EXIT_IDENTITY,
            cause: "disk-emptied",
            text: format!(
                "member {by:x} knows this member under the incarnation {known:x}, which its data folder does not have: the \
                 folder was emptied or exchanged, and with it what this member promised is forgotten. It must not vote \
                 again under its id. Restore the folder, or remove the member from its cluster and add it under a new \
                 id. If the cluster never served anything, empty the folders of all its members and start them again"
            ),
        }
    }

    /// Tells people and machines: a line of JSON on standard error, and the same in the termination log if there is one.
    /// The file is never made: in a container it is there, elsewhere nobody would look for it.
    pub(super) fn tell(&self, termination_log: &Path) {
        tracing::error!(error = self.text, cause = self.cause, "cannot go on");
        let line = self.line();
        eprintln!("{line}");
        let wrote = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(termination_log)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = wrote
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, file = %termination_log.display(), "cannot write the termination log");
        }
    }

    fn line(&self) -> String {
        let line = |message: &str| json!({ "exit": self.code, "cause": self.cause, "message": message }).to_string();
        let whole = line(&self.text);
        // A line that is cut would be no JSON any more.
        if whole.len() <= MAX_TERMINATION_LOG { whole } else { line("see the log") }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { code: 1, cause: "failed", text }
    }
}

impl From<node::StartError> for Failure {
    fn from(error: node::StartError) -> Self {
        let (code, cause) = error.exit();
        Self { code, cause, text: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told() {
        let temp = tempfile::tempdir().expect("a folder");
        let file = temp.path().join("log");
        let failure = Failure::emptied(0xab, 0xcd);
        failure.tell(&file);
        assert!(!file.exists(), "the file is not made");
        std::fs::write(&file, "something longer ".repeat(1000)).expect("written");
        failure.tell(&file);
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
        assert_eq!((told["exit"].as_i64(), told["cause"].as_str()), (Some(78), Some("disk-emptied")));
        assert!(told["message"].as_str().expect("text").contains("member ab knows this member"));
        let long = Failure::from("x".repeat(MAX_TERMINATION_LOG));
        assert!(long.line().len() < 100 && long.line().contains("see the log"));
    }
}
