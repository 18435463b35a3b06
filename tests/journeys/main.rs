//! The journeys: one scenario a test, named as in `tests/scenarios.txt`. One binary, so that it links once.
//!
//! A journey starts from an ordinary process that dials a VIP or a pod's address, and asserts that the kernel's verdict
//! counters moved: traffic that went around the mesh passes no test by accident.

mod addresses;
mod backend_policies;
mod bad_input;
mod balancing;
mod clients;
mod clock;
mod conformance;
mod consumers;
mod controller;
mod databases;
mod deployment;
mod detection;
mod discovery;
mod elsewhere;
mod enrolment;
mod fixture;
mod http;
mod http_bounds;
mod http_balancing;
mod http_budget;
mod http_drain;
mod http_failover;
mod http_frontends;
mod http_health;
mod http_life;
mod http_policy;
mod http_retries;
mod http_routes;
mod http_sessions;
mod http_timeouts;
mod http_wire;
mod interop;
mod issuer;
mod judged;
mod kubernetes;
mod lab_itself;
mod lifecycle;
mod past_validation;
mod peer;
mod places;
mod probes;
mod reach;
mod routes_unsupported;
mod same_node;
mod same_node_life;
mod security;
mod services;
mod switching;
mod topology;
mod transparency;
mod tunnel;
mod volume;
mod wire;
