//! Where log lines go and which of them are written.
//!
//! To standard error, for people or as one JSON object a line. The filter can be changed while the process runs
//! (`weft log-level`), for a quarter of an hour of `debug` on one target without losing a connection to a restart.
//!
//! Lines go through a queue to a thread of its own. A reader of standard error that stalls makes them be dropped and
//! counted; it does not make connections wait.

use std::io::{BufWriter, IsTerminal, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::line;

/// The longest filter accepted, in bytes.
const FILTER_MAX: usize = 4096;

/// Lines that wait to be written, at most; about 8 MB of access log.
const QUEUE_LINES: usize = 16_384;

/// Lines written with one call, in bytes, at most.
const GATHERED: usize = 64 * 1024;

/// How long lines may wait for others.
const REST: Duration = Duration::from_millis(5);

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is neither \"text\" nor \"json\"")),
        }
    }
}

/// Why a filter was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// It cannot be read.
    #[error(
        "{filter:?} is not a log filter ({reason}): write a level (error, warn, info, debug, trace) or \
             target=level pairs, such as info,weft::access=off,weft::tunnel=debug"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging was set up by somebody else, or not at all.
    #[error("the log filter of this process cannot be changed: {0}")]
    Unavailable(String),
}

/// Puts a filter in force if there is one, and gives the one in force.
type Reload = dyn Fn(Option<EnvFilter>) -> Result<String, String> + Send + Sync;

/// Changes the filter of the running process.
#[derive(Clone)]
pub struct LevelHandle {
    reload: Arc<Reload>,
    dropped: Option<ErrorCounter>,
}

/// The thread that writes the process's lines, until [`finish`].
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

impl std::fmt::Debug for LevelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LevelHandle").finish_non_exhaustive()
    }
}

impl LevelHandle {
    /// Puts `filter` in force and gives it as it was understood.
    ///
    /// # Errors
    /// [`LevelError`]; the filter in force stays.
    pub fn set(&self, filter: &str) -> Result<String, LevelError> {
        let filter = parse(filter)?;
        (self.reload)(Some(filter)).map_err(LevelError::Unavailable)
    }

    /// How many lines were dropped because nobody read them.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.as_ref().map_or(0, |dropped| dropped.dropped_lines() as u64)
    }

    /// The filter in force.
    ///
    /// # Errors
    /// [`LevelError::Unavailable`] once logging is gone.
    pub fn current(&self) -> Result<String, LevelError> {
        (self.reload)(None).map_err(LevelError::Unavailable)
    }
}

#[cfg(test)]
impl LevelHandle {
    /// A handle of a filter nothing listens to.
    pub(crate) fn detached(filter: &str) -> Self {
        let current = std::sync::Mutex::new(filter.to_owned());
        let reload = move |filter: Option<EnvFilter>| {
            let mut current = current.lock().unwrap();
            if let Some(filter) = filter {
                *current = filter.to_string();
            }
            Ok(current.clone())
        };
        Self { reload: Arc::new(reload), dropped: None }
    }
}

/// Reads a filter; used by the configuration to refuse a bad one before anything starts.
///
/// # Errors
/// [`LevelError::Filter`] says what is wrong with it.
pub fn parse(filter: &str) -> Result<EnvFilter, LevelError> {
    let refuse = |reason: String| {
        let filter = filter.chars().take(80).collect();
        Err(LevelError::Filter { filter, reason })
    };
    if filter.trim().is_empty() || filter.len() > FILTER_MAX {
        return refuse(format!("it must have 1 to {FILTER_MAX} bytes"));
    }
    if let Some(word) = bare_word(filter) {
        return refuse(format!("{word:?} is no level"));
    }
    EnvFilter::try_new(filter).or_else(|error| refuse(error.to_string()))
}

/// The first part of a filter that is one word and no level. It would be taken for a target, and everything else
/// would fall silent: `inof` for `info`.
fn bare_word(filter: &str) -> Option<&str> {
    let mut parts = filter.split(',').map(str::trim).filter(|_| !filter.contains('['));
    parts.find(|part| !part.is_empty() && !part.contains('=') && part.parse::<LevelFilter>().is_err())
}

/// A queue in front of `writer`, which drops lines rather than wait.
fn queue(writer: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES).thread_name("log");
    queue.finish(Gathering { lines: BufWriter::with_capacity(GATHERED, writer) })
}

/// Writes many lines at once: the queue's thread flushes when the queue is empty, and then rests for a moment. Lines that
/// come meanwhile wake nobody; a thread woken for each line costs a twentieth of what a new connection costs.
struct Gathering<W: Write> {
    lines: BufWriter<W>,
}

impl<W: Write> Write for Gathering<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.lines.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.lines.flush()?;
        std::thread::sleep(REST);
        Ok(())
    }
}

/// Sets up logging for the process.
///
/// # Errors
/// [`LevelError::Filter`] for a filter that cannot be read, [`LevelError::Unavailable`] if it was set up before.
pub fn init(format: Format, filter: &str) -> Result<LevelHandle, LevelError> {
    let (layer, handle) = reload::Layer::<EnvFilter, Registry>::new(parse(filter)?);
    let (writer, guard) = queue(std::io::stderr());
    let dropped = writer.error_counter();
    let access = writer.clone();
    let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(writer);
    let registry = tracing_subscriber::registry().with(layer);
    let done = match format {
        Format::Text => registry.with(lines.with_target(true)).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
    };
    done.map_err(|error| LevelError::Unavailable(error.to_string()))?;
    line::write_to(access, format);
    *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    Ok(LevelHandle {
        reload: Arc::new(move |filter| {
            if let Some(filter) = filter {
                handle.reload(filter).map_err(|error| error.to_string())?;
            }
            handle.with_current(ToString::to_string).map_err(|error| error.to_string())
        }),
        dropped: Some(dropped),
    })
}

/// Writes what still waits; the last thing a process does. Nothing is logged after it.
pub fn finish() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_while_the_process_runs() {
        let handle = init(Format::Json, "info").unwrap();
        assert_eq!(handle.current().unwrap(), "info");
        assert!(!tracing::enabled!(target: "weft::tunnel", tracing::Level::DEBUG));
        handle.set("info,weft::tunnel=debug").unwrap();
        assert!(tracing::enabled!(target: "weft::tunnel", tracing::Level::DEBUG));
        assert!(matches!(handle.set("weft::tunnel=loud"), Err(LevelError::Filter { .. })));
        assert!(tracing::enabled!(target: "weft::tunnel", tracing::Level::DEBUG), "a bad filter changes nothing");
        assert!(matches!(init(Format::Text, "info"), Err(LevelError::Unavailable(_))));
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        /// Writes only once it may.
        struct Stalled(std::sync::mpsc::Receiver<()>);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                // Disconnected: go on.
                let _ = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (go, wait) = std::sync::mpsc::channel();
        let (mut writer, guard) = queue(Stalled(wait));
        let line = [b'x'; 64];
        let gathered = GATHERED / line.len() + 1;
        for _ in 0..QUEUE_LINES + gathered + 100 {
            writer.write_all(&line).unwrap();
        }
        // What the thread has gathered and not written is in neither's hands.
        assert!((99..=100 + gathered).contains(&writer.error_counter().dropped_lines()));
        drop(go);
        drop(guard);
    }

    #[test]
    fn filters_are_bounded() {
        assert!(parse("").is_err());
        assert!(parse("inof").is_err() && parse("info,weft::tunel").is_err());
        assert!(parse("off").is_ok() && parse("INFO,weft::access=off").is_ok());
        assert!(parse(&"a=info,".repeat(1000)).is_err());
    }
}
