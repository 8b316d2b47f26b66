//! Who is let in, and what a node may say once it is in.

use std::{path::Path, time::Duration};

use rustls_pki_types::UnixTime;
use weft_ca::{csr, issuer::Root, keyfile};
use weft_tests::lab::{DATA_PORT, Lab, PATIENCE, origin, wait_for};

#[test]
fn a_bad_token_is_refused_and_the_error_says_why() {
    let mut lab = Lab::new(4);
    lab.found_mesh();
    lab.host(3).init().ok();
    lab.host_mut(3).start();

    let expired = lab.token(&["--ttl", "1s"]);
    wait_for("the token runs out", PATIENCE, || {
        lab.host(0).json(&["token", "list"]).as_array()?.is_empty().then_some(())
    });
    lab.join(1, &expired).refused(&["token", "expired"]);

    let used_up = lab.token(&["--uses", "1"]);
    lab.join(2, &used_up).ok();
    lab.join(1, &used_up).refused(&["token", "used"]);

    let revoked = lab.token(&[]);
    let tokens = lab.host(0).json(&["token", "list"]);
    let unused = tokens.as_array().expect("a list").iter().find(|token| token["used"] == 0).expect("the last one");
    lab.host(0).weft(&["token", "revoke", unused["id"].as_str().expect("an id")]).ok();
    lab.join(1, &revoked).refused(&["token", "revoked"]);

    let good = lab.token(&["--ttl", "10m"]);
    for tampered in tampered(&good) {
        let ran = lab.join(1, &tampered);
        assert_eq!(ran.code, Some(1), "{tampered}: {ran:?}");
        assert!(ran.stderr.contains("token"), "{ran:?}");
    }

    let of_another_mesh = lab.host(3).weft(&["token", "create"]).ok();
    lab.join(1, of_another_mesh.trim()).refused(&["mesh"]);

    // None of the refusals spent the good token, or left something behind on the host.
    assert!(!lab.host(1).dir.join("node/key.pem").exists());
    lab.join(1, &good).ok();
    lab.host_mut(1).start();
    lab.wait_members(0, "alive", 2);
}

/// The token with one character changed in the payload, in the signature, and with an end cut off.
fn tampered(token: &str) -> Vec<String> {
    let signature_at = token.rfind('.').expect("weft1.PAYLOAD.SIGNATURE") + 1;
    let change = |at: usize| {
        let other = if &token[at..=at] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &token[..at], &token[at + 1..])
    };
    vec![change(signature_at - 12), change(signature_at + 20), token[..token.len() - 8].to_owned()]
}

#[test]
fn a_tampered_token_is_called_that() {
    let mut lab = Lab::new(2);
    lab.found_mesh();
    // Only the signature differs, so that all the token says is true.
    let token = lab.token(&[]);
    lab.join(1, &tampered(&token)[1]).refused(&["token", "signature"]);
}

#[test]
fn a_token_works_at_a_seed_that_is_no_ca() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&[]]);
    let token = lab.token(&[]);
    let seed = format!("{}:{DATA_PORT}", lab.host(1).address);
    lab.host(2).join(&seed, &token).ok();
    lab.host_mut(2).start();
    (0..3).for_each(|i| lab.wait_members(i, "alive", 3));
}

#[test]
fn a_second_ca_admits_hosts_while_the_first_is_down() {
    let mut lab = Lab::new(3);
    lab.found_mesh();
    let token = lab.token(&["--role", "ca"]);
    lab.join(1, &token).ok();
    lab.host_mut(1).start();
    (0..2).for_each(|i| lab.wait_members(i, "alive", 2));
    lab.host_mut(0).stop();

    let token = lab.host(1).weft(&["token", "create"]).ok();
    let seed = format!("{}:{DATA_PORT}", lab.host(1).address);
    lab.host(2).join(&seed, token.trim()).ok();
    lab.host_mut(2).start();
    lab.wait_members(1, "alive", 2);
}

