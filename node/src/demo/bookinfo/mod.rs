//! Stand-ins for bookinfo, the sample application that service meshes are shown with.
//!
//! Four services in one binary with the HTTP interface of the originals, down to the error texts and the deliberate
//! bug (productpage asks reviews twice, 3 s each), so that tutorials and tests written for bookinfo hold for weft.
//! One thing is left out: details v2, which asks a public web API for the book.

mod details;
mod forward;
mod page;
mod productpage;
mod ratings;
mod reviews;
mod server;
mod session;
mod settings;
#[cfg(test)]
mod testing;

use std::net::SocketAddr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use self::settings::Settings;

/// Arguments of `weft bookinfo`, the demo's applications.
///
/// More is set by the environment variables that the originals read: `{DETAILS,RATINGS,REVIEWS}_HOSTNAME` and
/// `…_SERVICE_PORT`, `SERVICES_DOMAIN`, `ENABLE_RATINGS`, `STAR_COLOR`, `SERVICE_VERSION`, `FLOOD_FACTOR`,
/// `HOSTNAME`, `CLUSTER_NAME`, and by `http_proxy`: where set, calls to the other services go through it.
#[derive(Debug, Clone, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct BookinfoArgs {
    /// Which of the four services to run
    #[arg(value_enum)]
    pub(crate) service: Service,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// Version to play: v1 of reviews shows no ratings, v2 black stars, v3 red ones
    #[arg(long, value_enum, default_value_t = Version::V1)]
    pub(crate) version: Version,
}

/// The services of bookinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    Productpage,
    Details,
    Reviews,
    Ratings,
}

/// The versions that bookinfo's services come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    V1,
    V2,
    V3,
}

/// Runs one service until SIGTERM or SIGINT, then finishes the requests in flight.
///
/// # Errors
/// An environment variable has a value that cannot be used, or the address cannot be listened on.
pub(crate) async fn run(args: BookinfoArgs) -> anyhow::Result<()> {
    // Without a subscriber of the caller's, what happens goes to standard error.
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
    let settings = Settings::new(args.version, |name| std::env::var(name).ok())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("could not listen on {}", args.listen))?;
    tracing::info!(service = ?args.service, version = ?args.version, listen = %args.listen, "listening");

    let stop = CancellationToken::new();
    let on_signal = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        std::future::pending::<()>().await
    };
    tokio::select! {
        done = serve(args.service, settings, listener, stop.clone()) => done,
        () = on_signal => Ok(()),
    }
}

async fn serve(
    service: Service,
    settings: Settings,
    listener: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    match service {
        Service::Productpage => server::serve(listener, productpage::Productpage::new(settings), stop).await,
        Service::Details => server::serve(listener, details::Details::new(&settings)?, stop).await,
        Service::Reviews => server::serve(listener, reviews::Reviews::new(settings), stop).await,
        Service::Ratings => server::serve(listener, ratings::Ratings::new(&settings), stop).await,
    }
    Ok(())
}
