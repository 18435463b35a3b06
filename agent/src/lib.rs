//! The library behind the `weft` binary; its rooms are the stations of a connection.

pub mod accept;
pub mod admin;
pub mod app;
pub mod config;
pub mod dial;
pub mod direct;
pub mod drain;
pub mod health;
pub mod hold;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod live;
pub mod observe;
pub mod outbound;
pub mod pod;
pub mod relay;
pub mod sandbox;
pub mod steer;
pub mod sys;
pub mod telemetry;
pub mod tunnel;
pub mod workers;
