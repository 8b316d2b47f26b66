use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, Uri, Version};
use weft_policy::{
    access_log::{RequestLine, Upstream},
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
        start: SystemTime::UNIX_EPOCH,
        duration: Duration::from_millis(3),
        request: Some(RequestLine::of(&Method::GET, &uri, Version::HTTP_11, &HeaderMap::new(), false)),
        status,
        grpc_status: None,
        flag: "-",
        failure: None,
        code_details: None,
        bytes_received: 0,
        bytes_sent: 0,
        until_response: None,
        response: None,
        trailers: None,
        upstream: Upstream::default(),
        downstream_local: here,
        downstream_remote: here,
        requested_server_name: None,
        route_name: None,
        is_server: false,
        peer: None,
        source: None,
        destination: None,
        trace: None,
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
    log.reopen();
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
