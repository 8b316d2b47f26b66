//! A mesh of two cells, whose relays pass documents whole and facts in summary.

use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::lab::{DATA_PORT, Lab, PATIENCE, wait_for};

use crate::{console::in_browser, documents::apply};

/// What changes in one cell is known in the other within this, whichever relay is down.
const CROSSES_WITHIN: Duration = Duration::from_secs(10);

/// Hosts 1 and 2 are relays of the first cell, 3 and 4 of the cell `west`; 5 and 6 are in that too.
fn two_cells() -> Lab {
    let mut lab = Lab::new(6);
    lab.host(0).init().ok();
    lab.host(0).configure("\nrelay: true\n");
    lab.host_mut(0).start();
    let seed = format!("{}:{DATA_PORT}", lab.host(0).address);
    for i in 1..6 {
        let token = lab.token(&["--allow", "default/*"]);
        lab.host(i).join(&seed, &token).ok();
        lab.host(i).configure(match i {
            1 => "\nrelay: true\nwants: [echo.default]\n",
            2 | 3 => "\ncell: west\nrelay: true\n",
            _ => "\ncell: west\n",
        });
        lab.host_mut(i).start();
    }
    lab
}

fn names(lab: &Lab, i: usize) -> Option<Vec<String>> {
    let members = lab.host(i).try_json(&["members"])?;
    let alive = members.as_array()?.iter().filter(|member| member["state"] == "alive");
    alive.map(|member| Some(member["name"].as_str()?.to_owned())).collect()
}

/// What the page of the mesh shows at the first host.
fn assert_page_shows(lab: &Lab, cells: &str) {
    let url = lab.host(0).weft(&["console"]).ok();
    in_browser(lab, "cells.mjs", &[("CONSOLE_URL", url.trim()), ("CELLS", cells)]);
}

fn wait_same_documents(lab: &Lab, hosts: &[usize], within: Duration) {
    wait_for("all hold the same documents", within, || {
        let digest = |i: usize| Some(lab.host(i).try_json(&["status"])?["documents_digest"].as_str()?.to_owned());
        let first = digest(hosts[0])?;
        hosts.iter().all(|&i| digest(i).as_ref() == Some(&first)).then_some(())
    });
}

#[test]
fn two_cells_are_one_mesh_and_a_relay_may_be_killed() {
    let mut lab = two_cells();
    lab.host_mut(1).host_client();
    lab.host_mut(4).host_service("echo", "v1", 8080, 5);
    lab.host_mut(5).host_service("unwanted", "v1", 8081, 5);
    lab.wait_healthy(1, "echo", 1);
    wait_for("each cell knows its own nodes, relays, and hosts of what it wants", PATIENCE, || {
        let is = |i: usize, known: &[&str]| names(&lab, i).is_some_and(|names| names == known);
        let west = ["host-1", "host-2", "host-3", "host-4", "host-5", "host-6"];
        let here = is(0, &["host-1", "host-2", "host-3", "host-4", "host-5"]);
        (here && [2, 4, 5].iter().all(|&i| is(i, &west))).then_some(())
    });
    let status = lab.host(3).json(&["status"]);
    assert_eq!((&status["cell"], &status["relay"]), (&Value::from("west"), &Value::from(true)));
    assert_eq!(lab.host(0).metric("weft_cell_nodes", &["cell=\"west\""]), 4.0);
    assert_eq!(lab.host(0).metric("weft_relay_links", &[]), 2.0);
    assert_page_shows(&lab, "default 2 2 host-1host-2; west 3 3 host-3host-4");
    wait_for("also what is not wanted is in the index", PATIENCE, || {
        let services = lab.host(0).try_json(&["services"])?;
        let told = |name: &str| services.as_array()?.iter().find(|one| one["name"] == name).cloned();
        let (wanted, unwanted) = (told("echo")?, told("unwanted")?);
        let are = |one: &Value| (one["endpoints"].clone(), one["cells"].clone());
        (are(&wanted) == (json!(1), json!({ "west": 1 })) && are(&unwanted) == (json!(0), json!({ "west": 1 })))
            .then_some(())
    });
    // Nobody has named it: the first call has its endpoints sent here.
    assert_eq!(lab.host(1).call("unwanted", "/", &[]).status, 200);
    apply(&lab, 0, "first", 1);
    wait_same_documents(&lab, &[0, 1, 2, 3, 4, 5], PATIENCE);

    let load = lab.host(1).load("echo", 100);
    lab.host_mut(3).kill();
    apply(&lab, 0, "second", 2);
    wait_same_documents(&lab, &[0, 1, 2, 4, 5], CROSSES_WITHIN);
    lab.host_mut(5).host_service("echo", "v2", 8080, 5);
    let healthy = |i: usize| {
        let endpoints = lab.host(i).try_json(&["endpoints", "echo"])?;
        let is_healthy = |one: &&Value| one["health"] == "healthy" && one["standing"] == "preferred";
        Some(endpoints.as_array()?.iter().filter(is_healthy).count())
    };
    wait_for("the other cell has the new endpoint", CROSSES_WITHIN, || (healthy(1)? == 2).then_some(()));
    let report = load.finish(500);
    report.assert_all_succeeded();
    assert_page_shows(&lab, "default 2 2 host-1host-2; west 4 3 host-3");

    lab.host_mut(3).start();
    wait_same_documents(&lab, &[0, 1, 2, 3, 4, 5], PATIENCE);
    wait_for("the relay is linked again", PATIENCE, || {
        (lab.host(3).metric("weft_relay_links", &[]) == 2.0).then_some(())
    });
}
