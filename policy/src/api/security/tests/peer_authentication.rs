use crate::api::testing::{check_refused, check_taken, documents, warnings};

const KIND: &str = "PeerAuthentication";

#[test]
fn all_served_versions_are_read_and_the_spec_may_be_absent() {
    for version in ["v1", "v1beta1"] {
        documents(&format!("{{apiVersion: security.istio.io/{version}, kind: {KIND}, metadata: {{name: a}}}}"));
    }
    check_taken(
        KIND,
        &[
            "{}",
            "{mtls: {}}",
            "{mtls: {mode: UNSET}}",
            "{mtls: {mode: PERMISSIVE}}",
            "{selector: {matchLabels: {app: a}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: STRICT}, '1': {}}}",
        ],
    );
}

#[test]
fn d_valid_port_level_mtls_needs_a_selector_and_a_port() {
    let selector = "selector: {matchLabels: {foo: bar}}";
    check_refused(
        KIND,
        &[
            ("{portLevelMtls: {80: {mode: STRICT}}}", "spec.portLevelMtls: needs a selector"),
            ("{selector: {}, portLevelMtls: {80: {mode: STRICT}}}", "spec.portLevelMtls: needs a selector"),
            (&format!("{{{selector}, portLevelMtls: {{}}}}"), "must have at least one port"),
            (&format!("{{{selector}, portLevelMtls: {{0: {{mode: STRICT}}}}}}"), "\"0\" is not a port: 1 to 65535"),
            (&format!("{{{selector}, portLevelMtls: {{65536: {{mode: STRICT}}}}}}"), "is not a port"),
            (&format!("{{{selector}, portLevelMtls: {{42949672: {{mode: STRICT}}}}}}"), "is not a port"),
            (&format!("{{{selector}, portLevelMtls: {{acd: {{mode: STRICT}}}}}}"), "\"acd\" is not a port"),
            (&format!("{{{selector}, portLevelMtls: {{-1: {{mode: STRICT}}}}}}"), "is not a port"),
        ],
    );
}

#[test]
fn d_valid_modes_and_selectors() {
    check_refused(
        KIND,
        &[
            ("{mtls: {mode: BLAH}}", "it must be one of UNSET, DISABLE, PERMISSIVE, STRICT"),
            ("{mtls: {mode: strict}}", "it must be one of"),
            ("{mtls: STRICT}", "spec.mtls: is the text \"STRICT\""),
            ("{selector: {matchLabels: {a: '*'}}}", "is not a label's value"),
            ("{selector: {matchLabels: {'a*': b}}}", "is not a label's name"),
            ("{targetRef: {kind: Service, name: a}}", "is not a field that weft knows"),
        ],
    );
    assert!(warnings(KIND, "{selector: {}}")[0].contains("has no labels"));
}

#[test]
fn disable_is_in_force_as_permissive_is_with_a_notice() {
    let ports = "{selector: {matchLabels: {app: a}}, portLevelMtls: {8080: {mode: DISABLE}}}";
    for (spec, field) in [("{mtls: {mode: DISABLE}}", "spec.mtls has"), (ports, "spec.portLevelMtls has")] {
        let said = warnings(KIND, spec);
        assert!(said.len() == 1 && said[0].contains(field), "{said:?}");
        let text = format!("{{apiVersion: security.istio.io/v1, kind: {KIND}, metadata: {{name: a}}, spec: {spec}}}");
        assert!(documents(&text).iter().all(|document| document.pending.is_empty()));
    }
}
