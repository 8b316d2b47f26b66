//! What the MeshConfig says to requests.

use super::*;
use crate::{retry::RetryPolicy, unserved::Unserved};

fn mesh_config(spec: &str) -> String {
    format!(
        "{{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {{name: default, namespace: istio-system}}, \
         spec: {spec}}}"
    )
}

#[test]
fn the_meshs_retries_replace_the_default_where_no_rule_gives_any() {
    let plain = rule("r", "[reviews]", "[{route: [{destination: {host: reviews}}]}]");
    let own = rule("r", "[reviews]", "[{route: [{destination: {host: reviews}}], retries: {attempts: 1}}]");
    let config = mesh_config("{defaultHttpRetryPolicy: {attempts: 5, retryOn: '503', perTryTimeout: 1s}}");
    let retry = |documents: &[&str]| {
        let mesh = documents.iter().fold(bookinfo(), |mesh, document| mesh.apply(document));
        forward(&mesh.view(), &get("/")).retry.clone()
    };
    for documents in [&[config.as_str()][..], &[&config, &plain]] {
        let retry = retry(documents);
        assert_eq!((retry.attempts, retry.per_try_timeout), (5, Some(std::time::Duration::from_secs(1))));
        assert!(retry.is_on_response(http::StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()));
    }
    let own = retry(&[&config, &own]);
    assert_eq!(own.attempts, 1);
    assert!(!own.is_on_response(http::StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()), "not field by field");
    assert_eq!(retry(&[&mesh_config("{}"), &plain]), RetryPolicy::default());
    assert_eq!(retry(&[&mesh_config("{defaultHttpRetryPolicy: {attempts: 0}}")]).attempts, 0);
}

#[test]
fn a_mesh_config_that_comes_and_goes_rebuilds_no_service() {
    let mesh = bookinfo().apply(SUBSETS);
    let before = mesh.view();
    let mesh = mesh.apply(&mesh_config("{disableShadowHostSuffix: false}"));
    let with = mesh.view_after(Some(&before));
    assert!(!before.settings.appends_shadow_suffix && with.settings.appends_shadow_suffix);
    assert!(Arc::ptr_eq(service(&before, "reviews"), service(&with, "reviews")));
}

#[test]
fn a_host_that_nobody_serves_is_refused_unless_a_document_lets_it_pass() {
    let unserved = |config: Option<&str>| {
        let mesh = config.iter().fold(bookinfo(), |mesh, spec| mesh.apply(&mesh_config(spec)));
        let view = mesh.view();
        let namespace = Namespace::default_namespace();
        let client = Client { namespace: &namespace, workload: None };
        match view.unserved(client) {
            Unserved::Refused => "refused".to_owned(),
            Unserved::BlackHoled(service) => format!("{} of {}", service.id, service.id.namespace()),
            Unserved::Passed(passthrough) => {
                let matched = view.route(Host::Passthrough(passthrough), 8080, &get("/").head(), client, 0).unwrap();
                let Action::Forward(forward) = matched.action else { panic!() };
                assert_eq!((matched.route_name, forward.retry.attempts), ("allow_any", 0));
                format!("{} by {}", forward.service.id, forward.cluster.name)
            }
        }
    };
    assert_eq!(unserved(None), "refused");
    assert_eq!(unserved(Some("{}")), "refused");
    assert_eq!(unserved(Some("{outboundTrafficPolicy: {}}")), "refused");
    assert_eq!(unserved(Some("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}")), "BlackHoleCluster of unknown");
    let passed = "PassthroughCluster by PassthroughCluster";
    assert_eq!(unserved(Some("{outboundTrafficPolicy: {mode: ALLOW_ANY}}")), passed);
}
