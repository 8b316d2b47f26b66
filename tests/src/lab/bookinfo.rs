//! Istio's sample application on the hosts of a lab.

use super::{Lab, OUTBOUND, weft};

/// Hosts productpage, details, reviews (v2, with black stars) and ratings on port 9080, each on the host of that index.
/// Their calls go through their hosts' nodes. A host should have one of them, so that it is known who calls.
pub fn bookinfo(lab: &mut Lab, hosts: [usize; 4]) {
    let weft = weft();
    let proxy = format!("http_proxy=http://{OUTBOUND}");
    for (service, host) in ["productpage", "details", "reviews", "ratings"].into_iter().zip(hosts) {
        let version = if service == "reviews" { "v2" } else { "v1" };
        let command = ["env", &proxy, &weft, "bookinfo", service, "--listen", "127.0.0.1:9080", "--version", version];
        lab.host_mut(host).host_command(&["--service", service, "--version", version, "--port", "9080"], &command);
    }
    let caller = hosts[0];
    for service in ["productpage", "details", "reviews", "ratings"] {
        lab.wait_healthy(caller, service, 1);
    }
}
