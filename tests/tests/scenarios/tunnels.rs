//! Tunnels through a proxy as people have one.

use std::path::Path;

use weft_tests::lab::{Lab, PATIENCE, origin, wait_for};

#[test]
fn bytes_for_a_host_go_through_a_proxy_where_a_destination_rule_says_so() {
    let mut lab = Lab::new(2);
    lab.form_mesh();
    lab.host_mut(0).host_client();
    let address = lab.host(1).address;
    let served = format!("{address}:8081");
    lab.host_mut(1).run_beside(Path::new(&origin()), &["--listen", &served, "--name", "away"]);
    let proxy = format!("Port 3128\nListen {address}\nConnectPort 8081\nMaxClients 9\nTimeout 60\n");
    let proxy = lab.file("tinyproxy.conf", &proxy).to_string_lossy().into_owned();
    lab.host_mut(1).run_beside(Path::new("tinyproxy"), &["-d", "-c", &proxy]);
    let apply = |port: u16| {
        let documents = format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: away }}
spec: {{ hosts: [away.example.com], resolution: NONE, ports: [{{ name: tcp, number: 8080, protocol: TCP }}] }}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: proxy }}
spec:
  hosts: [proxy.example.com]
  resolution: STATIC
  ports: [{{ name: http, number: 3128, protocol: HTTP }}]
  endpoints: [{{ address: {address} }}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{ name: proxy }}
spec:
  host: proxy.example.com
  subsets: [{{ name: away, trafficPolicy: {{ tunnel: {{ targetHost: {address}, targetPort: {port} }} }} }}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: away }}
spec:
  hosts: [away.example.com]
  tcp: [{{ route: [{{ destination: {{ host: proxy.example.com, subset: away, port: {{ number: 3128 }} }} }}] }}]
"
        );
        let file = lab.file("away.yaml", &documents);
        lab.host(0).weft(&["apply", "-f", &file.to_string_lossy()]).ok();
    };
    let through = ["--proxy", "http://127.0.0.1:15001", "--proxytunnel", "--suppress-connect-headers"];
    let call = || lab.host(0).curl(&through, "http://away.example.com:8080/");

    apply(8081);
    let answer = wait_for("it is served through the proxy", PATIENCE, || Some(call()).filter(|a| a.status == 200));
    assert_eq!(answer.header("x-served-by"), Some("away"));

    apply(8082);
    let through = ["--proxy", "http://127.0.0.1:15001", "--proxytunnel", "-v"];
    wait_for("the proxy's refusal is told", PATIENCE, || {
        let ran = lab.host(0).command("curl").args(through).arg("http://away.example.com:8080/").output().unwrap();
        String::from_utf8_lossy(&ran.stderr).contains("x-weft-reason: tunnel_refused").then_some(())
    });
}
