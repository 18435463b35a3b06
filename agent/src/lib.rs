//! The library behind the `weft` binary; its rooms are the stations of a connection.

pub mod sys;
