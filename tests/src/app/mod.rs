//! `lab-app`: the ordinary process that lives in a lab's pods, and the handle a journey drives it by.
//!
//! It knows nothing of the mesh. It listens, dials, sends and reports what it saw, one JSON command and answer a line, so
//! that a journey can script both ends of a connection byte by byte and ask each end for its truth.

mod client;
pub mod frames;
pub mod http;
pub mod payload;
pub mod protocol;

pub use client::App;
pub use frames::{Frame, Frames};
pub use http::{Answers, Ask, Http, Reply, Requests, Saw};
pub use payload::{Payload, Sum};
pub use protocol::{
    Behaviour, Calls, End, Exchanged, Held, Listen, Opened, Options, Received, Record, Seen, Sent, Summary, Until,
};
