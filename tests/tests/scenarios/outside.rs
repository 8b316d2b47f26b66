//! Hosts outside of the mesh: ServiceEntries, and the names that they are served under.

use std::{
    collections::HashMap,
    fs,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use weft_tests::lab::{Host, Lab, PATIENCE, origin, wait_for};

/// Answers of a name server, which can be changed; a name without one does not exist.
type Answers = Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>;

/// A name server on a host, as much of one as getaddrinfo needs: it answers one question with A records.
fn serve_names(host: &Host) -> Answers {
    let answers = Answers::default();
    let known = answers.clone();
    let socket = thread::scope(|scope| {
        let bound = scope.spawn(|| {
            host.enter();
            UdpSocket::bind((host.address, 53)).unwrap()
        });
        bound.join().unwrap()
    });
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, client)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&answer(&question[..len], &known.lock().unwrap()), client);
        }
    });
    answers
}

/// RFC 1035 section 4.
fn answer(question: &[u8], known: &HashMap<String, Vec<Ipv4Addr>>) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let len = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..=at + len]).to_lowercase());
        at += 1 + len;
    }
    let end = at + 5;
    let is_a = question[at + 1..at + 3] == [0, 1];
    let found = known.get(&labels.join("."));
    let addresses = found.filter(|_| is_a).map(Vec::as_slice).unwrap_or_default();
    let name_error = if found.is_none() { 3 } else { 0 };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | name_error, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

fn serve_outside(lab: &mut Lab, host: usize, port: u16, name: &str) -> String {
    let listen = format!("{}:{port}", lab.host(host).address);
    lab.host_mut(host).run_beside(Path::new(&origin()), &["--listen", &listen, "--name", name]);
    listen
}

fn wait_served_by(lab: &Lab, authority: &str, name: &str) {
    wait_for(&format!("{authority} is served by {name}"), PATIENCE, || {
        let answer = lab.host(0).call(authority, "/", &[]);
        (answer.status == 200 && answer.header("x-served-by") == Some(name)).then_some(())
    });
}

#[test]
fn an_entry_with_addresses_is_routed_split_and_counted_like_a_service() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    serve_outside(&mut lab, 1, 8081, "one");
    serve_outside(&mut lab, 1, 8082, "two");
    let address = lab.host(1).address;
    let documents = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: api }}
spec:
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{ name: http, number: 80, protocol: HTTP }}, {{ name: tls, number: 443, protocol: TLS, targetPort: 8081 }}]
  endpoints:
  - {{ address: {address}, ports: {{ http: 8081 }}, labels: {{ version: v1 }} }}
  - {{ address: {address}, ports: {{ http: 8082 }}, labels: {{ version: v2 }} }}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: api }}
spec: {{ host: api.example.com, subsets: [{{ name: v2, labels: {{ version: v2 }} }}] }}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: api }}
spec:
  hosts: [api.example.com]
  http: [{{ route: [{{ destination: {{ host: api.example.com, subset: v2, port: {{ number: 80 }} }} }}] }}]
"
    );
    let file = lab.file("api.yaml", &documents);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    wait_served_by(&lab, "api.example.com", "two");
    for _ in 0..10 {
        assert_eq!(lab.host(0).call("api.example.com", "/", &[]).header("x-served-by"), Some("two"));
    }
    let of_host = [
        "destination_service=\"api.example.com\"",
        "destination_service_name=\"api.example.com\"",
        "destination_service_namespace=\"default\"",
        "response_code=\"200\"",
    ];
    wait_for("requests count for the host", PATIENCE, || {
        (lab.host(0).metric("istio_requests_total", &of_host) >= 1.0).then_some(())
    });
    // TLS is not read: its port takes no requests, and CONNECT carries its bytes.
    assert_eq!(lab.host(0).call("api.example.com:443", "/", &[]).status, 502);
    let through = ["--proxy", "http://127.0.0.1:15001", "--proxytunnel", "--suppress-connect-headers"];
    let tunnelled = lab.host(0).curl(&through, "http://api.example.com:443/");
    assert_eq!(tunnelled.header("x-served-by"), Some("one"));
    let explained = lab.host(0).weft(&["explain", "route", "--from", "client", "--to", "api.example.com:80"]);
    assert!(explained.stdout.contains("outbound|80|v2|api.example.com"), "{}", explained.stdout);
    let endpoints = lab.host(0).json(&["endpoints", "API.example.com"]);
    let of = |i: usize| endpoints[i].clone();
    let name = address.to_string().replace('.', "-");
    assert_eq!((&of(0)["workload"], &of(0)["address"]), (&name.clone().into(), &format!("{address}:8081").into()));
    assert_eq!((&of(1)["health"], &of(1)["held_back"], &of(1)["node"]), (&"healthy".into(), &"".into(), &"".into()));
    let services = lab.host(0).json(&["services"]);
    let listed = services.as_array().unwrap().iter().any(|service| service["host"] == "api.example.com");
    assert!(listed, "{services}");
}

