//! `cargo xtask lab`: two meshed nodes with a client, two versions of a server and a Service; a shell in a pod until it
//! ends, then everything is taken down again.

use std::process::Command;

use anyhow::{Context, Result};
use weft_tests::app::Behaviour;
use weft_tests::lab::{Lab, binary};

fn main() -> Result<()> {
    let wanted = std::env::args().nth(1).unwrap_or_else(|| "client".into());
    let lab = Lab::new("shell")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let pods = [lab.pod(&a, "client").create()?, lab.pod(&b, "v1").create()?, lab.pod(&b, "v2").create()?];
    let echo = lab.service("echo").pods(&[&pods[1], &pods[2]]).create()?;
    let apps = pods.iter().map(|pod| pod.app(&lab)).collect::<Result<Vec<_>>>()?;
    for (pod, app) in pods.iter().zip(&apps).skip(1) {
        app.listen((std::net::Ipv6Addr::UNSPECIFIED, 8080).into(), pod.name(), Behaviour::Identify)?;
    }
    let agents = lab.start_agents()?;
    lab.mesh()?;
    let pod =
        pods.iter().find(|pod| pod.name() == wanted).with_context(|| format!("no pod {wanted}: client, v1 or v2"))?;
    println!(
        "You are in pod {} on node {}. The Service echo is at {} and {}.",
        pod.name(),
        pod.node().name(),
        echo.v4(),
        echo.v6()
    );
    println!("Try: printf 'hi\\n' | nc -N {} {}", echo.v4().ip(), echo.v4().port());
    println!("Manifests, read again at every change: {}", lab.manifests().directory().display());
    for agent in &agents {
        println!("Node {}: weft workloads --admin-socket {}", agent.node().name(), agent.admin_socket().display());
    }
    println!("Leave with exit or Ctrl-D.");
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let mut enter = Command::new(binary("lab-app")?);
    enter.arg("enter").arg("--netns").arg(pod.netns().path()).arg("--cgroup").arg(pod.cgroup()).arg("--").arg(shell);
    // Whatever the shell's last command was, leaving it is no failure.
    enter.status().context("starting a shell")?;
    println!("Taking the lab down.");
    lab.finish()
}
