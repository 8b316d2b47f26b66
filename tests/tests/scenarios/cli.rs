//! What scripts may rely on: words, exit codes, files.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use weft_tests::lab::{DATA_PORT, Host, Lab, PATIENCE, wait_for};

#[test]
fn usage_errors_exit_with_two_and_help_with_zero() {
    let lab = Lab::new(1);
    let host = lab.host(0);
    for wrong in [&["frobnicate"][..], &["status", "--frobnicate"], &["init", "--name", "UPPER"], &["apply"], &[]] {
        assert_eq!(host.weft(wrong).code, Some(2), "weft {wrong:?}");
    }
    for command in [
        "init",
        "up",
        "leave",
        "status",
        "members",
        "services",
        "endpoints",
        "explain route",
        "explain access",
        "why",
        "join",
        "apply",
        "diff",
        "get",
        "delete",
        "schema",
        "run",
        "demo",
        "completions",
    ] {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = host.weft(&words).ok();
        assert!(help.contains("Examples:"), "weft {command} --help shows no example");
    }
    assert!(host.weft(&["version"]).ok().starts_with("weft "));
}

/// What bash makes of a line that ends with a tab, with the script that weft gives it.
fn completed(host: &Host, line: &str) -> Vec<String> {
    // bash splits lines at these itself; the words here have none.
    let words = line.split(' ').count();
    let last = line.rsplit(' ').next().unwrap_or_default();
    let script = format!(
        "weft() {{ {} \"$@\"; }}; source <(weft completions bash); COMP_WORDS=({line}{}); COMP_CWORD={}; \
         _clap_complete_weft weft '{last}'; printf '%s\n' \"${{COMPREPLY[@]}}\"",
        weft_tests::lab::weft(),
        if last.is_empty() { "''" } else { "" },
        words - 1,
    );
    let output = host.command("bash").args(["-c", &script]).output().expect("bash runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn shells_complete_commands_kinds_documents_services_namespaces_and_nodes() {
    let mut lab = Lab::new(1);
    let alone = completed(lab.host(0), "weft get vi");
    assert_eq!(alone, ["virtualservices"], "kinds need no node");
    lab.found_mesh();
    lab.host_mut(0).host_service("echo", "v1", 8080, 0);
    lab.wait_healthy(0, "echo", 1);
    let route = |name: &str, namespace: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: \
             {namespace}}}, spec: {{hosts: [echo], http: [{{route: [{{destination: {{host: echo}}}}]}}]}}}}\n---\n"
        )
    };
    let file = lab.file("routes.yaml", &(route("east", "default") + &route("west", "prod")));
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    for (line, words) in [
        ("weft endp", &["endpoints"][..]),
        ("weft get vs ", &["east"]),
        ("weft get vs -n prod ", &["west"]),
        ("weft get -A vs ", &["east", "west"]),
        ("weft history virtualservice/e", &["virtualservice/east"]),
        ("weft delete vs x", &[]),
        ("weft schema ratel", &["ratelimits"]),
        ("weft endpoints ", &["echo"]),
        ("weft explain access --from echo --to e", &["echo"]),
        ("weft get all -n pr", &["prod"]),
        ("weft revoke node ", &["host-1"]),
    ] {
        assert_eq!(completed(lab.host(0), line), words, "{line}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = lab.host(0).weft(&["completions", shell]).ok();
        assert!(script.contains("WEFT_COMPLETE"), "{shell}");
    }
}

#[test]
fn without_a_node_commands_fail_with_one_line_that_says_what_to_do() {
    let lab = Lab::new(1);
    let host = lab.host(0);
    for command in [&["status"][..], &["members"], &["services"], &["endpoints", "a"], &["token", "create"], &["leave"]]
    {
        host.weft(command).refused(&["weft"]);
    }
    host.weft(&["status"]).refused(&["no node is running", "weft up"]);
    host.weft(&["up"]).refused(&["weft init", "weft join"]);
    host.init().ok();
    host.weft(&["leave"]).refused(&["no node is running", "weft up", "remove"]);
}

