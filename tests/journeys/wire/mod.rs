//! HTTP as hostile or careless clients write it, byte by byte and frame by frame: each case by the section of its RFC, sent by
//! an ordinary process that dials a VIP, while another client of the same agent is served as ever.

mod endings;
mod floods;
mod floods1;
mod frame_cases;
mod http1;
mod http2;
mod malformed;
mod state_cases;
mod unfinished;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{App, Ask, Http, Requests};
use weft_tests::lab::Agent;

use crate::fixture::running_agent;
use crate::http::Web;

/// A server, a client that misbehaves, and one that does not.
struct Wire {
    web: Web,
    /// Another pod of the client's node, which asks all the while.
    other: App,
    asking: u64,
}

impl Wire {
    fn new(name: &str) -> Result<Self> {
        let web = Web::serving(name, 1, "http")?;
        let pod = web.lab.pod(&web.a, "other").create()?;
        let other = pod.app(&web.lab)?;
        web.lab.wait_live(&pod)?;
        let asked = Requests { deadline_ms: 15_000, ..Requests::to(web.web.v4(), Http::Two, Ask::get("/other"), 0) };
        let asking = other.start_requests(asked.over(1, 2).pause_ms(5))?;
        Ok(Self { web, other, asking })
    }

    /// A connection to the service, seen to be steered.
    fn open(&self) -> Result<u64> {
        Ok(self.web.app.open(self.web.web.v4())?.conn)
    }

    fn agent(&self) -> Result<Agent> {
        running_agent(&self.web.lab, &self.web.a)
    }

    /// Requests the server has seen of the client that misbehaves.
    fn requests_counted(&self, labels: &[(&str, &str)]) -> Result<u64> {
        let client = [labels, &[("source_workload", "client")]].concat();
        self.web.counted(&client)
    }

    /// The other client has been served all the while, and is now.
    fn finish(self) -> Result<()> {
        let before = self.other.answers(self.asking)?.with(200);
        weft_tests::wait::until("the other client to be served", weft_tests::wait::DEADLINE, || {
            ensure!(self.other.answers(self.asking)?.with(200) > before + 5);
            Ok(())
        })?;
        let others = self.other.stop_requests(self.asking)?;
        ensure!(others.failed() == 0 && others.errors.is_empty(), "another client was not served: {others:?}");
        ensure!(others.statuses.keys().eq([200].iter()), "{others:?}");
        ensure!(self.agent().context("the agent is gone")?.process().exited().is_none());
        self.web.lab.finish()
    }
}
