//! Joining a mesh: the host's side, and the deadline and bounds of the mesh's side.
//!
//! The host trusts nothing but its token. The seed must show a chain to the root whose hash the token carries, or
//! the host says nothing at all; and the host shows the token to CA nodes only.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use quinn::Connection;
use rustls::pki_types::UnixTime;
use tokio::time::{Instant, timeout};
use weft_ca::{
    token::JoinToken,
    trust::{TrustBundle, TrustError},
};
use weft_wire::{
    frame::{JoinQuestion, JoinRequest, JoinResponse, MAX_JOIN_FRAME_LEN, Welcome},
    id::Role,
};

use super::{
    PeerError, quic,
    stream::{exchange, read_value, write_value},
};

/// A host that joins asks at most so many nodes in one round.
const MAX_ATTEMPTS: usize = 8;
/// What may pass by itself is tried again for so long, with this pause between two rounds.
const KEEP_TRYING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);
/// A host has this long to ask, since until then it only holds a place.
const QUESTION_DEADLINE: Duration = Duration::from_secs(2);
/// Longest time for the whole exchange.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a host is not let in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// In the mesh's own words.
    #[error("{0}")]
    Refused(String),
    #[error("{address} knows no CA node: start one, or name another seed")]
    NoIssuer { address: SocketAddr },
    #[error("{address} was asked to let this host in and its answer is lost ({source}): join again")]
    NoAnswer { address: SocketAddr, source: PeerError },
    #[error(transparent)]
    NotReached(#[from] PeerError),
    #[error("{address} is refused: {source}")]
    Untrusted { address: SocketAddr, source: TrustError },
    #[error("the seed has no address: name another")]
    NoSeed,
}

impl JoinError {
    /// A seed that has just joined hears of CA nodes a moment later, and a CA node knows a host that asks again.
    fn may_pass(&self) -> bool {
        matches!(self, Self::NoIssuer { .. } | Self::NoAnswer { .. } | Self::NotReached(PeerError::Busy { .. }))
    }

    /// The one of two to tell: that an answer is lost before all, since then the host may have been let in.
    fn or(self, later: Self) -> Self {
        let keep = matches!(self, Self::NoAnswer { .. }) || (self.may_pass() && !later.may_pass());
        if keep { self } else { later }
    }
}

