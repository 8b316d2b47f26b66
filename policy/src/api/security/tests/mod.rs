mod authorization_policy;
mod peer_authentication;
mod request_authentication;

#[test]
fn the_schemas_describe_the_fields_that_are_read() {
    for (kind, field) in [
        ("AuthorizationPolicy", "notServiceAccounts"),
        ("PeerAuthentication", "portLevelMtls"),
        ("RequestAuthentication", "outputClaimToHeaders"),
        ("Telemetry", "randomSamplingPercentage"),
    ] {
        let kind = crate::kinds::find_kind(kind).unwrap();
        let schema = crate::document::schema_of(kind).as_value().to_string();
        assert!(schema.contains(&format!("\"{field}\"")), "{schema}");
    }
}
