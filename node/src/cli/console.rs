//! `weft console`: where the console is, with a code that signs in.

use super::{
    Common,
    client::Client,
    output::{age, line},
};
use crate::admin::sessions::ConsoleCode;

pub(super) async fn console(common: &Common) -> anyhow::Result<()> {
    let ConsoleCode { url, valid_seconds } =
        Client::connect(&common.dir).await?.post("/api/v1/console", &serde_json::Value::Null).await?;
    line(format_args!("{url}"))?;
    eprintln!("weft: it signs in once, within {}; without its last part it only shows", age(valid_seconds));
    Ok(())
}
