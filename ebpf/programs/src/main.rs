//! The eBPF programs, in the order of a connection's journey: [`connect`] when an application dials, [`flow`] while its
//! socket lives, [`guard`] where its packets leave the pod, [`lookup`] when the SYN arrives. They gather facts and carry out verdicts; what the verdict is, `weft_abi::decide` says.
//!
//! They keep steering with no agent alive, so nothing here may depend on one: every map is pinned, every failure has
//! a verdict, and a connection the mesh owns is refused rather than let out when something is missing.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

/// Reads four words of a context one by one: copied as a whole, they are reached through a pointer into the context's
/// middle, which the verifier forbids.
macro_rules! words {
    ($field:expr) => {
        [
            core::ptr::read_volatile(&raw const $field[0]),
            core::ptr::read_volatile(&raw const $field[1]),
            core::ptr::read_volatile(&raw const $field[2]),
            core::ptr::read_volatile(&raw const $field[3]),
        ]
    };
}

mod connect;
mod flow;
mod guard;
mod log;
mod lookup;
mod maps;
mod report;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier, sk_lookup, sock_ops},
    programs::{SkLookupContext, SockAddrContext, SockOpsContext, TcContext},
};
use weft_abi::Address;

/// An application dials an IPv4 address.
#[cgroup_sock_addr(connect4)]
fn weft_connect4(context: SockAddrContext) -> i32 {
    // SAFETY: the context is valid for the whole run of the program; the verifier checks the access.
    let word = unsafe { (*context.sock_addr).user_ip4 };
    connect::judge(&context, Address::from_v4_word(word), write_v4)
}

/// An application dials an IPv6 address, or an IPv4 one from an IPv6 socket.
#[cgroup_sock_addr(connect6)]
fn weft_connect6(context: SockAddrContext) -> i32 {
    // SAFETY: as above.
    let words = unsafe { words!((*context.sock_addr).user_ip6) };
    connect::judge(&context, Address::from_v6_words(words), write_v6)
}

/// An application asks who an IPv4 socket of its own is connected to.
#[cgroup_sock_addr(getpeername4)]
fn weft_peername4(context: SockAddrContext) -> i32 {
    flow::tell_dialled(&context, write_v4)
}

/// The same of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
fn weft_peername6(context: SockAddrContext) -> i32 {
    flow::tell_dialled(&context, write_v6)
}

/// The context's address becomes this one.
#[inline(always)]
fn write_v4(context: &SockAddrContext, address: &Address) {
    // SAFETY: the context is valid for the whole run of the program; the verifier checks the access.
    unsafe { core::ptr::write_volatile(&raw mut (*context.sock_addr).user_ip4, address.words()[3]) };
}

/// The context's address becomes this one.
#[inline(always)]
fn write_v6(context: &SockAddrContext, address: &Address) {
    let [a, b, c, d] = address.words();
    // SAFETY: as above; one word at a time, as the verifier asks.
    unsafe {
        core::ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[0], a);
        core::ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[1], b);
        core::ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[2], c);
        core::ptr::write_volatile(&raw mut (*context.sock_addr).user_ip6[3], d);
    }
}

/// A socket sends its SYN, or changes its state.
#[sock_ops]
fn weft_flow(context: SockOpsContext) -> u32 {
    flow::observe(&context);
    1
}

/// A packet has left a pod and reaches the node. One instance for all links.
#[classifier]
fn weft_guard(context: TcContext) -> i32 {
    guard::judge(&context)
}

/// A SYN arrives in a pod's namespace. One instance per pod.
#[sk_lookup]
fn weft_lookup(context: SkLookupContext) -> u32 {
    lookup::judge(context)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier proves this unreachable, or the program does not load.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
