//! The demo's child processes: started together, watched, and all ended whatever happens to the demo itself.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a process may take to end after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of a dead process's log is shown.
const LAST_LINES: usize = 20;

/// Processes that run until this is dropped: then each gets SIGTERM, after 5 s SIGKILL, and is waited for.
#[derive(Default)]
pub(super) struct Processes(Vec<Process>);

struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Processes {
    /// Starts `command` with its output appended to the file `log`.
    ///
    /// It gets a process group of its own, so that Ctrl-C in the terminal reaches the demo alone and the demo decides
    /// in which order things end.
    pub(super) fn start(&mut self, name: &str, mut command: Command, log: PathBuf) -> anyhow::Result<()> {
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("could not write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("could not start {name}"))?;
        self.0.push(Process { name: name.to_owned(), log, child });
        Ok(())
    }

    /// Fails, with the last lines of its log, if a process has ended.
    pub(super) fn all_alive(&mut self) -> anyhow::Result<()> {
        for Process { name, log, child } in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended ({status}); the end of {}:\n{}", log.display(), last_lines(log));
            }
        }
        Ok(())
    }

    fn any_left(&mut self) -> bool {
        // A process that cannot be waited for is not ours any more.
        self.0.iter_mut().any(|process| matches!(process.child.try_wait(), Ok(None)))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // Not yet waited for, so the process id cannot belong to another process by now.
            if let (Ok(None), Ok(id)) = (process.child.try_wait(), i32::try_from(process.child.id())) {
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while self.any_left() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        for process in &mut self.0 {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn last_lines(log: &Path) -> String {
    const TAIL: u64 = 16 << 10;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(could not be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        command
    }

    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "waited 10 s in vain");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_process_that_ends_early_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut processes = Processes::default();
        let script = "for i in $(seq 1 30); do echo line $i; done; echo it broke >&2; exit 3";
        processes.start("node host-1", shell(script), dir.path().join("log")).unwrap();
        until(|| std::fs::read_to_string(dir.path().join("log")).unwrap().contains("it broke"));
        let deadline = Instant::now() + Duration::from_secs(10);
        let error = loop {
            assert!(Instant::now() < deadline, "the end was not noticed");
            if let Err(error) = processes.all_alive() {
                break error.to_string();
            }
        };
        assert!(error.contains("node host-1 ended (exit status: 3)"), "{error}");
        assert!(error.contains("    it broke\n") && error.contains("    line 12\n"), "{error}");
        assert!(!error.contains("line 11\n"), "{error}");
    }

    #[test]
    fn dropping_ends_every_process_by_sigterm() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut processes = Processes::default();
        let script = "trap 'echo ended; exit 0' TERM; echo started; while :; do sleep 0.05; done";
        processes.start("one", shell(script), log.clone()).unwrap();
        until(|| std::fs::read_to_string(&log).unwrap().contains("started"));
        processes.all_alive().unwrap();
        let id = processes.0[0].child.id();
        drop(processes);
        assert!(std::fs::read_to_string(&log).unwrap().contains("ended"));
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut processes = Processes::default();
        let script = "trap '' TERM; echo started; while :; do sleep 0.05; done";
        processes.start("deaf", shell(script), log.clone()).unwrap();
        until(|| std::fs::read_to_string(&log).unwrap().contains("started"));
        let id = processes.0[0].child.id();
        drop(processes);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
