//! Volume: much at once, and nothing lost.

use anyhow::{Result, ensure};
use weft_tests::app::{Behaviour, Calls, End, Payload};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};

const GIB: u64 = 1 << 30;

#[test]
fn gigabyte_both_ways() -> Result<()> {
    let down = Payload::Noise { seed: 11, length: GIB };
    let (mesh, listener) = Mesh::serving("gigabyte", Behaviour::Source(down.clone()))?;
    let up = Payload::Noise { seed: 12, length: GIB };
    mesh.steered(1, || {
        let conn = mesh.app.open(mesh.echo.v4())?.conn;
        let exchanged = mesh.app.exchange(conn, up.clone())?;
        ensure!(exchanged.received == down.sum() && exchanged.end == End::Fin, "{exchanged:?}");
        ensure!(exchanged.sent == up.sum());
        Ok(())
    })?;
    wait::until("all of it to arrive", wait::DEADLINE, || {
        let seen = mesh.peer.seen(listener)?;
        ensure!(seen.records.iter().any(|record| record.received == up.sum() && record.end == End::Fin), "{seen:?}");
        Ok(())
    })?;
    mesh.spoke("weft/1")?;
    mesh.lab.finish()
}

#[test]
fn sixty_four_half_closing_transfers() -> Result<()> {
    let down = Payload::Noise { seed: 13, length: 2 << 20 };
    let (mesh, listener) = Mesh::serving("sixty-four", Behaviour::Source(down.clone()))?;
    let ways = mesh.ways()?;
    mesh.steered(64, || {
        std::thread::scope(|scope| {
            let transfers: Vec<_> = (0..64usize)
                .map(|i| {
                    let (app, to, down) = (&mesh.app, ways[i % ways.len()], &down);
                    scope.spawn(move || -> Result<()> {
                        let up = Payload::Noise { seed: 100 + i as u64, length: (1 << 20) + i as u64 };
                        let conn = app.open(to)?.conn;
                        let exchanged = app.exchange(conn, up.clone())?;
                        ensure!(
                            exchanged.sent == up.sum() && exchanged.received == down.sum() && exchanged.end == End::Fin,
                            "{exchanged:?}"
                        );
                        Ok(())
                    })
                })
                .collect();
            transfers.into_iter().try_for_each(|transfer| transfer.join().map_err(|_| anyhow::anyhow!("panicked"))?)
        })
    })?;
    // A client that has had its answer knows of what it sent only that it left.
    wait::until("every transfer to arrive whole", wait::DEADLINE, || {
        let records = mesh.peer.seen(listener)?.records;
        for i in 0..64 {
            let sum = Payload::Noise { seed: 100 + i, length: (1 << 20) + i }.sum();
            ensure!(
                records.iter().any(|record| record.received == sum && record.end == End::Fin),
                "transfer {i} did not arrive whole: {:?}",
                records.iter().map(|record| (record.received.length, record.end)).collect::<Vec<_>>()
            );
        }
        Ok(())
    })?;
    mesh.spoke("weft/1")?;
    mesh.lab.finish()
}

#[test]
fn twenty_thousand_short_connections() -> Result<()> {
    let (mesh, listener) = Mesh::serving("short", Behaviour::Identify)?;
    mesh.peer.listen(anywhere(8081), "unused", Behaviour::Identify)?;
    mesh.steered(20_000, || {
        let summary = mesh.app.call(Calls::to(mesh.echo.v4()).times(20_000, 64))?;
        ensure!(summary.ok == 20_000 && summary.failed() == 0 && summary.untruthful == 0, "{summary:?}");
        Ok(())
    })?;
    // None of them is kept by anybody.
    for agent in [mesh.agent(&mesh.a)?, mesh.agent(&mesh.b)?] {
        wait::until("the agents to have forgotten them", wait::DEADLINE, || {
            let open = agent.ask("/connections")?.as_array().map_or(0, Vec::len);
            ensure!(open == 0, "{} counts {open} as open", agent.process().name());
            Ok(())
        })?;
    }
    ensure!(mesh.peer.seen(listener)?.accepted == 20_000);
    mesh.lab.finish()
}
