//! The lines of HTTP/1 messages, each by itself: what it says, or why it cannot be read.

use super::Unreadable;

/// What a request line says of what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// A tunnel is asked for.
    pub(super) connects: bool,
    /// HTTP/1.0.
    pub(super) old: bool,
}

/// `METHOD target HTTP/1.1`.
pub(super) fn request(line: &[u8]) -> Result<Request, Unreadable> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(uri), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Unreadable::Request);
    };
    if !is_token(method) {
        return Err(Unreadable::Request);
    }
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            return Err(Unreadable::Version);
        }
        _ => return Err(Unreadable::Request),
    };
    if !is_target(uri) {
        return Err(Unreadable::Target);
    }
    Ok(Request { connects: method == b"CONNECT", old })
}

/// What nearly all targets are is known by its letters; the others are read as hyper reads them.
fn is_target(uri: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~/?:@!$&'()*+,;=%".contains(byte);
    (uri.first() == Some(&b'/') && uri.len() < usize::from(u16::MAX) - 1 && uri.iter().all(plain))
        || (uri.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
            && std::str::from_utf8(uri).is_ok_and(|uri| http::Uri::try_from(uri).is_ok()))
}

/// A field's name and value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Unreadable> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Unreadable::Folded);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Unreadable::Name)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Unreadable::Name);
    }
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if value.iter().all(is_text) { Ok((name, value.trim_ascii())) } else { Err(Unreadable::Value) }
}

/// Whether an Upgrade field's value asks for a protocol that is carried: HTTP/2 is not.
pub(in crate::http) fn switches(value: &[u8]) -> bool {
    !value.split(|byte| *byte == b',').any(|name| name.trim_ascii().to_ascii_lowercase().starts_with(b"h2"))
}

/// A chunk's size, and the length of what stands behind it; what it says there is nobody's concern.
pub(super) fn chunk(line: &[u8]) -> Result<(u64, usize), Unreadable> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let extensions = line.len() - digits.len();
    // Spaces and tabs, and not what else passes for white space (RFC 9112, 7.1.1 and RFC 9110, 5.6.3).
    let blank = digits.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let digits = &digits[..digits.len() - blank];
    // More digits than a size has are a trap for who counts them.
    number(digits, 16).filter(|_| digits.len() < 16).map(|size| (size, extensions)).ok_or(Unreadable::Chunk)
}

/// A body's length; what no disk holds is not one hyper counts to.
pub(super) fn length(value: &[u8]) -> Result<u64, Unreadable> {
    number(value, 10).filter(|length| i64::try_from(*length).is_ok()).ok_or(Unreadable::Length)
}

/// Digits and nothing else: no sign, no space.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    plain.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

/// RFC 9110, 5.6.2.
fn is_token(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
