//! The protocol without sockets: its codec, its states against a naive model, its credit exhaustively.

mod codec;
mod credit;
mod model;
mod rules;
