//! What the environment says, read once at start. The variables and their defaults are bookinfo's.

use anyhow::Context;
use http::uri::Authority;

use super::Version;
use crate::demo::http_call;

/// Settings of all four services; each takes what concerns it.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// `http_proxy`: calls to other services go through it.
    pub(super) proxy: Option<Authority>,
    pub(super) details: Authority,
    pub(super) reviews: Authority,
    pub(super) ratings: Authority,
    /// `FLOOD_FACTOR`: calls to reviews that productpage makes and throws away before the one that counts.
    pub(super) flood_factor: u32,
    /// `ENABLE_RATINGS` and `STAR_COLOR` of reviews: none, or the colour of the stars.
    pub(super) star_color: Option<String>,
    /// `SERVICE_VERSION` of ratings: `v2`, `v-faulty` and so on.
    pub(super) service_version: String,
    /// `HOSTNAME`, by which reviews says who answered.
    pub(super) podname: String,
    pub(super) clustername: String,
    pub(super) external_books: bool,
}

impl Settings {
    /// Reads the settings with `env`, which looks a variable up.
    pub(super) fn new(version: Version, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let domain = env("SERVICES_DOMAIN").map(|domain| format!(".{domain}")).unwrap_or_default();
        let upstream = |name: &str| -> anyhow::Result<Authority> {
            let variable = name.to_uppercase();
            let host = env(&format!("{variable}_HOSTNAME")).unwrap_or_else(|| name.to_owned());
            let port = env(&format!("{variable}_SERVICE_PORT")).unwrap_or_else(|| "9080".to_owned());
            let port: u16 = port.parse().with_context(|| format!("{variable}_SERVICE_PORT={port} is not a port"))?;
            let address = format!("{host}{domain}:{port}");
            address.parse().with_context(|| format!("{variable}_HOSTNAME gives {address}, which is not host:port"))
        };
        let flood_factor = env("FLOOD_FACTOR").unwrap_or_else(|| "0".to_owned());
        let ratings_shown =
            env("ENABLE_RATINGS").map_or(version != Version::V1, |value| value.eq_ignore_ascii_case("true"));
        let default_color = if version == Version::V3 { "red" } else { "black" };
        let default_service_version = if version == Version::V2 { "v2" } else { "v1" };
        Ok(Self {
            proxy: env("http_proxy").map(|value| http_call::proxy_from_env(&value)).transpose()?,
            details: upstream("details")?,
            reviews: upstream("reviews")?,
            ratings: upstream("ratings")?,
            flood_factor: flood_factor
                .parse()
                .with_context(|| format!("FLOOD_FACTOR={flood_factor} is not a whole number"))?,
            star_color: ratings_shown.then(|| env("STAR_COLOR").unwrap_or_else(|| default_color.to_owned())),
            service_version: env("SERVICE_VERSION").unwrap_or_else(|| default_service_version.to_owned()),
            // As the original prints it when the variable is missing.
            podname: env("HOSTNAME").unwrap_or_else(|| "null".to_owned()),
            clustername: env("CLUSTER_NAME").unwrap_or_else(|| "null".to_owned()),
            external_books: env("ENABLE_EXTERNAL_BOOK_SERVICE").is_some_and(|value| value == "true"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(version: Version, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        Settings::new(version, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn services_are_called_by_short_name_on_port_9080_by_default() {
        let settings = with(Version::V1, &[]).unwrap();
        assert_eq!(settings.details, "details:9080");
        assert_eq!(settings.reviews, "reviews:9080");
        assert_eq!(settings.ratings, "ratings:9080");
        assert_eq!(settings.proxy, None);
        assert_eq!((settings.podname.as_str(), settings.clustername.as_str()), ("null", "null"));
    }

    #[test]
    fn host_name_domain_and_port_come_from_the_environment() {
        let variables =
            [("REVIEWS_HOSTNAME", "opinions"), ("REVIEWS_SERVICE_PORT", "81"), ("SERVICES_DOMAIN", "prod.svc")];
        let settings = with(Version::V1, &variables).unwrap();
        assert_eq!(settings.reviews, "opinions.prod.svc:81");
        assert_eq!(settings.details, "details.prod.svc:9080");
    }

    #[test]
    fn a_version_sets_stars_that_the_environment_may_change() {
        assert_eq!(with(Version::V1, &[]).unwrap().star_color, None);
        assert_eq!(with(Version::V2, &[]).unwrap().star_color.as_deref(), Some("black"));
        assert_eq!(with(Version::V3, &[]).unwrap().star_color.as_deref(), Some("red"));
        let shown = [("ENABLE_RATINGS", "true"), ("STAR_COLOR", "red")];
        assert_eq!(with(Version::V1, &shown).unwrap().star_color.as_deref(), Some("red"));
        assert_eq!(with(Version::V3, &[("ENABLE_RATINGS", "false")]).unwrap().star_color, None);
    }

    #[test]
    fn a_value_that_cannot_be_used_is_named() {
        for (name, value) in [("DETAILS_SERVICE_PORT", "http"), ("FLOOD_FACTOR", "-1"), ("http_proxy", "proxy")] {
            let error = with(Version::V1, &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("{name}={value}")), "{error}");
        }
    }
}
