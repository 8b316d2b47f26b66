use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use http::{HeaderMap, Method, Uri, Version};
use weft_policy::{
    access_log::RequestLine,
    telemetry::{Collector, LogOutput},
};

use super::*;
use crate::ports::Span;

fn entry(path: &'static str) -> Arc<Entry> {
    entry_of(path, 200)
}

fn entry_of(path: &'static str, status: u16) -> Arc<Entry> {
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    let uri = Uri::from_static(path);
    Arc::new(Entry {
        duration: Duration::from_millis(3),
        request: Some(RequestLine::of(&Method::GET, &uri, Version::HTTP_11, &HeaderMap::new(), false)),
        status,
        ..Entry::new(here, here)
    })
}

#[derive(Default)]
struct Sink(Mutex<Vec<(String, LogRecord)>>);

impl SignalSink for Sink {
    fn log(&self, to: &Arc<Collector>, record: LogRecord) -> bool {
        self.0.lock().unwrap().push((to.host.clone(), record));
        true
    }

    fn span(&self, _: Span) -> bool {
        false
    }
}

fn signals(place: LogPlace, format: &str) -> Arc<Signals> {
    let output = Arc::new(LogOutput { place, format: Some(LogFormat::text(format).unwrap()) });
    Arc::new(Signals { logs: Logs::To(vec![LogTo { output, filter: None }]), ..Signals::default() })
}

fn handed(entry: Arc<Entry>, signals: Arc<Signals>) -> Handed {
    Handed { entry, signals, counted: None }
}

fn log(to: NodeLogTo, format: Option<AccessLogFormat>) -> (AccessLog, Arc<Sink>) {
    let sink = Arc::new(Sink::default());
    let log = NodeLog { format, to, node: "n1".into() };
    (AccessLog::start(log, Metrics::default(), sink.clone()).unwrap(), sink)
}

fn nowhere() -> NodeLogTo {
    NodeLogTo::Stream(Box::new(io::sink()))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn holds(path: &Path, expected: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text == expected)
}

#[test]
fn where_no_document_says_anything_the_nodes_configuration_does() {
    let (on, _) = log(nowhere(), Some(AccessLogFormat::Text));
    let (off, _) = log(nowhere(), None);
    let nothing = Signals::default();
    assert!(on.takes(&nothing) && !off.takes(&nothing));
    let told = signals(LogPlace::Node, "x");
    assert!(off.takes(&told));
    assert!(!on.takes(&Signals { logs: Logs::To(Vec::new()), ..Signals::default() }));
}