#[test]
fn an_address_of_an_entry_is_ruled_like_its_host_and_passes_where_only_what_is_registered_may() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    serve_outside(&mut lab, 1, 8081, "requests");
    serve_outside(&mut lab, 1, 8082, "bytes");
    serve_outside(&mut lab, 1, 8083, "unregistered");
    let address = lab.host(1).address;
    let documents = format!(
        "apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: {{ name: default, namespace: istio-system }}
spec: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }} }}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: partner }}
spec:
  hosts: [partner.example.com]
  addresses: [{address}/30]
  resolution: NONE
  ports: [{{ name: http, number: 8081, protocol: HTTP }}, {{ name: tcp, number: 8082, protocol: TCP }}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: partner }}
spec:
  hosts: [partner.example.com]
  http:
  - headers: {{ response: {{ set: {{ x-ruled: 'yes' }} }} }}
    route: [{{ destination: {{ host: partner.example.com }} }}]
"
    );
    let file = lab.file("partner.yaml", &documents);
    let applied = lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]);
    assert!(applied.code == Some(0) && !applied.stderr.contains("not enforced"), "{}", applied.stderr);
    wait_served_by(&lab, &format!("{address}:8081"), "requests");
    let answer = lab.host(0).call(&format!("{address}:8081"), "/", &[]);
    assert_eq!(answer.header("x-ruled"), Some("yes"));
    let through = ["--proxy", "http://127.0.0.1:15001", "--proxytunnel", "--suppress-connect-headers"];
    let tunnelled = lab.host(0).curl(&through, &format!("http://{address}:8082/"));
    assert_eq!(tunnelled.header("x-served-by"), Some("bytes"));
    let refused = lab.host(0).call(&format!("{address}:8083"), "/", &[]);
    assert_eq!((refused.status, refused.header("x-weft-reason")), (502, Some("unknown_host")), "no port of the entry");
}

#[test]
fn an_entry_of_a_name_is_served_as_soon_as_its_name_server_knows_it() {
    let mut lab = Lab::new(2);
    let answers = serve_names(lab.host(1));
    let resolver = lab.file("resolv.conf", &format!("nameserver {}\noptions timeout:1\n", lab.host(1).address));
    lab.host_mut(0).resolver = Some(resolver);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    serve_outside(&mut lab, 1, 8080, "named");
    let name = "weft-scenario.example.net";
    let documents = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: named }}
spec:
  hosts: [named.example.com]
  resolution: DNS
  ports: [{{ name: http, number: 80, protocol: HTTP, targetPort: 8080 }}]
  endpoints: [{{ address: {name} }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: alias }}
spec: {{ type: ExternalName, externalName: named.example.com }}
---
apiVersion: v1
kind: Service
metadata: {{ name: outside }}
spec: {{ type: ExternalName, externalName: {name}, ports: [{{ name: http, port: 8080 }}] }}
"
    );
    let file = lab.file("named.yaml", &documents);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    wait_for("a failed look-up is counted", PATIENCE, || {
        (lab.host(0).metric("weft_name_lookups_failed_total", &[]) >= 1.0).then_some(())
    });
    assert_eq!(lab.host(0).call("named.example.com", "/", &[]).status, 503, "known, and nowhere to go yet");
    answers.lock().unwrap().insert(name.into(), vec![Ipv4Addr::LOCALHOST, lab.host(1).address]);
    wait_served_by(&lab, "named.example.com", "named");
    wait_served_by(&lab, "alias", "named");
    wait_served_by(&lab, "outside:8080", "named");
}

