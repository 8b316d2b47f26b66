//! Where lines go: streams, files that may be moved away under us, and journald.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use weft_policy::access_log::Entry;

use super::NodeLogTo;

const BUFFER: usize = 64 * 1024;
/// Files that are open at once; what goes to more is lost.
const MAX_FILES: usize = 64;
/// A file that could not be opened is tried again after so long.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// journald may take so long to take an entry.
const JOURNAL_TIMEOUT: Duration = Duration::from_millis(500);
/// syslog's priority of what is worth telling and no problem; and of what a server has failed at.
const INFORMATIONAL: u8 = 6;
const ERROR: u8 = 3;

/// One place where lines go. Each method says how many lines were lost.
pub(super) enum Out {
    Stream(Lines<Box<dyn Write + Send>>),
    File(OwnFile),
    Journal(Journal),
}

impl Out {
    pub(super) fn open(to: NodeLogTo) -> io::Result<Self> {
        Ok(match to {
            NodeLogTo::Stream(stream) => Self::Stream(Lines::new(stream)),
            NodeLogTo::File(path) => {
                // At the start somebody is there to read why it cannot be written.
                let open = Some(Lines::new(append_to(&path)?));
                Self::File(OwnFile { path, open, tried: None })
            }
            NodeLogTo::Journal(path) => Self::Journal(Journal::new(path)?),
        })
    }

    pub(super) fn write(&mut self, line: &str, entry: &Entry) -> u64 {
        match self {
            Self::Stream(lines) => lines.write(line),
            Self::File(file) => file.write(line),
            Self::Journal(journal) => journal.write(line, entry),
        }
    }

    /// Lines with their ends.
    pub(super) fn write_lines(&mut self, text: &str, lines: u64) -> u64 {
        match self {
            Self::Stream(out) => out.write_lines(text, lines),
            Self::File(file) => file.write_lines(text, lines),
            // It gets no lines, but what they are made of.
            Self::Journal(_) => lines,
        }
    }

    pub(super) fn flush(&mut self) -> u64 {
        match self {
            Self::Stream(lines) => lines.flush(),
            Self::File(file) => file.flush(),
            Self::Journal(_) => 0,
        }
    }

    pub(super) fn reopen(&mut self) {
        if let Self::File(file) = self {
            file.close();
        }
    }
}

/// Lines on their way out.
pub(super) struct Lines<W: Write> {
    out: BufWriter<W>,
    /// Since the last flush that went well.
    unsure: u64,
    /// The reader is gone (a closed pipe, a full disk): traffic goes on without a log.
    is_broken: bool,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER, out), unsure: 0, is_broken: false }
    }

    fn write(&mut self, line: &str) -> u64 {
        self.write_parts(&[line, "\n"], 1)
    }

    fn write_lines(&mut self, text: &str, lines: u64) -> u64 {
        self.write_parts(&[text], lines)
    }

    fn write_parts(&mut self, parts: &[&str], lines: u64) -> u64 {
        if self.is_broken {
            return lines;
        }
        self.unsure += lines;
        match parts.iter().try_for_each(|part| self.out.write_all(part.as_bytes())) {
            Ok(()) => 0,
            Err(_) => self.fail(),
        }
    }

    fn flush(&mut self) -> u64 {
        if self.is_broken {
            return 0;
        }
        match self.out.flush() {
            Ok(()) => {
                self.unsure = 0;
                0
            }
            Err(_) => self.fail(),
        }
    }

    fn fail(&mut self) -> u64 {
        self.is_broken = true;
        std::mem::take(&mut self.unsure)
    }
}

/// A file by its name. What cannot be opened or written is tried again, so that a full disk or a missing directory
/// does not end the log.
pub(super) struct OwnFile {
    path: PathBuf,
    open: Option<Lines<File>>,
    /// When it was last tried in vain.
    tried: Option<Instant>,
}

impl OwnFile {
    fn write(&mut self, line: &str) -> u64 {
        self.opened().map_or(1, |open| open.write(line))
    }

    fn write_lines(&mut self, text: &str, lines: u64) -> u64 {
        self.opened().map_or(lines, |open| open.write_lines(text, lines))
    }

    fn opened(&mut self) -> Option<&mut Lines<File>> {
        if self.open.as_ref().is_some_and(|open| open.is_broken) {
            self.close();
            self.tried = Some(Instant::now());
        }
        if self.open.is_none() {
            if self.tried.is_some_and(|tried| tried.elapsed() < OPEN_AGAIN) {
                return None;
            }
            match append_to(&self.path) {
                Ok(file) => (self.open, self.tried) = (Some(Lines::new(file)), None),
                Err(error) => {
                    if self.tried.replace(Instant::now()).is_none() {
                        tracing::warn!(path = %self.path.display(), %error, "access log cannot be written");
                    }
                    return None;
                }
            }
        }
        self.open.as_mut()
    }

    fn flush(&mut self) -> u64 {
        self.open.as_mut().map_or(0, Lines::flush)
    }

    fn close(&mut self) {
        self.open = None;
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// The files that documents name.
#[derive(Default)]
pub(super) struct Files(BTreeMap<Box<str>, OwnFile>);

impl Files {
    pub(super) fn write(&mut self, path: &str, line: &str) -> u64 {
        if let Some(file) = self.0.get_mut(path) {
            return file.write(line);
        }
        if self.0.len() >= MAX_FILES {
            return 1;
        }
        let file = OwnFile { path: path.into(), open: None, tried: None };
        self.0.entry(path.into()).or_insert(file).write(line)
    }

    pub(super) fn flush(&mut self) -> u64 {
        self.0.values_mut().map(OwnFile::flush).sum()
    }

    /// Those that are written again are opened again; files that no document names any more are let go.
    pub(super) fn close(&mut self) {
        self.0.clear();
    }
}

/// journald, by its native protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    message: Vec<u8>,
}

impl Journal {
    fn new(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(JOURNAL_TIMEOUT))?;
        Ok(Self { socket, path, message: Vec::new() })
    }

    fn write(&mut self, line: &str, entry: &Entry) -> u64 {
        self.message.clear();
        let priority = if entry.status >= 500 { ERROR } else { INFORMATIONAL };
        self.field("MESSAGE", line);
        self.field("PRIORITY", &priority.to_string());
        self.field("SYSLOG_IDENTIFIER", "weft");
        self.field("WEFT_LOG", "access");
        if let Some(workload) = entry.own_workload() {
            self.field("WEFT_WORKLOAD", &format!("{}/{}", workload.namespace, workload.name));
        }
        self.field("WEFT_RESPONSE_CODE", &entry.status.to_string());
        if let Some(id) = entry.request.as_ref().and_then(|request| request.request_id.as_ref()?.to_str().ok()) {
            self.field("WEFT_REQUEST_ID", id);
        }
        if let Some(trace) = entry.trace {
            self.field("TRACE_ID", &format!("{:032x}", trace.trace));
        }
        // Not connected: journald may be restarted.
        u64::from(self.socket.send_to(&self.message, &self.path).is_err())
    }

    /// A value that has an end of line is told with its length.
    fn field(&mut self, name: &str, value: &str) {
        self.message.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.message.push(b'\n');
            self.message.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.message.push(b'=');
        }
        self.message.extend_from_slice(value.as_bytes());
        self.message.push(b'\n');
    }
}
