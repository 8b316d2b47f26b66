//! A process that does not outlive the test.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait_for;

pub struct Process(Child);

impl Process {
    /// Starts a command with nothing to read; what it writes is appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        Self::spawn(command.stdin(Stdio::null()).stdout(append(log)).stderr(append(log)))
    }

    /// Starts a command that runs until its input ends, and whose output matters.
    pub fn start_piped(command: &mut Command, log: &Path) -> Self {
        Self::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(append(log)))
    }

    fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("Linux pids fit"))
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("not yet waited for, so the pid is still its own");
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("waitable").is_none()
    }

    /// Waits for the process to end and returns its exit code, `None` if a signal ended it.
    pub fn wait(&mut self, within: Duration) -> Option<i32> {
        wait_for("the process ends", within, || self.0.try_wait().expect("waitable")).code()
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        self.0.kill().expect("not yet waited for");
        self.0.wait().expect("waitable");
    }

    /// Gives a piped process the last of its input, and returns all that it wrote.
    pub fn finish(mut self, input: &str, within: Duration) -> String {
        self.0.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads its input");
        let mut stdout = self.0.stdout.take().expect("piped");
        let mut text = String::new();
        stdout.read_to_string(&mut text).expect("text");
        assert_eq!(self.wait(within), Some(0), "exit code");
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn append(log: &Path) -> File {
    File::options().create(true).append(true).open(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()))
}