/// Makes, with the system's own tools, an authority and a certificate of it for `name`: `ca.pem`, `NAME.pem`, `NAME.key`.
fn certify(lab: &Lab, name: &str) {
    let directory = lab.file("names.cnf", "subjectAltName = DNS:api.example.com\n").parent().unwrap().to_owned();
    let openssl = |arguments: &str| {
        let arguments = arguments.replace("NAME", name);
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(&directory).output().unwrap();
        assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    if !directory.join("ca.pem").exists() {
        openssl(&format!("req -x509 {new_key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"));
    }
    openssl(&format!("req {new_key} -keyout NAME.key -out NAME.csr -subj /CN=NAME"));
    openssl("x509 -req -in NAME.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out NAME.pem -days 2 -extfile names.cnf");
}

#[test]
fn a_place_that_wants_mutual_tls_is_called_once_the_files_that_a_rule_names_are_there() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    certify(&lab, "server");
    certify(&lab, "client");
    let file = |name: &str| lab.file("names.cnf", "").with_file_name(name).to_string_lossy().into_owned();
    let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(file);
    let [client, client_key, trusted] = ["client.pem", "client.key", "trusted.pem"].map(file);
    let listen = format!("{}:8443", lab.host(1).address);
    let serve =
        ["s_server", "-accept", &listen, "-cert", &certificate, "-key", &key, "-CAfile", &ca, "-Verify", "1", "-www"];
    lab.host_mut(1).run_beside(Path::new("openssl"), &serve);
    let documents = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: api }}
spec:
  hosts: [api.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{ name: http, number: 80, protocol: HTTP, targetPort: 8443 }}]
  endpoints: [{{ address: {} }}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: api }}
spec:
  host: api.example.com
  trafficPolicy:
    tls: {{ mode: MUTUAL, caCertificates: {trusted}, clientCertificate: {client}, privateKey: {client_key} }}
",
        lab.host(1).address
    );
    let applied = lab.file("api.yaml", &documents).to_string_lossy().into_owned();
    lab.host(0).weft(&["apply", "-f", &applied]).ok();
    let refused = wait_for("the missing file is told", PATIENCE, || {
        let answer = lab.host(0).call("api.example.com", "/", &[]);
        (answer.header("x-weft-reason") == Some("tls_unavailable")).then_some(answer)
    });
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains(&trusted), "{}", refused.body);

    fs::copy(&ca, &trusted).unwrap();
    // Files are read when documents change.
    lab.file("api.yaml", &format!("{documents}    loadBalancer: {{ simple: RANDOM }}\n"));
    lab.host(0).weft(&["apply", "-f", &applied]).ok();
    let answer = wait_for("it is called", PATIENCE, || {
        let answer = lab.host(0).call("api.example.com", "/", &[]);
        (answer.status == 200).then_some(answer)
    });
    assert!(answer.body.contains("Client certificate"), "{}", answer.body);
    assert!(answer.body.contains("CN=client") || answer.body.contains("CN = client"), "{}", answer.body);
}

#[test]
fn places_of_a_service_are_called_by_tls_where_a_backend_tls_policy_says_so() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    certify(&lab, "server");
    let file = |name: &str| lab.file("names.cnf", "").with_file_name(name).to_string_lossy().into_owned();
    let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(file);
    let listen = format!("{}:8443", lab.host(1).address);
    let serve = ["s_server", "-accept", &listen, "-cert", &certificate, "-key", &key, "-www"];
    lab.host_mut(1).run_beside(Path::new("openssl"), &serve);
    let documents = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: legacy }}
spec: {{ ports: [{{ name: http, port: 80 }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: legacy, labels: {{ kubernetes.io/service-name: legacy }} }}
addressType: IPv4
ports: [{{ name: http, port: 8443 }}]
endpoints: [{{ addresses: [{}] }}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{ name: legacy }}
spec:
  targetRefs: [{{ group: '', kind: Service, name: legacy }}]
  validation:
    hostname: api.example.com
    caCertificateRefs: [{{ group: '', kind: ConfigMap, name: authorities }}]
",
        lab.host(1).address
    );
    let policy = lab.file("legacy.yaml", &documents).to_string_lossy().into_owned();
    lab.host(0).weft(&["apply", "-f", &policy]).ok();
    let refused = wait_for("it is not called in the clear", PATIENCE, || {
        let answer = lab.host(0).call("legacy", "/", &[]);
        (answer.header("x-weft-reason") == Some("tls_unavailable")).then_some(answer)
    });
    assert!(refused.body.contains("there is no ConfigMap default/authorities"), "{}", refused.body);
    let accepted = || {
        let found = lab.host(0).json(&["get", "backendtlspolicy", "legacy"]);
        let ancestor = &found["status"]["ancestors"][0];
        assert_eq!(
            (&ancestor["ancestorRef"]["kind"], &ancestor["ancestorRef"]["name"]),
            (&"Service".into(), &"legacy".into())
        );
        (ancestor["conditions"][0]["reason"].clone(), ancestor["conditions"][1]["reason"].clone())
    };
    assert_eq!(accepted(), ("NoValidCACertificate".into(), "InvalidCACertificateRef".into()));

    let bundle = fs::read_to_string(&ca).unwrap().replace('\n', "\n    ");
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: authorities }}\ndata:\n  ca.crt: |\n    {bundle}\n"
    );
    let map = lab.file("authorities.yaml", &map).to_string_lossy().into_owned();
    lab.host(0).weft(&["apply", "-f", &map]).ok();
    let answer =
        wait_for("it is called", PATIENCE, || Some(lab.host(0).call("legacy", "/", &[])).filter(|a| a.status == 200));
    assert!(answer.body.contains("TLSv1.3"), "{}", answer.body);
    assert_eq!(accepted(), ("Accepted".into(), "ResolvedRefs".into()));
}

