//! One line of the access log, composed where it is written.
//!
//! In the format of the process's other lines, through their filter and their queue, and without their formatter: that knows
//! fields only as things that can be shown, one call each through several layers, and took 8 % of what a request costs.

use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;

use tracing::Level;
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::logging::Format;

/// The target of the lines.
const TARGET: &str = "weft::access";
/// Where they go; until that is known, nowhere.
static SINK: OnceLock<(NonBlocking, Format)> = OnceLock::new();

thread_local! {
    /// The last line's memory.
    static SPARE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Has lines written to `writer` from now on.
pub(super) fn write_to(writer: NonBlocking, format: Format) {
    // A process sets up its logging once.
    let _ = SINK.set((writer, format));
}

/// A line that is being composed.
pub(super) struct Line {
    text: String,
    format: Format,
}

impl Line {
    /// Begins a line, if the filter lets it pass: at `warn` if something went wrong, and else at `info`.
    pub(super) fn begin(message: &str, wrong: bool) -> Option<Self> {
        let wanted = match wrong {
            true => tracing::enabled!(target: TARGET, Level::WARN),
            false => tracing::enabled!(target: TARGET, Level::INFO),
        };
        let (_, format) = SINK.get().filter(|_| wanted)?;
        Some(Self::in_format(*format, message, wrong))
    }

    fn in_format(format: Format, message: &str, wrong: bool) -> Self {
        let mut text = SPARE.take();
        text.clear();
        let level = if wrong { "WARN" } else { "INFO" };
        match format {
            Format::Text => {
                now(&mut text);
                let _ = write!(text, " {level:>5} {TARGET}: {message}");
            }
            Format::Json => {
                text.push_str("{\"timestamp\":\"");
                now(&mut text);
                let _ = write!(text, "\",\"level\":\"{level}\",\"message\":\"{message}\"");
            }
        }
        Self { text, format }
    }

    fn name(&mut self, name: &str) {
        let (before, after) = match self.format {
            Format::Text => (" ", "="),
            Format::Json => (",\"", "\":"),
        };
        self.text.push_str(before);
        self.text.push_str(name);
        self.text.push_str(after);
    }

    /// Adds text, in quotes.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            self.text.push('"');
            self.text.push_str(value);
            self.text.push('"');
        } else {
            let quoted = match self.format {
                Format::Text => format!("{value:?}"),
                Format::Json => serde_json::Value::from(value).to_string(),
            };
            self.text.push_str(&quoted);
        }
    }

    /// Adds what is shown in letters that need no quoting: an address, a name of Kubernetes, an identity.
    pub(super) fn shown(&mut self, name: &str, value: &impl Display) {
        self.name(name);
        let _ = match self.format {
            Format::Text => write!(self.text, "{value}"),
            Format::Json => write!(self.text, "\"{value}\""),
        };
    }

    /// Adds a number.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        let _ = write!(self.text, "{value}");
    }

    /// Hands the line to the queue.
    pub(super) fn end(mut self) {
        self.close();
        if let Some((writer, _)) = SINK.get() {
            // A queue that is full counts the line.
            let _ = writer.clone().write_all(self.text.as_bytes());
        }
        SPARE.set(self.text);
    }

    fn close(&mut self) {
        if self.format == Format::Json {
            let _ = write!(self.text, ",\"target\":\"{TARGET}\"}}");
        }
        self.text.push('\n');
    }
}

fn now(text: &mut String) {
    // It fails only where writing to its writer does.
    let _ = SystemTime.format_time(&mut Writer::new(text));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `compose` makes of a line.
    pub(in crate::telemetry) fn composed(format: Format, wrong: bool, compose: impl FnOnce(&mut Line)) -> String {
        let mut line = Line::in_format(format, "connection", wrong);
        compose(&mut line);
        line.close();
        line.text
    }

    fn odd(line: &mut Line) {
        line.text("plain", "in a word");
        line.text("odd", "a \"b\" \\ \n é");
        line.shown("name", &"shop/cart");
        line.number("bytes", u64::MAX);
    }

    #[test]
    fn lines_read_as_the_formatters_do() {
        let text = composed(Format::Text, true, odd);
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.len() == "2026-11-22T10:28:19.123456Z".len() && time.ends_with('Z'), "{time}");
        assert_eq!(
            rest,
            " WARN weft::access: connection plain=\"in a word\" odd=\"a \\\"b\\\" \\\\ \\n é\" name=shop/cart \
             bytes=18446744073709551615\n"
        );
        let json: serde_json::Value = serde_json::from_str(&composed(Format::Json, false, odd)).unwrap();
        assert_eq!((&json["level"], &json["target"]), (&"INFO".into(), &"weft::access".into()));
        assert_eq!((&json["odd"], &json["name"]), (&"a \"b\" \\ \n é".into(), &"shop/cart".into()));
        assert_eq!(json["bytes"], u64::MAX);
    }
}
