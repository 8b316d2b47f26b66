//! `weft token create | list | revoke`.

use super::{
    Common, TokenCommand,
    client::Client,
    output::{age, data, line},
};
use crate::admin::api::{Token, TokenCreated, TokenRequest};

pub(super) async fn run(common: &Common, command: TokenCommand) -> anyhow::Result<()> {
    let mut client = Client::connect(&common.dir).await?;
    match command {
        TokenCommand::Create(args) => {
            let request =
                TokenRequest { role: args.role, ttl_seconds: args.ttl.as_secs(), uses: args.uses, allow: args.allow };
            let created: TokenCreated = client.post("/api/v1/tokens", &request).await?;
            line(format_args!("{}", created.token))?;
        }
        TokenCommand::List => {
            let tokens: Vec<Token> = client.get("/api/v1/tokens").await?;
            data(&common.output, &tokens, &["ID", "ROLE", "ALLOW", "USED", "EXPIRES IN", "ISSUER"], |tokens| {
                let cells = |token: &Token| {
                    let allow: Vec<String> = token.allow.iter().map(ToString::to_string).collect();
                    vec![
                        token.id.clone(),
                        token.role.to_string(),
                        allow.join(","),
                        format!("{}/{}", token.used, token.uses),
                        age(token.expires_in_seconds),
                        token.issuer.clone(),
                    ]
                };
                tokens.iter().map(cells).collect()
            })?;
        }
        TokenCommand::Revoke { id } => {
            let () = client.post(&format!("/api/v1/tokens/{id}/revoke"), &()).await?;
            line(format_args!("token {id} revoked"))?;
        }
    }
    Ok(())
}
