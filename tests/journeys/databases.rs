//! PostgreSQL and Redis through the mesh, carried byte by byte: their own servers and clients, unmodified.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use weft_tests::app::Until;

use crate::clients::{PATIENCE, Real};
use crate::fixture::moves;

/// A directory that belongs to `postgres`, who runs its server; gone with it.
struct Database(tempfile::TempDir);

/// What Debian keeps out of the path: a program of whichever version is installed.
fn of_postgres(program: &str) -> Result<PathBuf> {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").context("no PostgreSQL: `cargo xtask setup` installs it")?;
    let programs = versions.filter_map(|version| Some(version.ok()?.path().join("bin").join(program)));
    programs.filter(|path| path.exists()).max().with_context(|| format!("{program} is not installed"))
}

/// As the user `postgres`: its server refuses to be root's.
const AS_POSTGRES: [&str; 4] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];

impl Database {
    fn new() -> Result<Self> {
        let home = tempfile::Builder::new().prefix("weft-postgres").tempdir()?;
        let path = home.path().display().to_string();
        let run = |command: &mut Command| -> Result<()> {
            let output = command.output()?;
            ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        run(Command::new("chown").arg("postgres:postgres").arg(&path))?;
        let mut initdb = Command::new(AS_POSTGRES[0]);
        initdb.args(&AS_POSTGRES[1..]).arg(of_postgres("initdb")?).args(["-D", &path, "--no-sync", "-A", "trust"]);
        run(initdb.current_dir(&path))?;
        let access = home.path().join("pg_hba.conf");
        std::fs::write(&access, "host all all all trust\n")?;
        Ok(Self(home))
    }
}

#[test]
fn postgresql_through_the_mesh() -> Result<()> {
    let real = Real::new("postgres", 5432, None)?;
    let database = Database::new()?;
    let (postgres, path) = (of_postgres("postgres")?.display().to_string(), database.0.path().display().to_string());
    let settings =
        ["-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB"];
    let server =
        real.serve(&[&AS_POSTGRES[..], &[&*postgres, "-D", &path], &settings].concat(), "ready to accept connections")?;
    for to in [real.service.v4(), real.service.v6()] {
        let ask = |query: &str| {
            let host = to.ip().to_string();
            let said =
                real.steered(1, &["psql", "-X", "-At", "-h", &host, "-p", "5432", "-U", "postgres", "-c", query])?;
            Ok::<_, anyhow::Error>(said.trim().to_owned())
        };
        ensure!(ask("select 6 * 7")? == "42");
        // The server sees its client, and not the mesh.
        let client = ask("select host(inet_client_addr())")?;
        ensure!(real.client.addresses().iter().any(|ip| ip.to_string() == client), "the server saw {client}");
        // Megabytes of rows.
        let rows = ask("select n, repeat(md5(n::text), 10) from generate_series(1, 20000) n")?;
        ensure!(rows.lines().count() == 20_000 && rows.len() > 6_000_000, "{} bytes", rows.len());
        // An error is the server's own.
        let refused = real.client.spawn(
            &real.lab,
            "psql",
            &["psql", "-X", "-h", &to.ip().to_string(), "-U", "postgres", "-c", "select 1/0"],
        )?;
        ensure!(!refused.wait(PATIENCE)?.success() && refused.log().contains("division by zero"), "{}", refused.log());
    }
    server.kill()?;
    real.lab.finish()
}

#[test]
fn redis_through_the_mesh() -> Result<()> {
    let real = Real::new("redis", 6379, None)?;
    let server = real.serve(
        &[
            "redis-server",
            "--port",
            "6379",
            "--bind",
            "*",
            "-::*",
            "--protected-mode",
            "no",
            "--save",
            "",
            "--appendonly",
            "no",
        ],
        "Ready to accept connections",
    )?;
    let app = real.client.app(&real.lab)?;
    for to in [real.service.v4(), real.service.v6()] {
        let host = to.ip().to_string();
        let ask = |command: &[&str]| real.steered(1, &[&["redis-cli", "-h", &*host], command].concat());
        ensure!(ask(&["ping"])?.trim() == "PONG");
        ask(&["set", "key", &"v".repeat(100_000)])?;
        ensure!(ask(&["get", "key"])?.trim() == "v".repeat(100_000));
        let load = real.steered(
            20,
            &["redis-benchmark", "-h", &host, "-q", "-n", "4000", "-c", "20", "-t", "set,get", "-P", "4"],
        )?;
        ensure!(load.matches("requests per second").count() == 2, "{load}");
        // Inline commands, as by hand.
        let conn = moves(&real.lab, &real.a, "connect_steer", 1, || app.open(to))?.conn;
        app.say(conn, "PING\r\n")?;
        ensure!(app.receive(conn, Until::Line)?.text == "+PONG\r\n");
        app.say(conn, "ECHO a-word\r\n")?;
        ensure!(
            app.receive(conn, Until::Line)?.text == "$6\r\n" && app.receive(conn, Until::Line)?.text == "a-word\r\n"
        );
        app.close(conn)?;
    }
    let Ok(seen) = real.run(&["redis-cli", "-h", &real.service.v4().ip().to_string(), "client", "list"]) else {
        bail!("no list of clients")
    };
    ensure!(real.client.addresses().iter().any(|ip| seen.contains(&format!("addr={ip}:"))), "the server sees {seen}");
    server.kill()?;
    real.lab.finish()
}
