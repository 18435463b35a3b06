//! `weft controller`: its parts are the crate `weft-controller`'s; signals, logs and the metrics port are every role's.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use weft::config::ConfigErrors;
use weft::telemetry::{MetricsServer, Process, logging};
use weft_controller::{ControllerArgs, Settings, Telemetry, run};

use super::Output;

/// Settings of `weft controller`.
#[derive(Debug, Args)]
pub(super) struct ControllerVerb {
    #[command(flatten)]
    controller: ControllerArgs,

    /// How log lines are written: text or json
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: String,

    /// Which log lines are written: a level, or target=level pairs
    #[arg(long, env = "WEFT_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    log_level: String,
}

/// Runs the controller until it is told to stop.
pub(super) fn controller(args: &ControllerVerb) -> anyhow::Result<Output> {
    let (settings, format) = check(args)?;
    logging::init(format, &args.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(settings))?;
    Ok(String::new().into())
}

fn check(args: &ControllerVerb) -> Result<(Settings, logging::Format), ConfigErrors> {
    let settings = Settings::check(&args.controller);
    let format = args.log_format.parse().map_err(|error| format!("--log-format: {error}"));
    let level = logging::parse(&args.log_level).map_err(|error| format!("--log-level: {error}"));
    match (settings, format, level) {
        (Ok(settings), Ok(format), Ok(_)) => Ok((settings, format)),
        (settings, format, level) => {
            let mut problems = settings.err().unwrap_or_default();
            problems.extend(format.err().into_iter().chain(level.err()));
            Err(ConfigErrors(problems))
        }
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = CancellationToken::new();
    let told = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    let telemetry = Telemetry::default();
    telemetry.register(|registry| registry.register_collector(Box::new(Process)));
    let shown = telemetry.clone();
    let _exporter = match settings.metrics {
        Some(address) => {
            let exposition = std::sync::Arc::new(move || shown.text());
            Some(MetricsServer::start(address, exposition, telemetry.readiness.clone()).await?)
        }
        None => None,
    };
    Ok(run(settings, telemetry, shutdown).await?)
}