#[test]
fn an_intermediate_that_has_ended_is_renewed_by_the_node_with_the_root() {
    let mut lab = Lab::new(2);
    lab.found_mesh();
    let token = lab.token(&["--role", "ca", "--allow", "default/*"]);
    lab.join(1, &token).ok();
    lab.host_mut(1).start();
    (0..2).for_each(|i| lab.wait_members(i, "alive", 2));
    lab.host_mut(1).stop();

    // The second CA node comes back after its intermediate has ended, and hosts what it has no certificate for.
    let days_ago = |days: u64| UnixTime::now().as_secs() - days * 24 * 3600;
    let made = UnixTime::since_unix_epoch(Duration::from_secs(days_ago(31)));
    age_intermediate(&lab.host(0).dir, &lab.host(1).dir, made);
    lab.host(1).configure("\nservices:\n- { name: web, serviceAccount: web, port: 8080 }\n");
    lab.host_mut(1).start();
    wait_for("the intermediate is renewed", PATIENCE, || {
        (lab.host(1).json(&["status"])["issuer_seconds_left"].as_i64()? > 29 * 24 * 3600).then_some(())
    });
    assert!(lab.host(1).metric("weft_issuer_seconds_left", &[]) > 0.0);
    // It signs again, by itself.
    lab.host_mut(0).stop();
    lab.host_mut(1).host_command(
        &["--service", "again", "--service-account", "again", "--port", "9080"],
        &[&origin(), "--listen", "127.0.0.1:9080", "--name", "again"],
    );
    lab.wait_healthy(1, "again", 1);
}

/// Gives a CA node the intermediate that the root would have made for it then.
fn age_intermediate(root: &Path, node: &Path, made: UnixTime) {
    let certificate = keyfile::read_chain(&root.join("root/cert.pem")).expect("the root").remove(0);
    let root = Root::open(keyfile::read_key(&root.join("root/key.pem")).expect("its key"), certificate).expect("a CA");
    let key = keyfile::read_key(&node.join("issuer/key.pem")).expect("the intermediate's key");
    let name = "host-2".parse().expect("valid");
    let csr = csr::create(&key).expect("any key will do");
    let signed = root.sign_intermediate(&name, &csr, made).expect("the root is good");
    keyfile::write_chain(&node.join("issuer/cert.pem"), &[signed]).expect("writable");
}

#[test]
fn a_host_that_lost_the_answer_joins_again_and_keeps_its_name() {
    let mut lab = Lab::new(3);
    lab.found_mesh();
    let token = lab.token(&["--uses", "1"]);
    lab.join(1, &token).ok();
    std::fs::remove_file(lab.host(1).dir.join("node/cert.pem")).expect("the answer was there");

    // Before the host has said anything itself, another one tries to take its name.
    let (seed, other) = (format!("{}:{DATA_PORT}", lab.host(0).address), lab.token(&[]));
    let address = lab.host(2).address.to_string();
    let thief = ["join", &seed, "--token", &other, "--name", "host-2", "--advertise", &address];
    lab.host(2).weft(&thief).refused(&["host-2", "another key"]);

    lab.join(1, &token).ok();
    let tokens = lab.host(0).json(&["token", "list"]);
    let used: Vec<_> = tokens.as_array().expect("a list").iter().map(|token| token["used"].clone()).collect();
    assert_eq!(used.iter().filter(|used| **used == 1).count(), 1, "{tokens}");
    lab.host_mut(1).start();
    (0..2).for_each(|i| lab.wait_members(i, "alive", 2));
}

