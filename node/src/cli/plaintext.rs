//! `weft plaintext`: who sends plaintext to whom.

use super::{
    Common,
    client::Client,
    output::{age, data, line, printable},
};
use crate::admin::plaintext::{How, Plaintext, Sender};

pub(super) async fn plaintext(common: &Common) -> anyhow::Result<()> {
    let mut client = Client::connect(&common.dir).await?;
    let found: Plaintext = client.post("/api/v1/plaintext", &()).await?;
    let for_people = common.output.is_for_people();
    if !for_people || !found.senders.is_empty() {
        let header = ["FROM", "NODE", "TO", "NODE", "PORT", "HOW", "COUNT", "LAST"];
        data(&common.output, &found, &header, |found| found.senders.iter().map(row).collect())?;
    } else {
        line(format_args!("nobody is known to send plaintext"))?;
    }
    if !found.silent.is_empty() {
        eprintln!("weft: these nodes do not answer, and what they see is missing: {}", found.silent.join(", "));
    }
    Ok(())
}

fn row(sender: &Sender) -> Vec<String> {
    let or_none = |text: Option<String>| text.map_or_else(|| "-".into(), |text| printable(&text));
    let (how, count) = match sender.how {
        How::PastWeft => ("past weft", format!("{} open", sender.count)),
        How::InTheClear => ("in the clear", format!("{} sent", sender.count)),
    };
    vec![
        printable(&sender.from),
        or_none(sender.from_node.clone()),
        printable(&sender.to),
        or_none(sender.to_node.as_ref().map(ToString::to_string)),
        or_none(sender.port.map(|port| port.to_string())),
        how.to_owned(),
        count,
        match sender.last_seconds_ago {
            0 => "now".to_owned(),
            seconds => format!("{} ago", age(seconds)),
        },
    ]
}