const NAME: &str = "weft-scenario.example.net";
const PARTLY: &str = "partly.example.net";

/// A mesh of two hosts, the first of which calls, and knows the second one by a name.
fn lab_with_a_name() -> Lab {
    let mut lab = Lab::new(2);
    let answers = serve_names(lab.host(1));
    let resolver = lab.file("resolv.conf", &format!("nameserver {}\noptions timeout:1\n", lab.host(1).address));
    lab.host_mut(0).resolver = Some(resolver);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    let address = lab.host(1).address;
    answers
        .lock()
        .unwrap()
        .extend([(NAME.into(), vec![address]), ("near.example.net".into(), vec![Ipv4Addr::LOCALHOST])]);
    // Nothing listens at the first, and nothing leads to the second.
    let partly = vec![lab.host(0).address, Ipv4Addr::new(192, 0, 2, 1), address];
    answers.lock().unwrap().insert(PARTLY.into(), partly);
    serve_outside(&mut lab, 1, 8080, "away");
    lab
}

fn allow(lab: &Lab, mode: &str) {
    let documents = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default, namespace: istio-system}}\nspec: \
         {{outboundTrafficPolicy: {{mode: {mode}}}}}\n"
    );
    let file = lab.file("mesh.yaml", &documents);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
}

#[test]
fn hosts_that_nobody_serves_pass_only_where_the_mesh_says_so() {
    let lab = lab_with_a_name();
    let address = format!("{}:8080", lab.host(1).address);
    let named = format!("{NAME}:8080");
    for host in [&address, &named] {
        let refused = lab.host(0).call(host, "/", &[]);
        assert_eq!((refused.status, refused.header("x-weft-reason")), (502, Some("unknown_host")));
    }
    allow(&lab, "ALLOW_ANY");
    wait_served_by(&lab, &address, "away");
    wait_served_by(&lab, &named, "away");
    let through = ["--proxy", "http://127.0.0.1:15001", "--proxytunnel", "--suppress-connect-headers"];
    assert_eq!(lab.host(0).curl(&through, &format!("http://{named}/")).header("x-served-by"), Some("away"));
    for _ in 0..3 {
        let other_address_is_tried = lab.host(0).call(&format!("{PARTLY}:8080"), "/", &[]);
        assert_eq!(other_address_is_tried.header("x-served-by"), Some("away"));
    }
    assert_eq!(lab.host(0).curl(&through, &format!("http://{PARTLY}:8080/")).header("x-served-by"), Some("away"));
    for own in ["127.0.0.1:15000", "169.254.169.254", "[::ffff:127.0.0.1]:15000"] {
        let refused = lab.host(0).call(own, "/", &[]);
        assert_eq!((refused.status, refused.header("x-weft-reason")), (502, Some("not_outside")), "{own}");
    }
    for unknown in ["near.example.net", "nowhere.example.net"] {
        let refused = lab.host(0).call(unknown, "/", &[]);
        assert_eq!((refused.status, refused.header("x-weft-reason")), (503, Some("name_not_resolved")), "{unknown}");
    }
    let explained = lab.host(0).weft(&["explain", "route", "--from", "client", "--to", &named]);
    assert!(explained.stdout.contains("PassthroughCluster"), "{}", explained.stdout);
    allow(&lab, "REGISTRY_ONLY");
    wait_for("it is refused again", PATIENCE, || {
        let answer = lab.host(0).call(&address, "/", &[]);
        (answer.status == 502 && answer.header("x-weft-reason") == Some("unknown_host")).then_some(())
    });
    for (name, code) in [("PassthroughCluster", "200"), ("BlackHoleCluster", "502")] {
        let name = format!("destination_service_name=\"{name}\"");
        let of_it = [&*name, "destination_service_namespace=\"unknown\"", &format!("response_code=\"{code}\"")];
        wait_for(&name, PATIENCE, || (lab.host(0).metric("istio_requests_total", &of_it) >= 1.0).then_some(()));
    }
}

