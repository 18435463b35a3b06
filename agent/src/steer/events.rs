//! What the hooks report, as a stream; and their diagnostics, while somebody wants them.

use std::os::fd::AsFd as _;

use aya::maps::{Map, MapData, RingBuf};
use tokio_util::sync::CancellationToken;
use weft_abi::{Event, map};

use super::{SteerError, pins::Pins};
use crate::sys::readiness::Readable;

/// The hooks' reports. The ring has one reader: the agent that owns the steering.
pub struct Events {
    ring: RingBuf<MapData>,
    readable: Readable,
    released: CancellationToken,
}

impl Events {
    pub(super) fn open(pins: &Pins, released: CancellationToken) -> Result<Self, SteerError> {
        let path = pins.map(map::EVENTS);
        let data = MapData::from_pin(&path).map_err(SteerError::map(map::EVENTS))?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(SteerError::map(map::EVENTS))?;
        let readable = Readable::of(ring.as_fd()).map_err(SteerError::file("wait on", path))?;
        Ok(Self { ring, readable, released })
    }

    /// The next report; `None` once steering belongs to a successor.
    pub async fn next(&mut self) -> Option<Event> {
        while !self.released.is_cancelled() {
            if let Some(record) = self.ring.next() {
                match Event::read(&record) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            tokio::select! {
                () = self.released.cancelled() => return None,
                ready = self.readable.wait() => if let Err(error) = ready {
                    tracing::error!(%error, "the hooks' reports can no longer be read");
                    return None;
                },
            }
        }
        None
    }
}

/// Passes the hooks' diagnostics on to the log until steering is released. `ebpf` is any load of the object: the ring is
/// the same one.
pub(super) fn forward_logs(ebpf: &mut aya::Ebpf, released: CancellationToken) -> Result<(), SteerError> {
    let mut logger = aya_log::EbpfLogger::init(ebpf).map_err(SteerError::load)?;
    let readable = Readable::of(logger.as_fd()).map_err(SteerError::load)?;
    tokio::spawn(async move {
        loop {
            logger.flush();
            tokio::select! {
                () = released.cancelled() => return,
                ready = readable.wait() => if ready.is_err() { return },
            }
        }
    });
    Ok(())
}
