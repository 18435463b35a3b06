//! Diagnostics. Each statement is guarded by aya-log's level, a constant that the loader patches: while it is off the
//! verifier removes the statement from the program it loads, and a person who turns it on gets the programs replaced.

/// A connect, at debug level. `$destination` and `$port` are those the application wrote.
macro_rules! connect {
    ($context:expr, $verdict:expr, $cookie:expr, $destination:expr, $port:expr) => {
        aya_log_ebpf::debug!(
            $context,
            "connect: netns {} to ..{:i}:{} verdict {}",
            $cookie,
            $destination.tail(),
            $port.number(),
            $verdict as u32
        )
    };
}

/// A SYN, at debug level.
macro_rules! lookup {
    ($context:expr, $verdict:expr, $facts:expr) => {
        aya_log_ebpf::debug!(
            $context,
            "syn: netns {} from ..{:i} to ..{:i}:{} by device {} verdict {}",
            $facts.pod.cookie,
            $facts.source.tail(),
            $facts.destination.tail(),
            $facts.port.number(),
            $facts.device,
            $verdict as u32
        )
    };
}

pub(crate) use {connect, lookup};
