//! `lab-app`: the ordinary process of the lab's pods. `run` takes commands on standard input and answers on standard
//! output until its input ends; `enter` puts any other program into a pod, `forward` joins two networks.
//!
//! It must stay ordinary: no knowledge of the mesh, no retries, no options that hide an error from the journey.

mod bulk;
mod conn;
mod enter;
mod forward;
mod http_client;
mod http_server;
mod listen;
mod table;

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use weft_tests::app::protocol::{Answer, Command, Request};

use table::Table;

#[derive(Parser)]
#[command(about = "An ordinary process for the lab's pods")]
enum Role {
    /// Take commands on standard input.
    Run,
    /// Run a program in a network namespace and cgroup.
    Enter(enter::Enter),
    /// Carry connections into another network namespace.
    Forward(forward::Forward),
    #[command(flatten)]
    Never(Never),
}

#[derive(Subcommand)]
enum Never {}

fn main() -> Result<()> {
    match Role::parse() {
        Role::Run => run(),
        Role::Enter(enter) => enter.exec(),
        Role::Forward(forward) => forward.run(),
        Role::Never(never) => match never {},
    }
}

#[tokio::main(worker_threads = 2)]
async fn run() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let table = Arc::new(Table::default());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let request: Request = serde_json::from_str(&line).with_context(|| format!("not a command: {line}"))?;
        let table = table.clone();
        tokio::spawn(async move {
            let result = obey(table, request.command).await.map_err(|problem| format!("{problem:#}"));
            let answer = serde_json::to_string(&Answer { id: request.id, result }).unwrap_or_default();
            // The journey that closed our output no longer wants answers.
            let _ = writeln!(std::io::stdout().lock(), "{answer}");
        });
    }
    Ok(())
}

async fn obey(table: Arc<Table>, command: Command) -> Result<Value> {
    let value = match command {
        Command::Listen(listen) => serde_json::to_value(listen::open(&table, listen)?)?,
        Command::Unlisten { listener } => serde_json::to_value(table.unlisten(listener)?)?,
        Command::Seen { listener } => serde_json::to_value(table.listener(listener)?.seen())?,
        Command::Accept { listener } => serde_json::to_value(listen::accept(&table, listener).await?)?,
        Command::Open { to, options } => serde_json::to_value(conn::open(&table, to, &options).await?)?,
        Command::Reconnect { conn, to } => serde_json::to_value(conn::reconnect(&table, conn, to).await?)?,
        Command::Send { conn, payload, chunk, urgent } => {
            serde_json::to_value(table.conn(conn)?.send(&payload, chunk, urgent).await?)?
        }
        Command::Receive { conn, until } => serde_json::to_value(table.conn(conn)?.receive(until).await?)?,
        Command::Frames { conn, kinds, stream } => {
            serde_json::to_value(table.conn(conn)?.frames(&kinds, stream).await?)?
        }
        Command::Exchange { conn, payload } => serde_json::to_value(table.conn(conn)?.exchange(&payload).await?)?,
        Command::Finish { conn } => serde_json::to_value(table.conn(conn)?.finish().await?)?,
        Command::Reset { conn } => serde_json::to_value(table.take(conn)?.reset()?)?,
        Command::Close { conn } => serde_json::to_value(drop(table.take(conn)?))?,
        Command::Call(calls) => serde_json::to_value(bulk::call(&calls).await)?,
        Command::Hold(calls) => serde_json::to_value(bulk::hold(&table, &calls).await)?,
        Command::Poke { group } => serde_json::to_value(bulk::poke(&table, group).await?)?,
        Command::Release { group } => serde_json::to_value(table.release(group)?)?,
        Command::StartLoop { calls, interval_ms } => {
            serde_json::to_value(bulk::start_loop(&table, calls, interval_ms))?
        }
        Command::LoopReport { looping } => serde_json::to_value(table.looping(looping)?.report())?,
        Command::Fetch { to, http, ask, deadline_ms } => {
            serde_json::to_value(http_client::fetch(to, http, &ask, deadline_ms).await?)?
        }
        Command::Row { to, http, ask, count, deadline_ms } => {
            serde_json::to_value(http_client::row(to, http, &ask, count, deadline_ms).await?)?
        }
        Command::Ask(requests) => serde_json::to_value(http_client::ask(requests).await)?,
        Command::Unread { requests } => serde_json::to_value(http_client::unread(&table, &requests).await?)?,
        Command::Read { unread } => serde_json::to_value(http_client::read(&table, unread).await?)?,
        Command::StartAsking(requests) => serde_json::to_value(http_client::start(&table, requests))?,
        Command::AskedSoFar { asking } => serde_json::to_value(table.answers(asking)?)?,
        Command::StopAsking { asking } => serde_json::to_value(http_client::stop(&table, asking).await?)?,
        Command::StopLoop { looping } => serde_json::to_value(bulk::stop_loop(&table, looping).await?)?,
    };
    Ok(value)
}
