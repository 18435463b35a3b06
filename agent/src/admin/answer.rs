//! Answers as they are written: a cluster's pods are told one at a time, so that neither a list of them nor its text, some
//! 17 MB of 50,000 pods, is ever in memory as a whole.

use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::{Body, Frame};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use tokio::sync::mpsc;

/// Bytes of an answer that are written at once.
const CHUNK: usize = 32 * 1024;
/// Chunks that may wait for who asked.
const WAITING: usize = 2;

/// What may be many, each made when it is its turn.
pub struct Listing<T>(Box<Each<T>>);

/// Hands over one after another, as long as more are taken.
type Each<T> = dyn Fn(&mut dyn FnMut(T) -> bool) + Send;

impl<T> Listing<T> {
    /// `each` hands over one after another, as long as more are taken.
    pub fn new(each: impl Fn(&mut dyn FnMut(T) -> bool) + Send + 'static) -> Self {
        Self(Box::new(each))
    }
}

impl<T> fmt::Debug for Listing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listing")
    }
}

impl<T> From<Vec<T>> for Listing<T>
where
    T: Clone + Send + 'static,
{
    fn from(all: Vec<T>) -> Self {
        Self::new(move |take| _ = all.iter().all(|one| take(one.clone())))
    }
}

impl<T: Serialize> Serialize for Listing<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut written = Ok(());
        (self.0)(&mut |one| {
            written = list.serialize_element(&one);
            written.is_ok()
        });
        written?;
        list.end()
    }
}

/// An answer's body, as it is written.
#[derive(Debug)]
pub(super) struct Text(mpsc::Receiver<io::Result<Bytes>>);

impl Body for Text {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

/// Answers with `value` as JSON.
pub(super) fn json(status: StatusCode, value: impl Serialize + Send + 'static) -> Response<Text> {
    let (send, chunks) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let mut chunker = io::BufWriter::with_capacity(CHUNK, Chunker(send.clone()));
        let written = serde_json::to_writer(&mut chunker, &value).map_err(io::Error::from);
        if let Err(error) = written.and_then(|()| chunker.flush()) {
            // The answer is cut off rather than taken for whole; whoever asked may have hung up.
            let _ = send.blocking_send(Err(error));
        }
    });
    let mut response = Response::new(Text(chunks));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Sends what is written to it.
struct Chunker(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
