//! The library behind the `weft` binary; its rooms are the stations of a connection.

pub mod admin;
pub mod config;
pub mod control;
pub mod hold;
pub mod identity;
pub mod relay;
pub mod steer;
pub mod sys;
pub mod telemetry;
pub mod tunnel;
