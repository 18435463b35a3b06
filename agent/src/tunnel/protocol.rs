//! Which protocols a tunnel may speak inside TLS, in order of preference.

/// What a tunnel speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Between Weft agents: `docs/tunnel.md`.
    Weft,
    /// HTTP/2 CONNECT, with everyone else.
    Hbone,
}

impl Protocol {
    /// The word in logs, metrics and settings.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Weft => "weft/1",
            Self::Hbone => "hbone",
        }
    }

    /// Its name in the TLS handshake.
    pub(super) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Weft => b"weft/1",
            Self::Hbone => b"h2",
        }
    }
}

/// Which of them are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocols {
    /// Each with whoever knows it.
    #[default]
    Both,
    /// One only.
    Only(Protocol),
}

impl Protocols {
    /// What to offer, the preferred one first.
    pub(super) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Both => [Protocol::Weft, Protocol::Hbone].map(|protocol| protocol.alpn().to_vec()).into(),
            Self::Only(protocol) => vec![protocol.alpn().to_vec()],
        }
    }

    /// What was agreed on; a peer that offered nothing speaks HBONE.
    pub(super) fn agreed(self, alpn: Option<&[u8]>) -> Option<Protocol> {
        let agreed = match alpn {
            Some(name) => [Protocol::Weft, Protocol::Hbone].into_iter().find(|protocol| protocol.alpn() == name)?,
            None => Protocol::Hbone,
        };
        (self == Self::Both || self == Self::Only(agreed)).then_some(agreed)
    }
}
