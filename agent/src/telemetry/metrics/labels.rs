//! What the series of one metric are told apart by.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// Which side of a tunnel this node is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TunnelDirection {
    /// It opened the tunnel.
    Outbound,
    /// It accepted it.
    Inbound,
}

impl EncodeLabelValue for TunnelDirection {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), fmt::Error> {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
        .encode(encoder)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct TunnelLabels {
    pub(super) direction: TunnelDirection,
    pub(super) tunnel_protocol: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct TunnelEnd {
    pub(super) direction: TunnelDirection,
    pub(super) tunnel_protocol: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct DirectionReason {
    pub(super) direction: TunnelDirection,
    pub(super) reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct Reason {
    pub(super) reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ResultLabel {
    pub(super) result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct IdentityLabel {
    pub(super) identity: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct SeverityLabel {
    pub(super) severity: &'static str,
}
