//! Imports go one way, as ARCHITECTURE.md draws them. What is new here was decided, not slipped in: change the table
//! and the drawing together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Which of our crates each of our crates may name, outside its own tests.
const OURS: &[(&str, &[&str])] = &[
    ("weft-wire", &[]),
    ("weft-policy", &["weft-wire"]),
    ("weft-ca", &["weft-wire"]),
    ("weft-discovery", &["weft-wire"]),
    ("weft-proxy", &["weft-wire", "weft-policy", "weft-ca"]),
    ("weft-node", &["weft-wire", "weft-policy", "weft-ca", "weft-discovery", "weft-proxy"]),
    ("weft-tests", &["weft-node"]),
    ("weft-sim", &["weft-wire", "weft-discovery", "weft-policy"]),
];

/// Crates that only one of ours may name, so that what it does can be replaced there.
const ONLY_IN: &[(&str, &str)] = &[
    ("bincode", "weft-wire"),
    ("rcgen", "weft-ca"),
    ("chitchat", "weft-discovery"),
    ("quinn", "weft-node"),
    ("redb", "weft-node"),
];

/// Cores: values in, values out. They may name none of these.
const PURE: &[&str] = &["weft-wire", "weft-policy", "weft-ca"];
const NOT_IN_PURE: &[&str] = &["tokio", "hyper", "socket2", "nix", "tracing"];
/// What a core would write to read the clock, open a file or a socket.
const IMPURE_WORDS: &[&str] = &["Instant::now", "SystemTime::now", "std::fs", "std::net::Tcp", "std::net::Udp"];

struct Package {
    folder: PathBuf,
    /// Dependencies of the crate itself and of its build script, without those of its tests.
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let package = |package: &Value| {
        let named = |dev: bool| {
            let dependencies = package["dependencies"].as_array().expect("a list");
            let wanted = dependencies.iter().filter(|dependency| (dependency["kind"] == "dev") == dev);
            wanted.map(|dependency| text(&dependency["name"])).collect()
        };
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let folder = manifest.parent().expect("a file has a folder").to_owned();
        (text(&package["name"]), Package { folder, normal: named(false), dev: named(true) })
    };
    metadata["packages"].as_array().expect("a list").iter().map(package).collect()
}

#[test]
fn our_crates_import_each_other_one_way() {
    let packages = packages();
    let listed: BTreeSet<&str> = OURS.iter().map(|(name, _)| *name).collect();
    assert_eq!(packages.keys().map(String::as_str).collect::<BTreeSet<_>>(), listed, "every crate has its line here");
    for (name, allowed) in OURS {
        for import in packages[*name].normal.iter().filter(|import| listed.contains(import.as_str())) {
            assert!(allowed.contains(&import.as_str()), "{name} must not import {import}");
        }
    }
}

#[test]
fn nothing_depends_on_the_tests() {
    for (name, package) in packages() {
        let mut all = package.normal.iter().chain(&package.dev);
        assert!(!all.any(|import| ["weft-tests", "weft-sim"].contains(&import.as_str())), "{name} imports tests");
    }
}

#[test]
fn replaceable_crates_are_named_by_one_of_ours() {
    let packages = packages();
    for (import, owner) in ONLY_IN {
        for (name, package) in &packages {
            assert!(name == owner || !package.normal.contains(*import), "{import} belongs to {owner}, not to {name}");
        }
        assert!(packages[*owner].normal.contains(*import), "{owner} does not need {import}: take it off this list");
    }
}

#[test]
fn bincode_is_named_in_one_file() {
    for (name, package) in packages() {
        for file in rust_files(&package.folder.join("src")) {
            let is_codec = name == "weft-wire" && file.ends_with("src/codec.rs");
            assert!(is_codec || !code(&file).contains("bincode::"), "{} names bincode", file.display());
        }
    }
}

#[test]
fn cores_own_no_clock_and_do_no_io() {
    let packages = packages();
    for name in PURE {
        for import in NOT_IN_PURE {
            assert!(!packages[*name].normal.contains(*import), "{name} must not import {import}");
        }
        for file in rust_files(&packages[*name].folder.join("src")) {
            let code = code(&file);
            for word in IMPURE_WORDS {
                assert!(!code.contains(word), "{} says {word}; let the caller hand it in", file.display());
            }
        }
    }
}

#[test]
fn every_crate_forbids_unsafe_code_and_takes_the_workspace_lints() {
    for (name, package) in packages() {
        let manifest = fs::read_to_string(package.folder.join("Cargo.toml")).expect("readable");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} has no [lints] workspace = true");
        let root = fs::read_to_string(package.folder.join("src/lib.rs")).expect("readable");
        assert!(root.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
    }
}

/// A file without what only its unit tests and its comments say.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("readable");
    let before_tests = text.split("#[cfg(test)]\nmod tests").next().expect("split gives at least one part");
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    before_tests.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}
