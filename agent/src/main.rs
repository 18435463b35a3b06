//! The `weft` binary: picks the role named on the command line and hands it its checked configuration.

fn main() {}
