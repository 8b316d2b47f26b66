//! For the tests of kinds: documents in short, and what is said of them.

mod core;
mod discovery;

use weft_wire::{document::Stamp, id::Namespace};

use crate::document::{Document, ParsedFile, parse_stored, parse_yaml};

/// A document of this type; `body` is what stands beside its header, in YAML.
pub(crate) fn text(api_version: &str, kind: &str, body: &str) -> String {
    format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: reviews}}\n{body}\n")
}

pub(crate) fn parsed(text: &str) -> ParsedFile {
    parse_yaml(text, &Namespace::default_namespace()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// All errors, each with its path.
pub(crate) fn refusals(text: &str) -> Vec<String> {
    parsed(text).errors.iter().map(ToString::to_string).collect()
}

/// All warnings.
pub(crate) fn notices(text: &str) -> Vec<String> {
    parsed(text).notices.into_iter().map(|notice| notice.text).collect()
}

/// Reads what must be right, as the nodes will.
pub(crate) fn accepted(text: &str) -> Document {
    let file = parsed(text);
    assert!(file.errors.is_empty(), "{}\n{text}", file.errors[0]);
    let [document] = file.documents.as_slice() else { panic!("one document\n{text}") };
    parse_stored(&document.key, &document.json, Stamp::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The paths of what the data path does not do yet.
pub(crate) fn pending(text: &str) -> Vec<String> {
    accepted(text).pending.into_iter().map(|pending| pending.path).collect()
}

/// Each body must be refused with exactly one error, which says this.
pub(crate) fn assert_refused(api_version: &str, kind: &str, cases: &[(&str, &str)]) {
    for (body, wanted) in cases {
        let errors = refusals(&text(api_version, kind, body));
        assert!(errors.len() == 1 && errors[0].contains(wanted), "{body}\nwanted {wanted:?}, got {errors:#?}");
    }
}

/// Each body must be right, and deserve one warning, which says this.
pub(crate) fn assert_noticed(api_version: &str, kind: &str, cases: &[(&str, &str)]) {
    for (body, wanted) in cases {
        let text = text(api_version, kind, body);
        accepted(&text);
        let notices = notices(&text);
        assert!(notices.len() == 1 && notices[0].contains(wanted), "{body}\nwanted {wanted:?}, got {notices:#?}");
    }
}

#[test]
fn every_kind_has_a_schema_with_a_description() {
    for kind in crate::kinds::kinds() {
        let schema = crate::document::schema_of(kind);
        assert!(schema.get("description").is_some(), "{}", kind.kind);
        let fields = schema.get("properties").and_then(|fields| fields.as_object()).unwrap();
        assert!(fields.contains_key("metadata"), "{}", kind.kind);
    }
}

mod properties {
    use proptest::prelude::*;
    use weft_wire::id::Namespace;

    use crate::document::parse_yaml;

    /// Documents of many kinds, as starting points.
    const DOCUMENTS: [(&str, &str, &str); 8] = [
        (
            "networking.istio.io/v1",
            "DestinationRule",
            "spec: {host: a, exportTo: [., b], trafficPolicy: {loadBalancer: {consistentHash: {maglev: {tableSize: 65537}}, \
             localityLbSetting: {distribute: [{from: 'a/*', to: {a/b/c: 80, '*': 20}}]}}, tunnel: {targetHost: a, targetPort: 1}, \
             tls: {mode: MUTUAL, credentialName: a}, connectionPool: {tcp: {connectTimeout: 1h30m}}}}",
        ),
        (
            "networking.istio.io/v1",
            "Gateway",
            "spec: {servers: [{port: {number: 80, name: a, protocol: HTTP}, bind: 'unix://@a', hosts: ['ns/*.a.com', '*']}]}",
        ),
        (
            "networking.istio.io/v1",
            "ServiceEntry",
            "spec: {hosts: ['*.a.com'], addresses: [1.2.3.4/5], resolution: STATIC, ports: [{number: 80, name: a}], \
             endpoints: [{address: 'unix:///a', ports: {a: 1}}]}",
        ),
        (
            "networking.istio.io/v1",
            "Sidecar",
            "spec: {egress: [{hosts: ['./*', a/b.com]}], ingress: [{port: {number: 80}, defaultEndpoint: '[::1]:80'}]}",
        ),
        (
            "networking.istio.io/v1",
            "WorkloadGroup",
            "spec: {template: {address: 'unix://a'}, probe: {exec: {command: [a]}}}",
        ),
        ("v1", "Service", "spec: {ports: [{port: 80, targetPort: http}], clusterIP: 1.2.3.4, externalIPs: ['::2']}"),
        ("v1", "Secret", "type: kubernetes.io/tls\ndata: {tls.crt: YQ==}\nstringData: {tls.key: a}"),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "addressType: IPv6\nendpoints: [{addresses: ['fd00::1'], hints: {forZones: [{name: z}]}}]",
        ),
    ];

    proptest! {
        #[test]
        fn no_change_of_a_document_makes_reading_panic(
            document in 0..DOCUMENTS.len(), changes in prop::collection::vec((any::<prop::sample::Index>(), ".{0,3}"), 1..4),
        ) {
            let (api_version, kind, body) = DOCUMENTS[document];
            let mut body: Vec<char> = body.chars().collect();
            for (at, text) in changes {
                let at = at.index(body.len());
                body.splice(at..=at, text.chars());
                body.push(' ');
            }
            let text = super::text(api_version, kind, &body.into_iter().collect::<String>());
            let _ = parse_yaml(&text, &Namespace::default_namespace());
        }
    }
}
