//! Where the configured seeds are. Names are looked up again and again: DNS may be down when the node starts, and hosts
//! move.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::config::Seed;

const LOOK_UP_EVERY: Duration = Duration::from_secs(30);
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(10);

/// The addresses of each seed, as last found.
type Found = BTreeMap<String, BTreeSet<SocketAddr>>;

/// The seeds' addresses, kept true by a task for each seed.
#[derive(Clone)]
pub struct Seeds(watch::Receiver<Found>);

impl Seeds {
    /// Looks the seeds up from now on.
    pub fn follow(seeds: &[Seed]) -> Self {
        Self::follow_by(seeds, |seed| async move {
            Ok(tokio::net::lookup_host((seed.host.as_str(), seed.port)).await?.collect())
        })
    }

    fn follow_by<F>(seeds: &[Seed], look_up: impl Fn(Seed) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<BTreeSet<SocketAddr>>> + Send + 'static,
    {
        let (found, addresses) = watch::channel(Found::new());
        let found = Arc::new(found);
        for seed in seeds {
            tokio::spawn(follow_one(seed.clone(), found.clone(), look_up.clone()));
        }
        Self(addresses)
    }

    pub fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.0.borrow().values().flatten().copied().collect()
    }

    /// Waits until the addresses are others.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // There are no seeds, or the node ends.
            std::future::pending().await
        }
    }
}

/// Ends with the last reader. An answer holds until there is another: no answer is no reason to forget a seed.
async fn follow_one<F>(seed: Seed, found: Arc<watch::Sender<Found>>, look_up: impl Fn(Seed) -> F)
where
    F: Future<Output = io::Result<BTreeSet<SocketAddr>>>,
{
    let mut failing = false;
    while !found.is_closed() {
        let late = || Err(io::Error::from(io::ErrorKind::TimedOut));
        match timeout(LOOK_UP_DEADLINE, look_up(seed.clone())).await.unwrap_or_else(|_| late()) {
            Ok(addresses) => {
                failing = false;
                found.send_if_modified(|found| {
                    let before = found.insert(seed.to_string(), addresses.clone());
                    before.is_none_or(|before| before != addresses)
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%seed, %error, "a seed's name cannot be looked up; trying again every 30 s");
                }
            }
        }
        sleep(LOOK_UP_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_seed_whose_name_cannot_be_looked_up_at_first_is_found_later_and_kept() {
        let seed: Seed = "seed.example".parse().unwrap();
        let address = |n: u8| SocketAddr::from(([192, 0, 2, n], 15008));
        let tries = Arc::new(AtomicUsize::new(0));
        let mut seeds = Seeds::follow_by(&[seed], move |_| {
            let tried = tries.fetch_add(1, Relaxed);
            async move {
                match tried {
                    0 => Err(io::Error::other("no DNS yet")),
                    1 => std::future::pending().await,
                    2 => Ok([address(1)].into()),
                    3 => Err(io::Error::other("no DNS any more")),
                    _ => Ok([address(2), address(3)].into()),
                }
            }
        });
        assert!(seeds.addresses().is_empty());
        seeds.changed().await;
        assert_eq!(seeds.addresses(), [address(1)].into());
        seeds.changed().await;
        assert_eq!(seeds.addresses(), [address(2), address(3)].into());
    }
}