#[test]
fn a_file_that_was_moved_away_is_opened_again_when_that_is_said() {
    let dir = std::env::temp_dir().join(format!("weft-log-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let (own, moved, named) = (dir.join("own"), dir.join("own.1"), dir.join("named"));
    let (log, _) = log(NodeLogTo::File(own.clone()), Some(AccessLogFormat::Json));
    let to_own = signals(LogPlace::Node, "%REQ(:PATH)%");
    let to_named = signals(LogPlace::File(named.to_str().unwrap().into()), "%REQ(:METHOD)%");
    assert!(
        log.write(handed(entry("/one"), to_own.clone())).is_ok()
            && log.write(handed(entry("/one"), to_named.clone())).is_ok()
    );
    wait_until("both files have a line", || holds(&own, "/one\n") && holds(&named, "GET\n"));
    fs::rename(&own, &moved).unwrap();
    fs::remove_file(&named).unwrap();
    assert!(log.reopen().now_or_never().is_some());
    assert!(log.write(handed(entry("/two"), to_own)).is_ok() && log.write(handed(entry("/two"), to_named)).is_ok());
    wait_until("new files have the next line", || holds(&own, "/two\n") && holds(&named, "GET\n"));
    assert!(holds(&moved, "/one\n"));
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn the_latest_lines_are_kept_as_they_were_written_and_older_ones_make_room() {
    let (log, _) = log(nowhere(), None);
    let recent = log.recent();
    let texts = || recent.find(|_| true).into_iter().map(|line| line.text).collect::<Vec<_>>();
    assert!(log.write(handed(entry("/not-logged"), Arc::default())).is_ok());
    let to_node = signals(LogPlace::Node, "%REQ(:PATH)% %RESPONSE_CODE%");
    for status in 1..=recent::KEPT as u16 {
        assert!(log.write(handed(entry_of("/a", status), to_node.clone())).is_ok());
        if status.is_multiple_of(256) {
            wait_until("they are written", || texts().len() == usize::from(status));
        }
    }
    assert_eq!((texts()[0].as_str(), texts().len()), ("/a 1", recent::KEPT));
    let long: &'static str = format!("/{}", "ä".repeat(2_000).replace('ä', "%C3%A4")).leak();
    assert!(log.write(handed(entry_of(long, 7), to_node)).is_ok());
    wait_until("the oldest is gone", || texts()[0] == "/a 2");
    let last = texts().pop().unwrap();
    assert!(last.starts_with("/%C3") && last.len() <= 2_048 && last.len() > 2_000, "{}", last.len());
    assert_eq!(texts().len(), recent::KEPT);
    assert!(recent.find(|line| line.text == "/a 3").len() == 1 && recent.find(|line| line.is_server).is_empty());
}

/// What a worker hands over is in this, and whoever reads it may be slow.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

fn stream(format: Option<AccessLogFormat>) -> (AccessLog, Shared, Metrics) {
    let (written, metrics) = (Shared::default(), Metrics::default());
    let to = NodeLogTo::Stream(Box::new(written.clone()));
    let log = NodeLog { format, to, node: "n1".into() };
    (AccessLog::start(log, metrics.clone(), Arc::new(Sink::default())).unwrap(), written, metrics)
}

#[tokio::test]
async fn workers_write_lines_of_the_nodes_log_themselves_and_all_is_written_in_order() {
    let (log, written, metrics) = stream(None);
    let worker = WorkerLog::new(log.clone());
    let to_node = signals(LogPlace::Node, "%REQ(:PATH)% %RESPONSE_CODE%");
    for status in 1..=1_000 {
        assert!(worker.write_here(&entry_of("/a", status), &to_node));
    }
    // What is written elsewhere comes after what was written here before.
    assert!(worker.write(handed(entry("/b"), to_node.clone())).is_ok());
    assert!(worker.write_here(&entry("/c"), &to_node));
    drop(worker);
    log.written().await;
    let expected: Vec<_> = (1..=1_000).map(|status| format!("/a {status}")).collect();
    let expected: Vec<_> = expected.into_iter().chain(["/b 200".into(), "/c 200".into()]).collect();
    assert_eq!((written.lines(), metrics.dropped_log_lines()), (expected.clone(), 0));
    let recent: Vec<_> = log.recent().find(|_| true).into_iter().map(|line| line.text).collect();
    assert_eq!(recent, expected[expected.len() - recent::KEPT..]);
}

#[test]
fn a_line_that_more_depends_on_is_written_elsewhere() {
    let (on, ..) = stream(Some(AccessLogFormat::Json));
    let (off, ..) = stream(None);
    let journal = std::env::temp_dir().join(format!("weft-no-journal-{}", std::process::id()));
    let (journald, _) = log(NodeLogTo::Journal(journal), Some(AccessLogFormat::Text));
    let (on, off, journald) = (WorkerLog::new(on), WorkerLog::new(off), WorkerLog::new(journald));
    let (of_node, to_node) = (Signals::default(), signals(LogPlace::Node, "x"));
    assert!(on.write_here(&entry("/"), &of_node) && on.write_here(&entry("/"), &to_node));
    assert!(!off.write_here(&entry("/"), &of_node) && off.write_here(&entry("/"), &to_node));
    assert!(!journald.write_here(&entry("/"), &of_node) && !journald.write_here(&entry("/"), &to_node));
    let Logs::To(all) = &to_node.logs else { panic!("{to_node:?}") };
    let one = &all[0];
    for logs in [vec![one.clone(), one.clone()], Vec::new()] {
        assert!(!on.write_here(&entry("/"), &Signals { logs: Logs::To(logs), ..Signals::default() }));
    }
    assert!(!on.write_here(&entry("/"), &signals(LogPlace::File("/nowhere/at/all".into()), "x")));
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_has_gathered_goes_when_it_is_old_or_much() {
    let (log, ..) = stream(Some(AccessLogFormat::Text));
    let worker = WorkerLog::new(log);
    let write = |lines: u16| {
        let signals = signals(LogPlace::Node, "%RESPONSE_CODE%");
        assert!((0..lines).all(|status| worker.write_here(&entry_of("/", status), &signals)));
        worker.gathered()
    };
    let going = async {
        assert_eq!(write(2), 2);
        tokio::time::sleep(Duration::from_millis(49)).await;
        assert_eq!(worker.gathered(), 2);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(worker.gathered(), 0);
        assert_eq!((write(511), write(1)), (511, 0));
    };
    tokio::select! {
        () = worker.keep_going() => {}
        () = going => {}
    }
}

#[tokio::test]
async fn lines_that_a_slow_reader_has_no_room_for_are_counted() {
    let (log, written, metrics) = stream(Some(AccessLogFormat::Text));
    let worker = WorkerLog::new(log.clone());
    let signals = signals(LogPlace::Node, "%RESPONSE_CODE%");
    let reading = written.0.lock().unwrap();
    let total = 200 * 512;
    for _ in 0..total {
        assert!(worker.write_here(&entry("/"), &signals));
    }
    let lost = metrics.dropped_log_lines();
    assert!(lost > 0 && lost.is_multiple_of(512), "{lost}");
    drop(reading);
    log.written().await;
    assert_eq!(written.lines().len() as u64 + lost, total);
}

#[test]
fn kept_lines_are_bounded_by_bytes_too() {
    let recent = RecentLines::default();
    let kept = |recent: &RecentLines| recent.find(|_| true).len();
    for _ in 0..100 {
        let mut batch = Batch::default();
        batch.add(&entry("/"), |text| text.push_str(&"x".repeat(64 * 1024)));
        recent.keep(batch);
    }
    assert_eq!(kept(&recent), 15, "of 64 KiB and an end each");
    let mut batch = Batch::default();
    batch.add(&entry("/"), |text| text.push_str(&"x".repeat(2 * 1024 * 1024)));
    recent.keep(batch);
    assert_eq!(kept(&recent), 1);
}

#[test]
fn what_cannot_be_written_is_counted() {
    let metrics = Metrics::default();
    let own = NodeLog { format: None, to: nowhere(), node: "n1".into() };
    let log = AccessLog::start(own, metrics.clone(), Arc::new(Sink::default())).unwrap();
    let nowhere = signals(LogPlace::File("/nowhere/at/all".into()), "x");
    assert!(log.write(handed(entry("/"), nowhere.clone())).is_ok() && log.write(handed(entry("/"), nowhere)).is_ok());
    wait_until("two lines are lost", || metrics.dropped_log_lines() == 2);
}

#[test]
fn journald_gets_fields_and_values_with_ends_of_line_by_their_length() {
    let path = std::env::temp_dir().join(format!("weft-journal-{}", std::process::id()));
    let journal = UnixDatagram::bind(&path).unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (log, _) = log(NodeLogTo::Journal(path.clone()), Some(AccessLogFormat::Text));
    assert!(log.write(handed(entry("/one"), signals(LogPlace::Node, "%REQ(:PATH)%"))).is_ok());
    assert!(log.write(handed(entry_of("/two", 503), signals(LogPlace::Node, "a\nb"))).is_ok());
    let mut buffer = [0; 1024];
    let length = journal.recv(&mut buffer).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&buffer[..length]),
        "MESSAGE=/one\nPRIORITY=6\nSYSLOG_IDENTIFIER=weft\nWEFT_LOG=access\nWEFT_RESPONSE_CODE=200\n"
    );
    let length = journal.recv(&mut buffer).unwrap();
    assert!(buffer[..length].starts_with(b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=3\n"));
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_collector_gets_records_but_none_of_what_goes_to_itself() {
    let (log, sink) = log(nowhere(), None);
    let collector = Collector {
        namespace: weft_wire::id::Namespace::default_namespace(),
        host: "otel".into(),
        port: 4317,
        http_path: None,
        timeout: Duration::from_secs(1),
        headers: Default::default(),
    };
    let labels = serde_json::json!({ "code": "%RESPONSE_CODE%" });
    let place = LogPlace::Otlp {
        collector: Arc::new(collector),
        log_name: "mine".into(),
        attributes: Some(LogFormat::json(labels.as_object().unwrap()).unwrap()),
    };
    let signals = signals(place, "%REQ(:PATH)%");
    for uri in ["http://otel:4317/v1/logs", "http://reviews/0"] {
        assert!(log.write(handed(entry(uri), signals.clone())).is_ok());
    }
    wait_until("a record has come", || !sink.0.lock().unwrap().is_empty());
    drop(log);
    let records = sink.0.lock().unwrap();
    let [(host, record)] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((host.as_str(), record.body.as_str(), &*record.log_name), ("otel", "/0", "mine"));
    assert_eq!(record.attributes["code"], 200);
}