#[test]
fn kinds_and_their_schemas_are_printed_without_a_node() {
    let lab = Lab::new(1);
    let host = lab.host(0);
    let kinds = host.json(&["schema"]);
    let kinds = kinds.as_array().unwrap();
    assert!(kinds.iter().any(|kind| kind["kind"] == "VirtualService" && kind["shortNames"][0] == "vs"));
    for kind in kinds {
        let word = match kind["group"].as_str().unwrap() {
            "" => kind["plural"].as_str().unwrap().to_owned(),
            group => format!("{}.{group}", kind["plural"].as_str().unwrap()),
        };
        let schema: serde_json::Value = serde_json::from_str(&host.weft(&["schema", &word]).ok()).unwrap();
        assert_eq!(schema["title"], kind["kind"]);
    }
    host.weft(&["schema", "deployment"]).refused(&["\"deployment\"", "weft schema"]);
}

#[test]
fn a_data_directory_holds_one_node_and_keeps_its_secrets() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    for i in [0, 1] {
        assert!(check_secrets(&lab.host(i).dir) > 0, "no private key found on {}", lab.host(i).name);
        // A second node on the same directory, a second identity in it.
        lab.host(i).weft(&["up"]).refused(&["running"]);
        lab.host(i).init().refused(&["already"]);
        let token = lab.token(&[]);
        lab.host(i).join(&format!("{}:{DATA_PORT}", lab.host(0).address), &token).refused(&["already"]);
    }
    // It was the second one that gave way.
    assert_eq!(lab.host(0).json(&["status"])["ready"], true);
}

/// Counts the files with private keys, and panics if anyone but their owner may read one.
fn check_secrets(dir: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        let metadata = path.metadata().expect("readable");
        if metadata.is_dir() {
            found += check_secrets(&path);
        } else if metadata.is_file() && fs::read_to_string(&path).is_ok_and(|text| text.contains("PRIVATE KEY")) {
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{}", path.display());
            found += 1;
        }
    }
    found
}

#[test]
fn a_token_is_printed_alone() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let printed = lab.host(0).weft(&["token", "create"]).ok();
    assert_eq!(printed.lines().count(), 1);
    assert!(printed.starts_with("weft1."), "{printed}");
}

#[test]
fn a_wrong_configuration_is_refused_by_file_line_and_field() {
    let lab = Lab::new(1);
    lab.host(0).init().ok();
    lab.host(0).configure("\nadvertize: 198.18.0.1\n");
    lab.host(0).weft(&["up"]).refused(&["node.yaml:", "advertize"]);
}

#[test]
fn several_mistakes_in_a_configuration_are_one_line() {
    let lab = Lab::new(1);
    lab.host(0).init().ok();
    lab.host(0).configure("\nworkers: 0\nadmin: 10.0.0.1:15000\n");
    lab.host(0).weft(&["up"]).refused(&["node.yaml:", "(and 1 more)"]);
}

#[test]
fn analysis_takes_what_the_mesh_holds_and_announces_and_files_as_if_applied() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    lab.host_mut(0).host_service("echo", "v1", 8080, 0);
    lab.host_mut(0).host_client();
    lab.wait_healthy(0, "echo", 1);
    let file = |name: &str, text: &str| lab.file(name, text).to_string_lossy().into_owned();
    let route = file(
        "route.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: echo }\n\
         spec: { hosts: [echo], http: [{ route: [{ destination: { host: echo, subset: v1 } }] }] }\n",
    );
    let subset = |version: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: echo }}\n\
             spec: {{ host: echo, subsets: [{{ name: v1, labels: {{ version: {version} }} }}] }}\n"
        );
        file(&format!("{version}.yaml"), &text)
    };
    lab.host(0).weft(&["apply", "-f", &route]).ok();

    let missing = lab.host(0).weft(&["analyze", "--mesh"]);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stdout.starts_with("Error [IST0101] (VirtualService default/echo) "), "{}", missing.stdout);

    assert_eq!(lab.host(0).weft(&["analyze", "--mesh", "-f", &subset("v1")]).ok(), "");
    let unserved = lab.host(0).weft(&["analyze", "--mesh", "-f", &subset("v2")]);
    assert!(unserved.stdout.starts_with("Error [IST0173] (DestinationRule default/echo "), "{}", unserved.stdout);
}

