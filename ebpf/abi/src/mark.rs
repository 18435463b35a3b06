//! The bits of a socket's mark.

/// The bits of a socket's mark that the mesh owns, clear of those of kube-proxy (0x4000, 0x8000), Cilium (0xf00),
/// Calico (upper half), Istio (0x539) and Tailscale (0x40000, 0x80000).
pub struct Marks;

impl Marks {
    /// All bits the mesh may set.
    pub const MASK: u32 = 0x3000;
    /// The socket's packets stay in the pod's namespace and reach the agent.
    pub const STEERED: u32 = 0x1000;
    /// Beside [`Self::STEERED`]: the kernel has drawn among all endpoints and the draw fell on none of those it sends to
    /// directly. Only those it fell on are left to choose from, or the others would get a share twice.
    pub const DRAWN: u32 = 0x2000;

    /// The mark of a steered socket; the application's own bits stay.
    #[inline(always)]
    pub const fn steered(mark: u32) -> u32 {
        mark & !Self::MASK | Self::STEERED
    }

    /// The mark of a steered socket whose draw is made.
    #[inline(always)]
    pub const fn drawn(mark: u32) -> u32 {
        mark & !Self::MASK | Self::STEERED | Self::DRAWN
    }

    /// Whether a steered socket's draw is made.
    pub const fn is_drawn(mark: u32) -> bool {
        mark & Self::MASK == Self::STEERED | Self::DRAWN
    }

    /// The mark without the mesh's bits, if it has any.
    #[inline(always)]
    pub const fn cleared(mark: u32) -> Option<u32> {
        if mark & Self::MASK == 0 {
            return None;
        }
        Some(mark & !Self::MASK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_applications_bits_of_a_mark_are_never_touched(mark: u32) {
            let foreign = mark & !Marks::MASK;
            prop_assert_eq!(Marks::steered(mark) & !Marks::MASK, foreign);
            prop_assert_eq!(Marks::steered(mark) & Marks::MASK, Marks::STEERED);
            prop_assert_eq!(Marks::cleared(Marks::steered(mark)), Some(foreign));
            prop_assert_eq!(Marks::cleared(Marks::drawn(mark)), Some(foreign));
            prop_assert_eq!(Marks::drawn(mark) & Marks::STEERED, Marks::STEERED);
            prop_assert!(Marks::is_drawn(Marks::drawn(mark)) && !Marks::is_drawn(Marks::steered(mark)));
            prop_assert!(!Marks::is_drawn(foreign));
            prop_assert_eq!(Marks::cleared(foreign), None);
        }
    }

    #[test]
    fn the_mark_keeps_clear_of_its_neighbours() {
        for neighbour in [0x4000, 0x8000, 0xf00, 0xffff_0000, 0x539, 0xc0000] {
            assert_eq!(Marks::MASK & neighbour, 0, "{neighbour:#x}");
        }
    }
}
