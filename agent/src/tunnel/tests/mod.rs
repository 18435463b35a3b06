//! Tunnels over loopback with real TLS, real HTTP/2 and real sockets at both ends.

mod apps;
mod bad_clients;
mod bad_servers;
mod certificates;
mod failures;
mod hand;
mod hostile;
mod interop;
mod keys;
mod requests;
mod rig;
mod sharing;
mod transport;
mod weft;
