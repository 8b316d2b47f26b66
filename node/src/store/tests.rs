use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use proptest::prelude::*;
use weft_wire::{document::DocumentKey, fact::FactKind};

use super::*;

/// A store on a disk that takes nothing while the switch is on.
pub(crate) fn on_disk_that_fills(dir: &Path) -> (Store, Arc<AtomicBool>) {
    let full = Arc::new(AtomicBool::new(false));
    let (dir, switch) = (dir.to_owned(), full.clone());
    let open = move || open_database(&dir, |file| Ok(Disk { file: FileBackend::new(file)?, full: switch.clone() }));
    (Store::opened_by(Box::new(open)).unwrap(), full)
}

#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        match self.full.load(Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room().and_then(|()| self.file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.room().and_then(|()| self.file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room().and_then(|()| self.file.write(offset, data))
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

fn document(name: &str, millis: u64, body: Option<&str>) -> SignedDocument {
    let stamp = Stamp { millis, counter: 0 };
    SignedDocument {
        key: DocumentKey {
            group: "networking.istio.io".into(),
            kind: "VirtualService".into(),
            namespace: Some("default".parse().unwrap()),
            name: name.into(),
        },
        stamp,
        created: stamp,
        author: "spiffe://cluster.local/operator/admin".parse().unwrap(),
        body: body.map(Into::into),
        chain: vec![vec![1, 2, 3]],
        signature: vec![4, 5],
    }
}

fn kept(documents: &[SignedDocument]) -> Vec<KeptVersion> {
    documents.iter().map(|document| KeptVersion { document: document.clone(), written_here: false }).collect()
}

fn fact(owner: &str, kind: u16, seq: u64) -> SignedFact {
    SignedFact {
        owner: owner.parse().unwrap(),
        incarnation: 1,
        seq,
        kind: FactKind(kind),
        body: vec![7; 40],
        chain: vec![vec![1]],
        signature: vec![2],
    }
}

fn stamp(millis: u64, counter: u16) -> Stamp {
    Stamp { millis, counter }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn everything_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let documents = [document("reviews", 1, Some("{}")), document("ratings", 2, None)];
    let facts = [fact("host-1", 1, 5), fact("host-1", 2, 6), fact("host-2", 1, 7)];
    let peers: [SocketAddr; 2] = ["127.0.0.2:15008".parse().unwrap(), "[::1]:15008".parse().unwrap()];
    {
        let store = Store::open(dir.path()).unwrap();
        assert!(store.load_documents().unwrap().rows.is_empty());
        store.save_documents(&kept(&documents), stamp(9, 3)).unwrap();
        store.save_facts(&facts).unwrap();
        store.save_peers(&peers.into()).unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    let mut loaded = store.load_documents().unwrap();
    loaded.rows.sort_by_key(|document| document.stamp);
    assert_eq!(loaded, Loaded { rows: documents.to_vec(), skipped: 0 });
    assert_eq!(store.high_water().unwrap(), stamp(9, 3));
    assert_eq!(store.load_facts().unwrap(), Loaded { rows: facts.to_vec(), skipped: 0 });
    assert_eq!(store.load_peers().unwrap(), Loaded { rows: peers.to_vec(), skipped: 0 });
    store.save_peers(&[peers[1]].into()).unwrap();
    assert_eq!(store.load_peers().unwrap().rows, [peers[1]], "the other one has left");
}

#[test]
fn the_last_versions_of_a_document_are_kept_in_their_order_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let versions: Vec<_> = (1..=13).map(|millis| document("reviews", millis * 200, Some("{}"))).collect();
    // A late one among them, and one of a document with a longer name.
    let batches = [&versions[..5], &versions[6..], &versions[5..6], &[document("reviews-2", 1, None)]];
    for batch in batches {
        store.save_documents(&kept(batch), stamp(0, 0)).unwrap();
    }
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load_versions(&versions[0].key).unwrap(), kept(&versions[3..]));
    assert_eq!(store.load_versions(&document("reviews-2", 1, None).key).unwrap().len(), 1);
    assert_eq!(store.load_versions(&document("none", 1, None).key).unwrap(), []);
    store.save_documents(&[KeptVersion { document: versions[12].clone(), written_here: true }], stamp(0, 0)).unwrap();
    assert!(store.load_versions(&versions[0].key).unwrap().pop().unwrap().written_here, "saved again");
}

#[test]
fn what_a_build_cannot_use_is_known_until_another_version_or_build_comes() {
    let dir = tempfile::tempdir().unwrap();
    let versions = [document("reviews", 1, Some("{}")), document("reviews", 2, Some("{}"))];
    let key = versions[0].key.clone();
    {
        let store = Store::open(dir.path()).unwrap();
        store.save_documents(&kept(&versions[..1]), stamp(1, 0)).unwrap();
        store.hold_back(&key, stamp(1, 0), "1", "panics").unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load_held_back("1").unwrap(), [(key, stamp(1, 0), "panics".to_owned())]);
    assert_eq!(store.load_held_back("2").unwrap(), []);
    store.save_documents(&kept(&versions[1..]), stamp(1, 0)).unwrap();
    assert_eq!(store.load_held_back("1").unwrap(), []);
}

