//! Connections that go to a pod of this node directly, from their SYN to their end: attested, counted and reported.
//!
//! What is noted of a socket goes with the socket. What attests it to the destination goes when the socket is closed,
//! whatever closed it, and not before: with syncookies the handshake's last ACK is looked up like a SYN.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_EXIST, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{
        bpf_get_socket_cookie, bpf_ktime_get_ns,
        generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    },
    programs::{SockAddrContext, SockOpsContext},
};
use weft_abi::{Address, Attested, Flow, FlowEnd, FlowRecord, FrontendKey, Port, Tuple, Verdict, state, traffic};

use crate::maps::{ATTESTED, FLOW_RECORDS, FLOWS, HELD, PODS, count, count_flow};

const AF_INET: u32 = 2;

/// Operations of the hook, and the flag that asks for the second.
const TCP_CONNECT: u32 = 3;
const STATE: u32 = 10;
const STATE_FLAG: u32 = 1 << 2;

/// How long an endpoint that did not answer is left to the proxy, which tries another one where this one fails.
const HOLD_NS: u64 = 30_000_000_000;

/// Records wait for their reader until so many bytes of them have come together, or until it looks by itself.
const WAKE_AT: u64 = 128 * 1024;

/// `bpf_ringbuf_query`: bytes not read yet; and what to tell a reader on submitting.
const RB_AVAIL_DATA: u64 = 0;
const RB_NO_WAKEUP: u64 = 1;
const RB_FORCE_WAKEUP: u64 = 2;

/// What a getpeername program returns, always.
const PROCEED: i32 = 1;

/// Notes something on the socket of a connect; false if the kernel has no room.
#[inline(always)]
pub(crate) fn note(context: &SockAddrContext, write: impl FnOnce(&mut Flow)) -> bool {
    // SAFETY: a connect hook always has a full socket.
    let socket = unsafe { (*context.sock_addr).__bindgen_anon_1.sk };
    let Some(flow) = storage(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) else { return false };
    write(flow);
    true
}

/// Takes the note off, if there is one: the socket goes elsewhere now.
#[inline(always)]
pub(crate) fn forget(context: &SockAddrContext) {
    // SAFETY: as above; the helper takes a socket and a map.
    unsafe { bpf_sk_storage_delete(map(), (*context.sock_addr).__bindgen_anon_1.sk.cast()) };
}

/// Answers getpeername with what the application dialled.
#[inline(always)]
pub(crate) fn tell_dialled(context: &SockAddrContext, write: impl Fn(&SockAddrContext, &Address)) -> i32 {
    // SAFETY: the hook always has a full socket.
    let socket = unsafe { (*context.sock_addr).__bindgen_anon_1.sk };
    if let Some(flow) = storage(socket, 0) {
        write(context, &flow.dialled);
        let port = Port::new(flow.dialled_port as u16).to_sock_addr_user_port();
        // SAFETY: the context is valid for the whole run of the program; the verifier checks the access.
        unsafe { ptr::write_volatile(&raw mut (*context.sock_addr).user_port, port) };
    }
    PROCEED
}

/// Follows the sockets that carry a note; of all others only the SYN comes by here.
#[inline(always)]
pub(crate) fn observe(context: &SockOpsContext) {
    match context.op() {
        TCP_CONNECT => open(context),
        STATE => step(context),
        _ => {}
    }
}

/// The SYN is about to be sent, and its source port is known.
#[inline(always)]
fn open(context: &SockOpsContext) {
    let Some(flow) = of(context) else { return };
    let tuple = tuple(context);
    if !tuple.destination.is(&flow.tuple.destination) || tuple.destination_port != flow.tuple.destination_port {
        return;
    }
    // SAFETY: user space replaces entries as a whole; the programs only read.
    let owned = unsafe { PODS.get(flow.source) }.is_some_and(|pod| pod.owns(&tuple.source));
    // Who may bind to any address (IP_TRANSPARENT) could otherwise take the place of another pod's connection.
    if !owned {
        return;
    }
    flow.tuple = tuple;
    flow.opened = now();
    let entry = Attested {
        source: flow.source,
        destination: flow.destination,
        // SAFETY: the helper takes the program's own context.
        socket: unsafe { bpf_get_socket_cookie(context.as_ptr()) },
        opened: flow.opened,
        established: 0,
        denied: 0,
    };
    // Without an entry the connection goes on as plaintext of nobody, and is met as such.
    if attest(tuple, entry) {
        let _ = context.set_cb_flags((context.cb_flags() | STATE_FLAG) as i32);
    }
}

/// Every entry is counted once: in the place of one whose end nobody saw, none is added.
#[inline(always)]
fn attest(tuple: Tuple, entry: Attested) -> bool {
    if ATTESTED.insert(tuple, entry, u64::from(BPF_NOEXIST)).is_ok() {
        count_flow(entry.source, 1);
        return true;
    }
    ATTESTED.insert(tuple, entry, u64::from(BPF_EXIST)).is_ok()
}

