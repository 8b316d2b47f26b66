//! `weft status`, `members`, `services`, `endpoints`.

use super::{
    Common,
    client::Client,
    output::{age, data, line},
};
use crate::admin::api::{Endpoint, Member, Service, Status};

pub(super) async fn status(common: &Common) -> anyhow::Result<()> {
    let status: Status = Client::connect(&common.dir).await?.get("/api/v1/status").await?;
    if !common.output.is_for_people() {
        return data(&common.output, &status, &[], |_| vec![]);
    }
    let ready = if status.ready { "ready".to_owned() } else { format!("not ready: {}", status.not_ready.join("; ")) };
    let allow: Vec<String> = status.allow.iter().map(ToString::to_string).collect();
    line(format_args!("node         {} ({}), {ready}", status.name, status.id))?;
    line(format_args!("mesh         {}", status.mesh))?;
    line(format_args!("trust domain {}", status.trust_domain))?;
    line(format_args!(
        "role         {}, may host {}",
        status.role,
        if allow.is_empty() { "nothing".into() } else { allow.join(", ") }
    ))?;
    line(format_args!("address      {}", status.advertise))?;
    line(format_args!("weft         {}, up {}", status.version, age(status.uptime_seconds)))?;
    line(format_args!("certificate  {}", certificate(status.certificate_seconds_left)))?;
    if let Some(left) = status.issuer_seconds_left {
        line(format_args!("intermediate {}", certificate(left)))?;
    }
    if !status.cell.is_empty() {
        line(format_args!(
            "cell         {}{}",
            status.cell,
            if status.relay { ", of which this is a relay" } else { "" }
        ))?;
    }
    line(format_args!("members      {} alive of {} known", status.members_alive, status.members_known))?;
    line(format_args!("documents    {}, digest {}", status.documents, status.documents_digest))?;
    line(format_args!(""))?;
    data(&common.output, &status, &["ACTOR", "STATE", "RESTARTS", "QUEUE", "DROPPED", "LAST ERROR"], |status| {
        let cells = |actor: &crate::supervisor::ActorStatus| {
            vec![
                actor.name.to_string(),
                actor.state.to_string(),
                actor.restarts.to_string(),
                format!("{}/{}", actor.queue_depth, actor.queue_capacity),
                actor.dropped.to_string(),
                actor.last_error.clone().unwrap_or_default(),
            ]
        };
        status.actors.iter().map(cells).collect()
    })
}

fn certificate(seconds_left: i64) -> String {
    match u64::try_from(seconds_left) {
        Ok(left) => format!("good for {}", age(left)),
        Err(_) => format!("EXPIRED {} ago", age(seconds_left.unsigned_abs())),
    }
}

pub(super) async fn members(common: &Common) -> anyhow::Result<()> {
    let members: Vec<Member> = Client::connect(&common.dir).await?.get("/api/v1/members").await?;
    let header = ["NAME", "ADDRESS", "STATE", "ROLE", "CELL", "LOCALITY", "ENDPOINTS", "VERSION", "SINCE"];
    data(&common.output, &members, &header, |members| {
        let cells = |member: &Member| {
            vec![
                if member.this_node { format!("{} (this node)", member.name) } else { member.name.clone() },
                member.address.clone(),
                member.state.clone(),
                member.role.to_string(),
                if member.relay { format!("{} (relay)", member.cell) } else { member.cell.clone() },
                member.locality.clone(),
                member.endpoints.to_string(),
                member.version.clone(),
                age(member.since_seconds),
            ]
        };
        members.iter().map(cells).collect()
    })
}

pub(super) async fn services(common: &Common) -> anyhow::Result<()> {
    let services: Vec<Service> = Client::connect(&common.dir).await?.get("/api/v1/services").await?;
    let header = ["NAMESPACE", "NAME", "PORTS", "VERSIONS", "HEALTHY", "OTHER CELLS"];
    data(&common.output, &services, &header, |services| {
        let cells = |service: &Service| {
            let ports: Vec<_> = service.ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)).collect();
            vec![
                service.namespace.clone(),
                service.name.clone(),
                ports.join(","),
                service.versions.join(","),
                format!("{}/{}", service.healthy, service.endpoints),
                service
                    .cells
                    .iter()
                    .map(|(cell, endpoints)| format!("{cell}:{endpoints}"))
                    .collect::<Vec<_>>()
                    .join(","),
            ]
        };
        services.iter().map(cells).collect()
    })
}

/// A host that can be asked for as it is written.
pub(super) fn host(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-*_".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_part) {
        true => Ok(text.to_owned()),
        false => Err("is no name of a service and no host".to_owned()),
    }
}

pub(super) async fn endpoints(common: &Common, service: &str) -> anyhow::Result<()> {
    let path = format!("/api/v1/endpoints?service={service}");
    let endpoints: Vec<Endpoint> = Client::connect(&common.dir).await?.get(&path).await?;
    let header = ["WORKLOAD", "VERSION", "NODE", "ADDRESS", "PORT", "HEALTH", "STANDING", "HELD", "ACTIVE", "IDENTITY"];
    data(&common.output, &endpoints, &header, |endpoints| {
        let cells = |endpoint: &Endpoint| {
            vec![
                endpoint.workload.clone(),
                endpoint.version.clone(),
                endpoint.node.clone(),
                endpoint.address.clone(),
                endpoint.port.to_string(),
                endpoint.health.clone(),
                endpoint.standing.clone(),
                endpoint.held_back.clone(),
                endpoint.active_requests.to_string(),
                endpoint.identities.join(","),
            ]
        };
        endpoints.iter().map(cells).collect()
    })
}
