//! What the process has open: listeners, connections, held groups and loops, by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weft_tests::app::Answers;

use crate::bulk::Looping;
use crate::conn::Conn;
use crate::http_client::{Asking, Unread};
use crate::listen::Listener;

/// A loop of requests, and its thread.
type Asked = (Arc<Asking>, JoinHandle<()>);

/// Everything open. Numbers are never used twice.
#[derive(Default)]
pub(crate) struct Table {
    next: AtomicU64,
    listeners: Mutex<HashMap<u64, Arc<Listener>>>,
    conns: Mutex<HashMap<u64, Arc<Conn>>>,
    groups: Mutex<HashMap<u64, Vec<TcpStream>>>,
    loops: Mutex<HashMap<u64, Arc<Looping>>>,
    asking: Mutex<HashMap<u64, Asked>>,
    unread: Mutex<HashMap<u64, Vec<Unread>>>,
}

impl Table {
    fn add<T>(&self, to: &Mutex<HashMap<u64, T>>, value: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        lock(to).insert(number, value);
        number
    }

    pub(crate) fn add_listener(&self, listener: Arc<Listener>) -> u64 {
        self.add(&self.listeners, listener)
    }

    pub(crate) fn listener(&self, number: u64) -> Result<Arc<Listener>> {
        lock(&self.listeners).get(&number).cloned().context("no such listener")
    }

    pub(crate) fn unlisten(&self, number: u64) -> Result<()> {
        lock(&self.listeners).remove(&number).context("no such listener")?.close()?;
        Ok(())
    }

    pub(crate) fn add_conn(&self, conn: Conn) -> u64 {
        self.add(&self.conns, Arc::new(conn))
    }

    pub(crate) fn conn(&self, number: u64) -> Result<Arc<Conn>> {
        lock(&self.conns).get(&number).cloned().context("no such connection")
    }

    pub(crate) fn take(&self, number: u64) -> Result<Arc<Conn>> {
        lock(&self.conns).remove(&number).context("no such connection")
    }

    pub(crate) fn put_back(&self, number: u64, conn: Conn) {
        lock(&self.conns).insert(number, Arc::new(conn));
    }

    pub(crate) fn add_group(&self, streams: Vec<TcpStream>) -> u64 {
        self.add(&self.groups, streams)
    }

    pub(crate) fn take_group(&self, number: u64) -> Result<Vec<TcpStream>> {
        lock(&self.groups).remove(&number).context("no such group")
    }

    pub(crate) fn put_group_back(&self, number: u64, streams: Vec<TcpStream>) {
        lock(&self.groups).insert(number, streams);
    }

    pub(crate) fn release(&self, number: u64) -> Result<()> {
        self.take_group(number).map(drop)
    }

    pub(crate) fn add_asking(&self, asking: (Arc<Asking>, JoinHandle<()>)) -> u64 {
        self.add(&self.asking, asking)
    }

    pub(crate) fn answers(&self, number: u64) -> Result<Answers> {
        Ok(lock(&self.asking).get(&number).context("no such requests")?.0.answers())
    }

    pub(crate) fn take_asking(&self, number: u64) -> Result<(Arc<Asking>, JoinHandle<()>)> {
        lock(&self.asking).remove(&number).context("no such requests")
    }

    pub(crate) fn add_unread(&self, unread: Vec<Unread>) -> u64 {
        self.add(&self.unread, unread)
    }

    pub(crate) fn take_unread(&self, number: u64) -> Result<Vec<Unread>> {
        lock(&self.unread).remove(&number).context("nothing of that number is unread")
    }

    pub(crate) fn add_loop(&self, looping: Arc<Looping>) -> u64 {
        self.add(&self.loops, looping)
    }

    pub(crate) fn looping(&self, number: u64) -> Result<Arc<Looping>> {
        lock(&self.loops).get(&number).cloned().context("no such loop")
    }
}

/// A lock whose holder panicked still guards usable data here: every update is one insert or one count.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