#[test]
fn entries_without_places_lead_to_the_host_that_is_asked_for_and_to_no_other() {
    let lab = lab_with_a_name();
    let ports = "ports: [{ name: http, number: 8080, protocol: HTTP }, { name: web, number: 80, protocol: HTTP, targetPort: 8080 }]";
    let entry = |name: &str, host: &str, resolution: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec: {{ hosts: \
             ['{host}'], resolution: {resolution}, {ports} }}\n"
        )
    };
    let asking = format!(
        "apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: {{ name: default, namespace: istio-system }}
spec: {{ extensionProviders: [{{ name: away, envoyExtAuthzHttp: {{ service: {NAME}, port: 8080 }} }}] }}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: ask }}
spec: {{ selector: {{ matchLabels: {{ app: client }} }}, action: CUSTOM, provider: {{ name: away }}, rules: [{{}}] }}
"
    );
    let file = lab.file("asking.yaml", &asking);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    let wait_for_answer = |status: u16| {
        let what = format!("calls of a workload that asks an authorizer end with {status}");
        wait_for(&what, PATIENCE, || (lab.host(0).call("client", "/", &[]).status == status).then_some(()));
    };
    wait_for_answer(403);
    let documents = [entry("whole", NAME, "NONE"), entry("wild", "*.net", "DYNAMIC_DNS")].join("---\n");
    let file = lab.file("entries.yaml", &documents);
    lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    wait_served_by(&lab, &format!("{NAME}:8080"), "away");
    wait_for_answer(200);
    let other = "nowhere.example.net";
    let refused = lab.host(0).call(other, "/", &[]);
    assert_eq!((refused.status, refused.header("x-weft-reason")), (503, Some("name_not_resolved")));
    let delete = lab.file("whole.yaml", &entry("whole", NAME, "NONE"));
    lab.host(0).weft(&["delete", "-f", &delete.to_string_lossy()]).ok();
    // The wildcard leads to its own port.
    wait_served_by(&lab, NAME, "away");
    assert_eq!(lab.host(0).call("example.org:8080", "/", &[]).status, 502);
    let of_host = ["destination_service_name=\"*.net\"", "response_code=\"200\""];
    wait_for("requests count for the entry", PATIENCE, || {
        (lab.host(0).metric("istio_requests_total", &of_host) >= 1.0).then_some(())
    });
}

#[test]
fn a_sidecar_says_which_hosts_its_workloads_call_and_where_the_others_lead() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    lab.host_mut(1).host_service("reviews", "v1", 9080, 0);
    let seen = || {
        let answer = lab.host(0).call("reviews", "/", &[]);
        answer.header("x-served-by").is_some_and(|by| by.starts_with("reviews"))
    };
    wait_for("reviews is called", PATIENCE, || seen().then_some(()));
    let apply = |spec: &str| {
        let document = format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: client }}\nspec:\n  workloadSelector: \
             {{ labels: {{ app: client }} }}\n{spec}"
        );
        let file = lab.file("sidecar.yaml", &document);
        lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    };
    apply(
        "  egress: [{ hosts: [./client.default.svc.cluster.local] }]\n  outboundTrafficPolicy: { mode: REGISTRY_ONLY }\n",
    );
    wait_for("reviews is hidden", PATIENCE, || {
        let answer = lab.host(0).call("reviews", "/", &[]);
        (answer.status == 502 && answer.header("x-weft-reason") == Some("unknown_host")).then_some(())
    });
    let through = ["--proxy", "http://127.0.0.1:15001", "--proxytunnel"];
    assert!(lab.host(0).curl(&through, "http://reviews:9080/").header("x-served-by").is_none());
    assert_eq!(lab.host(0).call("client", "/", &[]).status, 200);
    let refused = ["destination_service_name=\"BlackHoleCluster\"", "response_code=\"502\""];
    wait_for("it is counted", PATIENCE, || (lab.host(0).metric("istio_requests_total", &refused) >= 1.0).then_some(()));
    let explained = lab.host(0).weft(&["explain", "route", "--from", "client", "--to", "reviews"]);
    assert!(explained.stdout.contains("Sidecar default/client"), "{}", explained.stdout);
    apply(
        "  egress: [{ hosts: [./client.default.svc.cluster.local] }]\n  outboundTrafficPolicy: { mode: ALLOW_ANY, \
         egressProxy: { host: reviews.default.svc.cluster.local, port: { number: 9080 } } }\n",
    );
    wait_for("what is not shown goes to the proxy", PATIENCE, || {
        let answer = lab.host(0).call("www.example.com", "/", &[]);
        answer.header("x-served-by").is_some_and(|by| by.starts_with("reviews")).then_some(())
    });
    apply("  egress: [{ hosts: [./*] }]\n");
    wait_for("reviews is shown again", PATIENCE, || seen().then_some(()));
}
