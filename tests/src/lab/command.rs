//! Commands that run to their end, and what they said.

use std::process::{Command, Stdio};

use serde_json::Value;

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    what: String,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub(super) fn run(command: &mut Command, what: &str) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            what: what.into(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed; panics unless it succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}: {}", self.what, self.stderr);
        self.stdout
    }

    /// What it printed as JSON; panics unless it succeeded.
    pub fn json(self) -> Value {
        let what = self.what.clone();
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error} in {text}"))
    }

    /// Panics unless it was refused as the contract says, exit code 1 and one line on stderr, and that line holds all
    /// of these words.
    pub fn refused(self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}: {}{}", self.what, self.stdout, self.stderr);
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{} says more than one line: {}", self.what, self.stderr);
        assert_eq!(self.stdout, "", "{} prints although it was refused", self.what);
        for word in words {
            let said = self.stderr.to_lowercase();
            assert!(said.contains(&word.to_lowercase()), "{} does not say {word:?}: {}", self.what, self.stderr);
        }
    }
}

/// An HTTP exchange made by curl.
#[derive(Debug)]
pub struct Http {
    /// 0 if there was no answer.
    pub status: u16,
    /// `name: value`, names in lower case, one a line.
    pub headers: String,
    pub body: String,
}

impl Http {
    pub(super) fn run(command: &mut Command, url: &str) -> Self {
        command.args(["--silent", "--show-error", "--max-time", "20", "--include", "--write-out", "\n%{http_code}"]);
        let ran = Ran::run(command.arg(url), &format!("curl {url}"));
        let (answer, status) = ran.stdout.rsplit_once('\n').unwrap_or(("", "0"));
        let (headers, body) = answer.split_once("\r\n\r\n").unwrap_or(("", answer));
        let lower = |line: &str| match line.split_once(':') {
            Some((name, value)) => format!("{}:{value}", name.to_lowercase()),
            None => line.to_owned(),
        };
        Self {
            status: status.parse().unwrap_or(0),
            headers: headers.lines().map(lower).collect::<Vec<_>>().join("\n"),
            body: body.to_owned(),
        }
    }

    /// The body; panics unless the status is 200.
    pub fn ok(self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    /// The body as JSON; panics unless the status is 200.
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }
}
