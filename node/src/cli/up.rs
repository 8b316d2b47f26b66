//! `weft up`: runs the node until it is told to stop.

use std::{process::ExitCode, sync::Arc};

use super::{Common, UpArgs};
use crate::{build, config::Config, dir::Dir, telemetry};

pub(super) async fn up(common: &Common, args: UpArgs) -> anyhow::Result<ExitCode> {
    let dir = Dir::new(&common.dir);
    let config = Config::load(args.config.as_deref(), dir.path())?;
    telemetry::start_logging(&config.logs)?;
    build::build(Arc::new(config), dir).await?.run().await
}