#[test]
fn deletions_move_to_the_archive_and_leave_it_with_all_that_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (one, other) = (document("one", 1, None), document("other", 2, None));
    store.save_documents(&kept(&[one.clone(), other.clone()]), stamp(1, 0)).unwrap();
    store.forget_deleted(&[Arc::new(one.clone()), Arc::new(other.clone())], &[]).unwrap();
    assert_eq!(store.load_documents().unwrap().rows, []);
    assert_eq!(store.load_archive().unwrap().rows.len(), 2);
    let keys = [other.key.clone(), document("none", 1, None).key];
    assert_eq!(store.load_archived(&keys).unwrap(), std::slice::from_ref(&other));
    assert_eq!(store.load_versions(&other.key).unwrap().len(), 1, "what became of it is still known");
    store.forget_deleted(&[], &keys).unwrap();
    assert_eq!(store.load_archived(&keys).unwrap(), []);
    assert_eq!(store.load_versions(&other.key).unwrap(), []);
    let anew = document("one", 3, Some("{}"));
    store.save_documents(&kept(std::slice::from_ref(&anew)), stamp(1, 0)).unwrap();
    assert_eq!(store.load_archive().unwrap().rows, []);
    assert_eq!(store.load_documents().unwrap().rows, [anew]);
}

#[test]
fn incarnations_grow_across_reopens_and_start_at_the_floor() {
    let dir = tempfile::tempdir().unwrap();
    for expected in 1..4 {
        assert_eq!(Store::open(dir.path()).unwrap().next_incarnation(0).unwrap(), expected);
    }
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.next_incarnation(100).unwrap(), 100);
    assert_eq!(store.next_incarnation(50).unwrap(), 101);
}

#[test]
fn the_high_water_never_falls() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for (saved, expected) in
        [(stamp(5, 7), stamp(5, 7)), (stamp(5, 2), stamp(5, 7)), (stamp(4, 9), stamp(5, 7)), (stamp(6, 0), stamp(6, 0))]
    {
        store.save_documents(&[], saved).unwrap();
        assert_eq!(store.high_water().unwrap(), expected);
    }
}

#[test]
fn a_node_that_left_is_forgotten_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save_facts(&[fact("host-1", 1, 1), fact("host-1", u16::MAX, 2), fact("host-10", 1, 3)]).unwrap();
    store.forget_facts(&"host-1".parse().unwrap()).unwrap();
    assert_eq!(store.load_facts().unwrap().rows, [fact("host-10", 1, 3)]);
}

#[test]
fn a_second_node_on_the_directory_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::InUse(_)));
    assert!(error.to_string().starts_with("another weft node is running on "), "{error}");
    drop(first);
    Store::open(dir.path()).unwrap();
}

#[test]
fn only_the_owner_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("a/node");
    fs::create_dir_all(&node).unwrap();
    fs::set_permissions(&node, Permissions::from_mode(0o755)).unwrap();
    Store::open(&node).unwrap();
    assert_eq!(mode(&node), 0o700);
    assert_eq!(mode(&node.join("store.redb")), 0o600);
}

#[test]
fn rows_that_cannot_be_read_are_counted_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.save_documents(&kept(&[document("reviews", 1, Some("{}"))]), stamp(1, 0)).unwrap();
    store.save_facts(&[fact("host-1", 1, 5)]).unwrap();
    store
        .write(|transaction| {
            transaction.open_table(DOCUMENTS)?.insert([1].as_slice(), [1, 255, 255, 255].as_slice())?;
            transaction.open_table(DOCUMENTS)?.insert([2].as_slice(), [].as_slice())?;
            transaction.open_table(FACTS)?.insert(("host-2", 1), [99].as_slice())?;
            transaction.open_table(PEERS)?.insert("nowhere", ())?;
            Ok(())
        })
        .unwrap();
    assert_eq!(store.load_documents().unwrap(), Loaded { rows: vec![document("reviews", 1, Some("{}"))], skipped: 2 });
    assert_eq!(store.load_facts().unwrap(), Loaded { rows: vec![fact("host-1", 1, 5)], skipped: 1 });
    assert_eq!(store.load_peers().unwrap(), Loaded { rows: vec![], skipped: 1 });
}

#[test]
fn a_damaged_file_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let path = dir.path().join("store.redb");
    let whole = fs::read(&path).unwrap();
    for damage in [b"not a database".to_vec(), whole[..whole.len() / 2].to_vec(), vec![0; whole.len()]] {
        fs::write(&path, damage).unwrap();
        let error = Store::open(dir.path()).err().unwrap();
        assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
        assert!(error.to_string().contains("move it away and start again"), "{error}");
    }
}

#[test]
fn after_a_full_disk_writes_go_on_when_it_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, full) = on_disk_that_fills(dir.path());
    let facts = [fact("host-1", 1, 1)];
    full.store(true, Relaxed);
    for _ in 0..2 {
        assert!(store.save_facts(&facts).is_err());
    }
    full.store(false, Relaxed);
    store.save_facts(&facts).unwrap();
    assert_eq!(store.load_facts().unwrap().rows, facts);
}

#[tokio::test]
async fn work_of_an_actor_runs_beside_the_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.call(|store| store.next_incarnation(0)).await.unwrap(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_last_save_of_each_document_is_what_a_reopen_finds(
        batches in prop::collection::vec(
            prop::collection::vec(("[a-d]", 0u64..1000, prop::option::of(".{0,20}")), 0..6), 1..6,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut expected, mut highest) = (BTreeMap::new(), Stamp::default());
        for batch in batches {
            let documents: Vec<_> =
                batch.iter().map(|(name, millis, body)| document(name, *millis, body.as_deref())).collect();
            let batch_high = documents.iter().map(|document| document.stamp).max().unwrap_or_default();
            highest = highest.max(batch_high);
            let store = Store::open(dir.path()).unwrap();
            store.save_documents(&kept(&documents), batch_high).unwrap();
            expected.extend(documents.into_iter().map(|document| (document.key.clone(), document)));
        }
        let store = Store::open(dir.path()).unwrap();
        let found: BTreeMap<_, _> =
            store.load_documents().unwrap().rows.into_iter().map(|document| (document.key.clone(), document)).collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(store.high_water().unwrap(), highest);
    }
}
