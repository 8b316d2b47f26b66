//! Secrets reach the nodes that need them, and nobody else sees a byte of them.

use std::{fs, path::Path};

use weft_tests::lab::{Lab, PATIENCE, Ran, wait_for};

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: edge }
spec:
  selector: { istio: ingressgateway }
  servers:
  - port: { number: 443, name: https, protocol: HTTPS }
    hosts: ['*']
    tls: { mode: SIMPLE, credentialName: edge }
";

/// Which nodes there are: a CA node and an admin node, which keep all Secrets; a gateway, and another member.
const CA: usize = 0;
const ADMIN: usize = 1;
const EDGE: usize = 2;
const OTHER: usize = 3;

fn mesh() -> Lab {
    let mut lab = Lab::new(4);
    lab.found_mesh();
    for (i, role) in [(ADMIN, "admin"), (EDGE, "member"), (OTHER, "member")] {
        let token = lab.token(&["--role", role]);
        lab.join(i, &token).ok();
        if i == EDGE {
            lab.host(i).configure("labels: { istio: ingressgateway }\n");
        }
        lab.host_mut(i).start();
    }
    (0..4).for_each(|i| lab.wait_members(i, "alive", 4));
    lab
}

/// A certificate and its key.
fn pair(lab: &Lab) -> (String, String) {
    let (key, certificate) = (lab.file("key.pem", ""), lab.file("cert.pem", ""));
    let made = lab
        .host(CA)
        .command("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=edge".split(' '))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |path: &Path| fs::read_to_string(path).expect("openssl wrote it");
    (read(&certificate), read(&key))
}

fn secret(lab: &Lab, (certificate, key): &(String, String)) -> String {
    let block = |text: &str| text.trim_end().replace('\n', "\n    ");
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: edge, namespace: istio-system }}\ntype: \
         kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        block(certificate),
        block(key)
    );
    lab.file("secret.yaml", &text).to_string_lossy().into_owned()
}

/// How many Secrets a node has on disk.
fn kept(lab: &Lab, i: usize) -> usize {
    let files = fs::read_dir(lab.host(i).dir.join("secrets")).expect("each node has the directory");
    files.filter(|file| file.as_ref().expect("readable").file_name().len() == 64).count()
}

fn wait_kept(lab: &Lab, counts: [usize; 4]) {
    let what = format!("the nodes keep {counts:?} Secrets");
    wait_for(&what, PATIENCE, || (0..4).all(|i| kept(lab, i) == counts[i]).then_some(()));
}

/// Every file below a directory, with what stands beside it under its name: the log.
fn files_of(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut left = vec![dir.to_owned(), dir.with_extension("log")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        } else if let Ok(bytes) = fs::read(&path) {
            files.push((path.display().to_string(), bytes));
        }
    }
    files
}

fn assert_nowhere(lab: &Lab, plain: &str) {
    for i in 0..4 {
        for (name, bytes) in files_of(&lab.host(i).dir) {
            assert!(!bytes.windows(plain.len()).any(|window| window == plain.as_bytes()), "{name} holds {plain}");
        }
    }
}

fn said(ran: Ran) -> String {
    format!("{}{}", ran.stdout, ran.stderr)
}

