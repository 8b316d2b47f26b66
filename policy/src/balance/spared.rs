//! Endpoints of nodes that say they are overloaded are spared, while there are enough others who can take over. With
//! fewer, what is taken from the ones would only overload the others.

use std::sync::Arc;

use weft_wire::fact::EndpointHealth;

use crate::endpoint::{Endpoint, Standing};

/// So many of the healthy and the overloaded must be healthy, in percent, where documents say nothing of panic.
const ENOUGH_PERCENT: f64 = 50.0;

/// Whether overloaded endpoints come after those that are healthy.
pub(super) fn are_spared(endpoints: &[Arc<Endpoint>], panic_percent: f64) -> bool {
    let enough = if panic_percent > 0.0 { panic_percent } else { ENOUGH_PERCENT };
    let count = |health| {
        let is_one = |endpoint: &&Arc<Endpoint>| endpoint.health == health && endpoint.standing == Standing::Preferred;
        endpoints.iter().filter(is_one).count() as f64
    };
    let (healthy, overloaded) = (count(EndpointHealth::Healthy), count(EndpointHealth::Overloaded));
    100.0 * healthy >= enough * (healthy + overloaded)
}
