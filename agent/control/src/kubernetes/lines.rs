//! Bodies of answers, whole or line by line as they come.

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;

use super::end::End;

/// The longest line or page that is read. etcd's objects are at most 1.5 MiB.
const LONGEST: usize = 64 << 20;

/// All of a body.
pub(super) async fn collect(body: Body) -> Result<Vec<u8>, End> {
    let mut bytes = Vec::new();
    let mut body = body;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > LONGEST {
            return Err(End::Failed("the API server's answer is too long".into()));
        }
    }
    Ok(bytes)
}

/// The lines of a body as they come.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// No line ends before here.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line without its end; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, End> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST {
                return Err(End::Failed("the API server sent a line that does not end".into()));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split()));
                }
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}