#[test]
fn get_prints_what_users_of_kubectl_ask_for() {
    let mut lab = Lab::new(1);
    lab.found_mesh();
    let rule = |name: &str, labels: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name}, labels: \
             {{ {labels} }} }}\nspec: {{ hosts: [{name}], http: [{{ directResponse: {{ status: 204 }} }}] }}\n"
        )
    };
    let apply = |lab: &Lab, name: &str, labels: &str| {
        let file = lab.file(&format!("{name}.yaml"), &rule(name, labels)).to_string_lossy().into_owned();
        lab.host(0).weft(&["apply", "-f", &file]).ok();
    };
    apply(&lab, "one", "rank: '2'");
    apply(&lab, "two", "rank: '1', app: x");
    let get = |rest: &[&str]| lab.host(0).weft(&[&["get", "vs"], rest].concat()).ok();
    assert_eq!(get(&["one", "-o", "jsonpath={.metadata.name}: {.spec.hosts[0]}"]), "one: one");
    let programmed = "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Programmed\")].status}{\"\\n\"}{end}";
    assert_eq!(get(&["-o", programmed]), "one=True\ntwo=True\n");
    let names = "jsonpath={.items[*].metadata.name}";
    assert_eq!(get(&["--sort-by", ".metadata.labels.rank", "-o", names]), "two one");
    assert_eq!(get(&["--sort-by={.metadata.name}", "-o", names]), "one two");
    let table = get(&["--show-labels", "--no-headers"]);
    assert!(!table.contains("LABELS") && table.contains("rank=2\n") && table.contains("app=x,rank=1\n"), "{table}");
    let members = lab.host(0).weft(&["members", "-o", "jsonpath={[0].name}"]).ok();
    assert_eq!(members, lab.host(0).name);

    for (arguments, words) in [
        (&["get", "vs", "-o", "jsonpath={.a"][..], "expected \"}\""),
        (&["get", "vs", "-o", "jsonpath=.a"], "in braces"),
        (&["get", "vs", "-o", "go-template={{.a}}"], "jsonpath=TEMPLATE"),
        (&["get", "vs", "--sort-by", ".a[", "-A"], "sort-by"),
        (&["delete", "vs", "one", "-R"], "--recursive"),
    ] {
        let ran = lab.host(0).weft(arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }

    let seen = "jsonpath=seen {.metadata.name} {.metadata.labels.rank}{\"\\n\"}";
    lab.host_mut(0).weft_beside(&["get", "vs", "-w", "-o", seen]);
    let told = |lab: &Lab| {
        let log = lab.host(0).log_tail(1_000);
        log.lines().filter_map(|line| line.strip_prefix("seen ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let wait_told = |lab: &Lab, expected: &[&str]| {
        wait_for(&format!("the watch tells {expected:?}"), PATIENCE, || (told(lab) == expected).then_some(()));
    };
    wait_told(&lab, &["one 2", "two 1"]);
    apply(&lab, "one", "rank: '3'");
    wait_for("the watch tells of the change", PATIENCE, || told(&lab).contains(&"one 3".to_owned()).then_some(()));
    lab.host(0).weft(&["delete", "vs", "two"]).ok();
    wait_for("the watch tells of the end", PATIENCE, || {
        (told(&lab).iter().filter(|line| *line == "two 1").count() == 2).then_some(())
    });
}
