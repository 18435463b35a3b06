//! The instrument: Weft beside a plain relay and its peers, in one run, on the lab.
//!
//! [`subjects`] are ways from a client to a server, [`measures`] what is asked of each; [`rounds`] runs every subject once a
//! round, and [`report`] makes tables, bars, plots and JSON of the samples. [`load`] is what runs inside the pods, and
//! [`relay`] the floor of any pair of proxies. Nothing here decides what a good figure is: the bars come from the project's
//! plan, and a sample that failed is shown and never dropped. [`scale`] is a run of its own: one agent and a big cluster.

pub mod load;
pub mod machine;
pub mod measures;
pub mod relay;
pub mod report;
pub mod rounds;
pub mod scale;
pub mod subjects;