/// The state changes.
#[inline(always)]
fn step(context: &SockOpsContext) {
    let Some(flow) = of(context) else { return };
    let (old, new) = (context.arg(0), context.arg(1));
    let now = now();
    // SAFETY: the context is valid for the whole run of the program; the verifier checks the accesses.
    let (acked, received, srtt) =
        unsafe { ((*context.ops).bytes_acked, (*context.ops).bytes_received, (*context.ops).srtt_us) };
    flow.step(old, new, received, srtt, now);
    match new {
        state::ESTABLISHED => {
            if let Some(entry) = ATTESTED.get_ptr_mut(flow.tuple) {
                // SAFETY: one word of an entry that nobody else writes.
                unsafe { (*entry).established = now };
            }
            record(context, flow, FlowEnd::Opened, (0, 0), now);
        }
        state::CLOSE => {
            let denied = close(context, flow);
            let end = FlowEnd::of(old, denied);
            if end == FlowEnd::Refused {
                let endpoint = FrontendKey { address: flow.tuple.destination, port: flow.tuple.destination_port };
                let _ = HELD.insert(endpoint, now + HOLD_NS, u64::from(BPF_ANY));
            }
            record(context, flow, end, traffic(flow.flags, acked, received), now);
            let socket = socket(context);
            if !socket.is_null() {
                // SAFETY: the helper takes a socket and a map.
                unsafe { bpf_sk_storage_delete(map(), socket.cast()) };
            }
        }
        _ => {}
    }
}

/// Ends what attests the connection; yields whether policy had refused it.
#[inline(always)]
fn close(context: &SockOpsContext, flow: &Flow) -> bool {
    let Some(entry) = ATTESTED.get_ptr_mut(flow.tuple) else { return false };
    // SAFETY: the entry stays readable while the program runs; the helper takes the program's own context.
    let (entry, socket) = unsafe { (&*entry, bpf_get_socket_cookie(context.as_ptr())) };
    if entry.socket != socket {
        return false;
    }
    let denied = entry.denied != 0;
    let _ = ATTESTED.remove(flow.tuple);
    count_flow(flow.source, -1);
    denied
}

#[inline(always)]
fn record(context: &SockOpsContext, flow: &Flow, end: FlowEnd, bytes: (u64, u64), now: u64) {
    let Some(mut entry) = FLOW_RECORDS.reserve::<FlowRecord>(0) else { return count(Verdict::RecordLost) };
    entry.write(FlowRecord {
        end: end as u32,
        rtt_us: flow.srtt >> 3,
        source: flow.source,
        destination: flow.destination,
        // SAFETY: the helper takes the program's own context.
        socket: unsafe { bpf_get_socket_cookie(context.as_ptr()) },
        lasted: now.wrapping_sub(flow.opened),
        sent: bytes.0,
        received: bytes.1,
        tuple: flow.tuple,
        dialled: flow.dialled,
        dialled_port: flow.dialled_port,
        padding: 0,
    });
    let waiting = FLOW_RECORDS.query(RB_AVAIL_DATA);
    entry.submit(if waiting > WAKE_AT { RB_FORCE_WAKEUP } else { RB_NO_WAKEUP });
}

/// The note on the hook's socket.
#[inline(always)]
fn of(context: &SockOpsContext) -> Option<&'static mut Flow> {
    storage(socket(context), 0)
}

#[inline(always)]
fn socket(context: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the context is valid for the whole run of the program; the verifier rewrites the access.
    unsafe { (*context.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn storage(socket: *mut bpf_sock, flags: u64) -> Option<&'static mut Flow> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: the helper takes a socket and a map; what it returns is null or the socket's own value, which lives as long
    // as the program runs.
    unsafe { bpf_sk_storage_get(map(), socket.cast(), ptr::null_mut(), flags).cast::<Flow>().as_mut() }
}

/// The map as the helpers want it.
#[inline(always)]
fn map() -> *mut core::ffi::c_void {
    ptr::from_ref(&FLOWS).cast_mut().cast()
}

#[inline(always)]
fn tuple(context: &SockOpsContext) -> Tuple {
    let ops = context.ops;
    // SAFETY: the context is valid for the whole run of the program; the verifier checks each access.
    unsafe {
        let (source, destination) = if (*ops).family == AF_INET {
            (Address::from_v4_word((*ops).local_ip4), Address::from_v4_word((*ops).remote_ip4))
        } else {
            (Address::from_v6_words(words!((*ops).local_ip6)), Address::from_v6_words(words!((*ops).remote_ip6)))
        };
        Tuple {
            source,
            destination,
            source_port: u32::from(Port::from_sock_ops_local_port((*ops).local_port).number()),
            destination_port: u32::from(Port::from_sock_ops_remote_port((*ops).remote_port).number()),
        }
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: reads a clock.
    unsafe { bpf_ktime_get_ns() }
}
