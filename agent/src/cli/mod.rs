//! The verbs of the command line. Each is a function from arguments to text and an exit code, or an error.

mod agent;
mod ask;
mod ca;
mod check;
mod controller;
mod enrol;
mod host;
mod install;
mod switch;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft::config::{AgentArgs, DEFAULT_ADMIN_SOCKET, DEFAULT_HOLD_SOCKET};

/// A node-level service mesh: mTLS, weighted balancing and policy for the pods of a node, steered by eBPF.
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Mesh the pods of this node
    Agent(Box<AgentArgs>),
    /// Do what a mesh in a cluster needs once: certificates, and what agents learn of each other
    Controller(Box<controller::ControllerVerb>),
    /// Keep the agent's listening sockets open while it restarts
    Hold(HoldArgs),
    /// Check a directory of manifests, a cluster before the mesh is installed there, a machine that is to be its node, or the
    /// installation; exits with 1 if something is wrong
    Check(check::CheckArgs),
    /// Install the mesh in a cluster, by server-side apply of the manifests of this release
    Install(install::InstallArgs),
    /// Bring an installation to this release; nodes are taken over one after the other, without an error to a client
    Upgrade(install::InstallArgs),
    /// Take every pod out of the mesh, and the mesh out of the cluster
    Uninstall(install::UninstallArgs),
    /// Put a namespace into the mesh by its label, unless that would break something; --dry-run only says what
    Enrol(enrol::EnrolArgs),
    /// Show how the agent of this node is; exits with 1 if it is not ready
    Status(Ask),
    /// List the pods the agent knows
    Workloads(Ask),
    /// List the services, their routes and endpoints
    Services(Ask),
    /// List the connections open now
    Connections(Ask),
    /// Show everything the agent knows, as JSON
    Dump(Ask),
    /// Show the log filter, or change it while the agent runs
    LogLevel(ask::LogLevelArgs),
    /// Take every pod of this node (or of all nodes) out of the mesh and remove all traces of it; connections that are open last
    Disable(switch::SwitchArgs),
    /// Put the pods of this node (or of all nodes) back into the mesh
    Enable(switch::SwitchArgs),
    /// Work with the embedded certificate authority
    #[command(subcommand)]
    Ca(ca::CaVerb),
    /// Print the CustomResourceDefinitions of weft.dev as YAML
    Crds,
}

#[derive(Debug, clap::Args)]
struct HoldArgs {
    /// The socket to serve
    #[arg(long, env = "WEFT_HOLD_SOCKET", value_name = "PATH", default_value = DEFAULT_HOLD_SOCKET)]
    socket: PathBuf,
}

/// How to ask the agent.
#[derive(Debug, clap::Args)]
struct Ask {
    /// The agent's admin socket
    #[arg(long, env = "WEFT_ADMIN_SOCKET", value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET)]
    admin_socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a verb has to say.
#[derive(Debug)]
pub(crate) struct Output {
    /// For standard output.
    pub(crate) text: String,
    /// How it went.
    pub(crate) code: ExitCode,
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Self { text, code: ExitCode::SUCCESS }
    }
}

/// Does what the command line asks for.
pub(crate) fn run(cli: Cli) -> anyhow::Result<Output> {
    match cli.verb {
        Verb::Agent(args) => agent::agent(&args),
        Verb::Controller(args) => controller::controller(&args),
        Verb::Hold(args) => agent::hold(&args.socket),
        Verb::Check(args) => check::run(&args),
        Verb::Install(args) => install::install(&args),
        Verb::Upgrade(args) => install::upgrade(&args),
        Verb::Uninstall(args) => install::uninstall(&args),
        Verb::Enrol(args) => enrol::run(&args),
        Verb::Status(args) => ask::status(&args),
        Verb::Workloads(args) => ask::workloads(&args),
        Verb::Services(args) => ask::services(&args),
        Verb::Connections(args) => ask::connections(&args),
        Verb::Dump(args) => ask::dump(&args),
        Verb::LogLevel(args) => ask::log_level(&args),
        Verb::Disable(args) => switch::disable(&args),
        Verb::Enable(args) => switch::enable(&args),
        Verb::Ca(verb) => ca::run(&verb),
        Verb::Crds => Ok(weft_control::crd::definitions_yaml()?.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_of_a_role_has_an_environment_variable_and_a_word_of_help() {
        let command = Cli::command();
        let roles = ["agent", "controller"].map(|role| command.find_subcommand(role).unwrap());
        for argument in
            roles.iter().flat_map(|role| role.get_arguments()).filter(|argument| argument.get_long().is_some())
        {
            let flag = argument.get_long().unwrap();
            let variable = format!("WEFT_{}", flag.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(&*variable), "{flag}");
            assert!(argument.get_help().is_some(), "{flag}");
        }
    }
}
