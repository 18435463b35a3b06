//! The library behind the `weft` binary; its rooms are the stations of a connection.

pub mod identity;
pub mod relay;
pub mod sys;
pub mod tunnel;