#[test]
fn a_secret_is_where_it_is_needed_and_nowhere_else_and_outlives_a_keeper() {
    let mut lab = mesh();
    let gateway = lab.file("gateway.yaml", GATEWAY);
    lab.host(CA).weft(&["apply", "-f", &gateway.to_string_lossy()]).ok();
    let first = pair(&lab);
    let key_line = first.1.lines().nth(1).expect("a line of the key").to_owned();
    let file = secret(&lab, &first);
    assert!(lab.host(CA).weft(&["apply", "-f", &file]).ok().contains("created"));
    wait_kept(&lab, [1, 1, 1, 0]);
    assert!(lab.host(CA).weft(&["apply", "-f", &file]).ok().contains("unchanged"));

    let mut outputs = String::new();
    for i in 0..4 {
        for format in ["yaml", "json", "wide", "table"] {
            outputs += &lab.host(i).weft(&["get", "secret", "edge", "-n", "istio-system", "-o", format]).ok();
        }
        outputs += &lab.host(i).curl(&[], "http://127.0.0.1:15000/api/v1/documents").ok();
    }
    assert!(outputs.contains("tls.key: 241") && outputs.contains("kubernetes.io/tls"), "{outputs}");
    assert_eq!(said(lab.host(CA).weft(&["diff", "-f", &file])), "");

    let second = pair(&lab);
    let file = secret(&lab, &second);
    let diff = said(lab.host(CA).weft(&["diff", "-f", &file]));
    assert!(diff.contains("*** (changed)"), "{diff}");
    outputs += &diff;
    outputs += &said(lab.host(CA).weft(&["analyze", "-f", &file, "--mesh", "-o", "sarif"]));
    outputs += &said(lab.host(CA).weft(&["apply", "--dry-run", "-f", &file]));

    // A member without the right to write hands it to a node that keeps it; the first one dies.
    let credential = lab.host(CA).dir.join("operator");
    lab.host_mut(CA).kill();
    lab.wait_members(OTHER, "failed", 1);
    let credential = ["--credential", &*credential.to_string_lossy()];
    let applied = lab.host(OTHER).weft(&[&["apply", "-f", &file][..], &credential].concat());
    outputs += &applied.ok();
    wait_for("the new version is everywhere", PATIENCE, || {
        let on = |i: usize| lab.host(i).try_json(&["get", "secret", "edge", "-n", "istio-system"]);
        let digest = |i: usize| Some(on(i)?["content"]["digest"].as_str()?.to_owned());
        (digest(ADMIN)? == digest(EDGE)? && digest(EDGE)? == digest(OTHER)?).then_some(())
    });
    wait_kept(&lab, [1, 1, 1, 0]);

    // A gateway that lost what it had gets it from the keeper that is left; the first catches up.
    lab.host_mut(EDGE).stop();
    fs::remove_dir_all(lab.host(EDGE).dir.join("secrets")).expect("it is there");
    lab.host_mut(EDGE).start();
    wait_for("the gateway fetches the Secret", PATIENCE, || (kept(&lab, EDGE) == 1).then_some(()));
    lab.host_mut(CA).start();
    (0..4).for_each(|i| lab.wait_members(i, "alive", 4));
    wait_for("all have the present version", PATIENCE, || {
        let is_programmed = |i: usize| {
            let found = lab.host(i).try_json(&["get", "secret", "edge", "-n", "istio-system"])?;
            let conditions = found["status"]["conditions"].as_array()?.clone();
            Some(conditions.iter().all(|condition| condition["status"] == "True"))
        };
        (0..4).all(|i| is_programmed(i) == Some(true)).then_some(())
    });

    for plain in [key_line.as_str(), second.1.lines().nth(1).expect("a line of the key")] {
        assert!(!outputs.contains(plain), "{outputs}");
        assert_nowhere(&lab, plain);
    }

    // Needed no longer, and then deleted.
    lab.host(CA).weft(&["delete", "gateway", "edge"]).ok();
    wait_for("the gateway wipes the Secret", PATIENCE, || (kept(&lab, EDGE) == 0).then_some(()));
    assert_eq!(kept(&lab, ADMIN), 1);
    lab.host(CA).weft(&["delete", "secret", "edge", "-n", "istio-system"]).ok();
    wait_for("the keepers wipe it", PATIENCE, || (kept(&lab, ADMIN) == 0).then_some(()));
}

#[test]
fn a_secret_that_nobody_could_use_is_refused_without_being_printed() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let refused = |name: &str, text: &str, words: &[&str]| {
        let file = lab.file(name, text);
        let ran = lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]);
        assert!(!ran.stderr.contains("hunter2") && !ran.stdout.contains("hunter2"), "{}", ran.stderr);
        ran.refused(words);
    };
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
    refused("text.yaml", &format!("{secret}data: hunter2\n"), &["data", "must be a map"]);
    refused("base64.yaml", &format!("{secret}data: {{a: hunter2!}}\n"), &["data.a", "is not base64"]);
    let tls = "type: kubernetes.io/tls\nstringData: {tls.crt: hunter2, tls.key: hunter2}\n";
    refused("tls.yaml", &format!("{secret}{tls}"), &["tls.crt", "its certificate is no PEM"]);
    lab.host(0).weft(&["get", "secret", "a"]).refused(&["not found"]);
}