/// Asks the mesh for a certificate, beginning at the seeds and going on to the CA nodes they name; for about 10 s if
/// what keeps the host out may pass.
///
/// # Errors
/// [`JoinError::Refused`] if the mesh refuses; else why the last node that was asked could not be, or what might have
/// passed.
pub async fn join(
    seeds: Vec<SocketAddr>,
    token: &JoinToken,
    request: JoinRequest,
) -> Result<(Welcome, TrustBundle), JoinError> {
    let deadline = Instant::now() + KEEP_TRYING;
    let mut failure = JoinError::NoSeed;
    loop {
        match ask_around(seeds.clone(), token, &request).await {
            Err(error) if !matches!(error, JoinError::Refused(_)) => failure = failure.or(error),
            decided => return decided,
        }
        if !failure.may_pass() || Instant::now() + PAUSE > deadline {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask_around(
    seeds: Vec<SocketAddr>,
    token: &JoinToken,
    request: &JoinRequest,
) -> Result<(Welcome, TrustBundle), JoinError> {
    let mut to_ask = VecDeque::from(seeds);
    let mut asked = Vec::new();
    let mut failure = JoinError::NoSeed;
    while let Some(address) = to_ask.pop_front() {
        if asked.contains(&address) || asked.len() == MAX_ATTEMPTS {
            continue;
        }
        asked.push(address);
        let error = match ask(address, token, request).await {
            Ok((JoinResponse::Welcome(welcome), trust)) => return Ok((*welcome, trust)),
            Ok((JoinResponse::Refused { why }, _)) => return Err(JoinError::Refused(why)),
            Ok((JoinResponse::Issuers(issuers), _)) if issuers.is_empty() => JoinError::NoIssuer { address },
            Ok((JoinResponse::Issuers(issuers), _)) => {
                to_ask.extend(issuers);
                continue;
            }
            Err(error) => error,
        };
        failure = failure.or(error);
    }
    Err(failure)
}

async fn ask(
    address: SocketAddr,
    token: &JoinToken,
    request: &JoinRequest,
) -> Result<(JoinResponse, TrustBundle), JoinError> {
    let untrusted = |source| JoinError::Untrusted { address, source };
    let (endpoint, connection, chain) = quic::dial_seed(address, token.claims().mesh).await?;
    let trust = TrustBundle::pin(&chain, token.claims().mesh).map_err(untrusted)?;
    let seed = trust.verify_chain(&chain, UnixTime::now()).map_err(untrusted)?;
    let question = match seed.grant.is_some_and(|grant| grant.role == Role::Ca) {
        true => JoinQuestion::Join(Box::new(request.clone())),
        false => JoinQuestion::WhoIssues,
    };
    let response = exchange(&connection, &question, MAX_JOIN_FRAME_LEN)
        .await
        .map_err(|source| JoinError::NoAnswer { address, source })?;
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok((response, trust))
}

/// Reads a joining host's one question and writes the answer that `answer` finds.
pub async fn serve<F>(connection: Connection, answer: impl FnOnce(JoinQuestion) -> F) -> Result<(), PeerError>
where
    F: Future<Output = JoinResponse>,
{
    let ask = async {
        let (send, recv) = connection.accept_bi().await.map_err(|error| PeerError::Stream(error.to_string()))?;
        Ok::<_, PeerError>((send, read_value(recv, MAX_JOIN_FRAME_LEN).await?))
    };
    let (mut send, question) =
        timeout(QUESTION_DEADLINE, ask).await.map_err(|_| PeerError::Deadline(QUESTION_DEADLINE))??;
    let exchange = async {
        write_value(&mut send, &answer(question).await).await?;
        // The host closes when it has read the answer; closing first could cut the answer off.
        connection.closed().await;
        Ok(())
    };
    timeout(EXCHANGE_DEADLINE, exchange).await.map_err(|_| PeerError::Deadline(EXCHANGE_DEADLINE))?
}

#[cfg(test)]
mod tests {
    use std::{future::ready, sync::Arc};

    use arc_swap::ArcSwap;
    use weft_ca::{
        csr,
        init::{self, NewMesh},
        key::PrivateKey,
        token::TokenClaims,
    };
    use weft_wire::id::Grant;

    use super::*;
    use crate::{
        identity::NodeIdentity,
        peer::quic::{Accepted, Quic},
    };

    fn mesh() -> NewMesh {
        init::create_mesh(&"cluster.local".parse().unwrap(), &"ca".parse().unwrap(), UnixTime::now()).unwrap()
    }

    fn request(mesh: &NewMesh) -> (JoinToken, JoinRequest) {
        let grant = Grant { role: Role::Member, accounts: Vec::new() };
        let ttl = Duration::from_secs(3600);
        let claims = TokenClaims::new(mesh.root.mesh_id(), "ca".parse().unwrap(), grant, 1, ttl, UnixTime::now());
        let token = JoinToken::create(claims, &mesh.node.key).unwrap();
        let csr = csr::create(&PrivateKey::generate().unwrap()).unwrap();
        let request = JoinRequest { token: token.to_string(), name: "new".into(), csr, issuer_csr: None };
        (token, request)
    }

    /// A node that gives joining hosts these answers in turn, `None` being to hang up. Returns its address.
    fn node(mesh: &NewMesh, role: Role, answers: Vec<Option<JoinResponse>>) -> SocketAddr {
        let key = PrivateKey::generate().unwrap();
        let grant = Grant { role, accounts: Vec::new() };
        let csr = csr::create(&key).unwrap();
        let chain = mesh.issuer.sign_node(&"node".parse().unwrap(), &grant, &csr, UnixTime::now()).unwrap();
        let trust = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        let identity = NodeIdentity::new(Arc::new(key), chain, trust).unwrap();
        let quic = Quic::bind(([127, 0, 0, 1], 0).into(), Arc::new(ArcSwap::from_pointee(identity))).unwrap();
        let address = quic.address().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let incoming = quic.accept().await.unwrap();
                let Accepted::Joining { connection } = quic.admit(incoming).await.unwrap() else { panic!("a member") };
                match answer {
                    Some(answer) => serve(connection, |_| ready(answer)).await.unwrap(),
                    None => {
                        connection.accept_bi().await.unwrap();
                        connection.close(1u32.into(), b"crashed");
                    }
                }
            }
        });
        address
    }

    fn refused(why: &str) -> Option<JoinResponse> {
        Some(JoinResponse::Refused { why: why.into() })
    }

    #[tokio::test]
    async fn a_seed_that_knows_no_ca_yet_is_asked_again() {
        let mesh = mesh();
        let (token, request) = request(&mesh);
        let ca = node(&mesh, Role::Ca, vec![refused("the CA was reached")]);
        let issuers = |issuers| Some(JoinResponse::Issuers(issuers));
        let seed = node(&mesh, Role::Member, vec![issuers(vec![]), issuers(vec![]), issuers(vec![ca])]);
        let error = join(vec![seed], &token, request).await.unwrap_err();
        assert_eq!(error.to_string(), "the CA was reached");
    }

    #[tokio::test]
    async fn a_ca_whose_answer_is_lost_is_asked_again() {
        let mesh = mesh();
        let (token, request) = request(&mesh);
        let ca = node(&mesh, Role::Ca, vec![None, refused("the second answer")]);
        let error = join(vec![ca], &token, request).await.unwrap_err();
        assert_eq!(error.to_string(), "the second answer");
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let mesh = mesh();
        let (token, request) = request(&mesh);
        let ca = node(&mesh, Role::Ca, vec![refused("no"), refused("asked twice")]);
        let error = join(vec![ca], &token, request).await.unwrap_err();
        assert_eq!(error.to_string(), "no");
    }
}
