//! What the hooks report, as a stream; and their diagnostics, while somebody wants them.

use std::{os::fd::AsFd as _, time::Duration};

use aya::maps::{Map, MapData, RingBuf};
use tokio_util::sync::CancellationToken;
use weft_abi::{Event, FlowRecord, map};

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

/// How long records may wait in the ring when there are few: none of them wakes anybody.
const RECORDS_EVERY: Duration = Duration::from_millis(50);

/// Records handed out at once.
const RECORDS_MAX: usize = 1024;

/// What becomes of connections between pods of this node, as a stream; the ring has one reader.
pub struct FlowRecords {
    ring: RingBuf<MapData>,
    readable: Readable,
    ticks: tokio::time::Interval,
    released: CancellationToken,
}

impl FlowRecords {
    pub(super) fn open(pins: &Pins, released: CancellationToken) -> Result<Self, SteerError> {
        let path = pins.map(map::FLOW_RECORDS);
        let data = MapData::from_pin(&path).map_err(SteerError::map(map::FLOW_RECORDS))?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(SteerError::map(map::FLOW_RECORDS))?;
        let readable = Readable::of(ring.as_fd()).map_err(SteerError::file("wait on", path))?;
        let mut ticks = tokio::time::interval(RECORDS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self { ring, readable, ticks, released })
    }

    /// The next records, at least one; `None` once steering belongs to a successor.
    pub async fn next(&mut self) -> Option<Vec<FlowRecord>> {
        while !self.released.is_cancelled() {
            let records = self.take();
            if !records.is_empty() {
                return Some(records);
            }
            tokio::select! {
                () = self.released.cancelled() => return None,
                _ = self.ticks.tick() => {}
                ready = self.readable.wait() => if ready.is_err() { return None },
            }
        }
        None
    }

    /// What is there.
    pub fn take(&mut self) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        while let (true, Some(bytes)) = (records.len() < RECORDS_MAX, self.ring.next()) {
            records.extend(FlowRecord::read(&bytes));
        }
        records
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
