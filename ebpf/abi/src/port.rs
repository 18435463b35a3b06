//! Ports, and the byte orders the hooks serve them in.
//!
//! Each context field has an order and a place of its own; mixing them up makes nothing match and nothing fail. A port
//! can only be made by naming the field it came from.

/// A TCP port in host order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(u16);

impl Port {
    /// An ordinary number, as user space writes it.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port)
    }

    /// `bpf_sock_addr.user_port`: network order in the first two bytes of the word.
    #[inline(always)]
    pub const fn from_sock_addr_user_port(word: u32) -> Self {
        let [a, b, _, _] = word.to_ne_bytes();
        Self(u16::from_be_bytes([a, b]))
    }

    /// `bpf_sk_lookup.remote_port`: a `__be16`.
    #[inline(always)]
    pub const fn from_sk_lookup_remote_port(network: u16) -> Self {
        Self(u16::from_be(network))
    }

    /// `bpf_sk_lookup.local_port`: host order in a word.
    #[inline(always)]
    pub const fn from_sk_lookup_local_port(word: u32) -> Self {
        Self(word as u16)
    }

    /// `bpf_sock_ops.remote_port`: network order in the upper half of the word.
    #[inline(always)]
    pub const fn from_sock_ops_remote_port(word: u32) -> Self {
        let [_, _, a, b] = word.to_ne_bytes();
        Self(u16::from_be_bytes([a, b]))
    }

    /// `bpf_sock_ops.local_port`: host order in a word.
    #[inline(always)]
    pub const fn from_sock_ops_local_port(word: u32) -> Self {
        Self(word as u16)
    }

    /// The word to be written to `bpf_sock_addr.user_port`.
    #[inline(always)]
    pub const fn to_sock_addr_user_port(self) -> u32 {
        let [a, b] = self.0.to_be_bytes();
        u32::from_ne_bytes([a, b, 0, 0])
    }

    /// The number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_field_yields_the_port_that_was_put_on_the_wire(port: u16) {
            let wire = port.to_be_bytes();
            let word = u32::from_ne_bytes([wire[0], wire[1], 0, 0]);
            prop_assert_eq!(Port::from_sock_addr_user_port(word), Port::new(port));
            prop_assert_eq!(Port::from_sk_lookup_remote_port(u16::from_ne_bytes(wire)), Port::new(port));
            prop_assert_eq!(Port::from_sk_lookup_local_port(u32::from(port)), Port::new(port));
            prop_assert_eq!(Port::from_sock_addr_user_port(Port::new(port).to_sock_addr_user_port()), Port::new(port));
            let upper = u32::from_ne_bytes([0, 0, wire[0], wire[1]]);
            prop_assert_eq!(Port::from_sock_ops_remote_port(upper), Port::new(port));
            prop_assert_eq!(Port::from_sock_ops_local_port(u32::from(port)), Port::new(port));
            prop_assert_eq!(Port::new(port).number(), port);
        }
    }
}