#[test]
fn a_second_mesh_on_the_seeds_address_is_refused_and_named() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&[]]);
    let token = lab.token(&[]);
    let mesh = lab.host(1).json(&["status"])["mesh"].clone();

    // The seed's host is set up anew, as another mesh.
    lab.host_mut(0).stop();
    let fresh = lab.host(0).dir.with_file_name("another-mesh");
    lab.host_mut(0).dir = fresh;
    lab.found_mesh();
    assert_ne!(lab.host(0).json(&["status"])["mesh"], mesh);

    lab.join(2, &token).refused(&["another mesh"]);
    // The member dials its seed for ever, and says what is wrong with it.
    wait_for("the member's log names the cause", PATIENCE, || {
        lab.host(1).log_tail(200).contains("not signed by this mesh").then_some(())
    });
    // For ever, but not for ever the same words.
    wait_for("more dials are refused", PATIENCE, || {
        (lab.host(1).metric("weft_peers_refused_total", &["reason=\"untrusted\""]) >= 4.0).then_some(())
    });
    assert_eq!(lab.host(1).log_tail(200).matches("a peer is refused").count(), 1);
    for i in [0, 1] {
        let members = lab.host(i).json(&["members"]);
        let alive = members.as_array().expect("a list").iter().filter(|member| member["state"] == "alive").count();
        assert_eq!(alive, 1, "the meshes have merged: {members}");
    }
}

#[test]
fn the_name_of_a_node_that_stopped_is_kept_for_it_and_that_of_one_that_left_is_free() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&[]]);
    let seed = format!("{}:{DATA_PORT}", lab.host(0).address);
    let address = lab.host(2).address.to_string();
    let take_its_name = |lab: &Lab| {
        let token = lab.token(&[]);
        lab.host(2).weft(&["join", &seed, "--token", &token, "--name", "host-2", "--advertise", &address])
    };
    let gone = |lab: &Lab| {
        wait_for("the host is gone", PATIENCE, || (lab.state_seen(0, 1)? == "left").then_some(()));
    };
    lab.host_mut(1).stop();
    gone(&lab);
    take_its_name(&lab).refused(&["host-2", "another key"]);

    lab.host_mut(1).start();
    (0..2).for_each(|i| lab.wait_members(i, "alive", 2));
    lab.host(1).weft(&["leave"]).ok();
    gone(&lab);
    take_its_name(&lab).ok();
}

#[test]
fn a_service_account_outside_the_grant_is_refused_on_its_own_node() {
    let mut lab = Lab::new(2);
    lab.form_mesh_of(&[&["--allow", "default/reviews"]]);
    let run = |account: &str| {
        let arguments = ["run", "--service", "ratings", "--port", "9080", "--service-account", account, "--", "true"];
        lab.host(1).weft(&arguments)
    };
    run("ratings").refused(&["default/ratings", "allow"]);
    assert_eq!(run("reviews").code, Some(0));
}

#[test]
fn a_node_that_announces_an_account_outside_its_grant_is_refused_everywhere_and_counted() {
    let mut lab = Lab::new(3);
    lab.form_mesh_of(&[&["--allow", "default/*"], &["--allow", "default/reviews"]]);
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_command(
        &["--service", "ratings", "--service-account", "ratings", "--port", "9080"],
        &[&origin(), "--listen", "127.0.0.1:9080", "--name", "honest"],
    );
    lab.wait_healthy(0, "ratings", 1);

    // The third host comes back as a node that does not ask itself what it may say.
    lab.host_mut(2).stop();
    lab.host_mut(2).environment.push(("WEFT_TESTING_SKIP_GRANTS", "1"));
    lab.host_mut(2).configure("\nservices:\n- { name: ratings, serviceAccount: ratings, workload: lie, port: 9080 }\n");
    lab.host_mut(2).start_unready();
    for i in [0, 1] {
        wait_for("the lie is refused and counted", PATIENCE, || {
            (lab.host(i).metric("weft_facts_refused_total", &["reason=\"account_not_allowed\""]) >= 1.0).then_some(())
        });
        let refused = lab.host(i).log_tail(200);
        assert!(refused.contains("host-3 announces service account default/ratings"), "{refused}");
        assert_eq!(lab.host(i).json(&["endpoints", "ratings"]).as_array().map(Vec::len), Some(1));
    }
    for _ in 0..50 {
        assert_eq!(lab.host(0).call("ratings", "/", &[]).header("x-served-by"), Some("honest"));
    }
}
