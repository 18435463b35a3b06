//! The double against the recording of the real thing.

use weft_apiserver::contract::{RECORDED_TOKEN_SOURCE, Target, replay};
use weft_apiserver::{Config, Server};

async fn differences(tls: bool) -> anyhow::Result<(usize, Vec<String>)> {
    let (name, key) = RECORDED_TOKEN_SOURCE;
    let config = Config { tls, token_sources: vec![(name.into(), key.into())], ..Config::default() };
    let server = Server::start("127.0.0.1:0".parse()?, config).await?;
    let outcomes = replay(&Target::of(&server)?).await?;
    let differ = outcomes.iter().filter(|outcome| !outcome.differences.is_empty());
    Ok((outcomes.len(), differ.map(ToString::to_string).collect()))
}

#[tokio::test]
async fn recorded_exchanges_replay_equal() -> anyhow::Result<()> {
    let (count, differ) = differences(false).await?;
    assert_eq!(count, 53, "every recorded exchange is replayed");
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    Ok(())
}

#[tokio::test]
async fn recorded_exchanges_replay_equal_over_tls() -> anyhow::Result<()> {
    let (_, differ) = differences(true).await?;
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    Ok(())
}
