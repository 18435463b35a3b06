//! The lookup hook: whose is this SYN? Hands what belongs to the agent to a listener that the agent opened inside this
//! very namespace, and leaves the rest to the kernel's own lookup. Established connections never come here.

use aya_ebpf::{Global, helpers::bpf_ktime_get_ns, programs::SkLookupContext};
use weft_abi::{
    Address, Effect, EventKind, ListenerKey, ListenerRole, PodIdentity, Port, PortKey, PortMode, Slot, Tuple, Verdict,
    decide::{self, LookupFacts},
};

use crate::{
    log,
    maps::{ADMITS, ATTESTED, INBOUND_MODES, LISTENERS, NODE_ADDRESSES, PODS, count},
    report::{self, Subject},
};

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// Patched by the loader: the pod this instance serves.
#[unsafe(no_mangle)]
static WEFT_POD: Global<PodIdentity> = Global::new(PodIdentity { cookie: 0, own: [Address::UNSPECIFIED; 2] });

/// Gathers the facts of a SYN, has it judged, and does what the verdict says.
#[inline(always)]
pub(crate) fn judge(context: SkLookupContext) -> u32 {
    let syn = Syn::read(&context);
    let verdict = decide::lookup(&syn);
    let verdict = match verdict.effect() {
        Effect::Assign(role) if !syn.assign(&context, role) => Verdict::DropNoListener,
        _ => verdict,
    };
    count(verdict);
    if verdict == Verdict::DropNoListener {
        let subject = Subject { cookie: syn.pod.cookie, destination: &syn.destination, port: syn.port };
        report::packet(EventKind::ListenerMissing, &subject);
    }
    log::lookup!(&context, verdict, syn);
    match verdict.effect() {
        Effect::Drop => SK_DROP,
        _ => SK_PASS,
    }
}

/// A SYN as the hook describes it.
struct Syn {
    tcp: bool,
    pod: PodIdentity,
    source: Address,
    source_port: Port,
    destination: Address,
    port: Port,
    device: u32,
}

impl Syn {
    #[inline(always)]
    fn read(context: &SkLookupContext) -> Self {
        let lookup = context.lookup;
        // SAFETY: the context is valid for the whole run of the program; the verifier checks each access.
        unsafe {
            let (source, destination) = if (*lookup).family == AF_INET {
                (Address::from_v4_word((*lookup).remote_ip4), Address::from_v4_word((*lookup).local_ip4))
            } else {
                (
                    Address::from_v6_words(words!((*lookup).remote_ip6)),
                    Address::from_v6_words(words!((*lookup).local_ip6)),
                )
            };
            Self {
                tcp: (*lookup).protocol == IPPROTO_TCP,
                pod: WEFT_POD.load(),
                source,
                source_port: Port::from_sk_lookup_remote_port((*lookup).remote_port),
                destination,
                port: Port::from_sk_lookup_local_port((*lookup).local_port),
                device: (*lookup).ingress_ifindex,
            }
        }
    }

    /// Gives the SYN to the pod's listener; false if the slot is empty or its socket cannot take it.
    #[inline(always)]
    fn assign(&self, context: &SkLookupContext, role: ListenerRole) -> bool {
        let key = ListenerKey { cookie: self.pod.cookie, role: role as u64 };
        // The map helper borrows a context of its own; it is one pointer.
        LISTENERS.redirect_sk_lookup(SkLookupContext::new(context.lookup), key, 0).is_ok()
    }

    #[inline(always)]
    fn mode_entry(&self, port: u16) -> Option<u32> {
        let key = PortKey { cookie: self.pod.cookie, port: u64::from(port) };
        // SAFETY: the value is one word, replaced as a whole.
        unsafe { INBOUND_MODES.get(key) }.copied()
    }
}

impl LookupFacts for Syn {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.tcp
    }

    #[inline(always)]
    fn pod(&self) -> &PodIdentity {
        &self.pod
    }

    #[inline(always)]
    fn source(&self) -> &Address {
        &self.source
    }

    #[inline(always)]
    fn destination(&self) -> &Address {
        &self.destination
    }

    #[inline(always)]
    fn port(&self) -> Port {
        self.port
    }

    #[inline(always)]
    fn ingress_device(&self) -> u32 {
        self.device
    }

    #[inline(always)]
    fn admits_attested(&self) -> Option<bool> {
        let tuple = Tuple {
            source: self.source,
            destination: self.destination,
            source_port: u32::from(self.source_port.number()),
            destination_port: u32::from(self.port.number()),
        };
        let entry = ATTESTED.get_ptr_mut(tuple)?;
        // SAFETY: the entry stays readable while the program runs, even if its socket ends meanwhile.
        let entry = unsafe { &mut *entry };
        // SAFETY: user space replaces entries as a whole; the programs only read.
        let source = unsafe { PODS.get(entry.source) }?;
        // SAFETY: reads a clock.
        if !entry.proves(self.pod.cookie, source, &self.source, unsafe { bpf_ktime_get_ns() }) {
            return None;
        }
        let slot = Slot::new(source.slot, &self.source);
        // SAFETY: as for pods.
        let admits = decide::admits(|key| unsafe { ADMITS.get(key) }, self.pod.cookie, self.port, slot);
        if !admits {
            entry.denied = 1;
        }
        Some(admits)
    }

    #[inline(always)]
    fn mode(&self, port: Port) -> PortMode {
        let raw = match self.mode_entry(port.number()) {
            Some(raw) => Some(raw),
            None => self.mode_entry(0),
        };
        raw.map_or(PortMode::Judge, PortMode::from_word)
    }

    #[inline(always)]
    fn is_probe(&self, port: Port) -> bool {
        let probed = self.mode_entry(port.number()).is_some_and(PortMode::is_probed);
        // SAFETY: the value is one word, replaced as a whole.
        probed && unsafe { NODE_ADDRESSES.get(self.source.words()) }.is_some()
    }
}
