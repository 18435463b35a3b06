//! The connect hook: does the mesh take this connection? Never rewrites the destination; the mark is all it sets.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_set_retval, bpf_setsockopt},
    programs::SockAddrContext,
};
use weft_abi::{
    Address, Effect, EventKind, Marks, PodEntry, Port, Verdict,
    decide::{self, ConnectFacts},
};

use crate::{
    log,
    maps::{AGENTS, DESTINATIONS, PODS, config, count},
    report::{self, Subject},
};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// What a connect program returns to let the call go on, and to fail it.
const PROCEED: i32 = 1;
const FAIL: i32 = 0;

/// Gathers the facts of a connect, has it judged, and does what the verdict says.
#[inline(always)]
pub(crate) fn judge(context: &SockAddrContext, destination: Address) -> i32 {
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_netns_cookie(context.as_ptr()) };
    let call = Call {
        context,
        destination,
        // SAFETY: user space replaces entries as a whole; the programs only read.
        pod: unsafe { PODS.get(cookie) },
    };
    let verdict = match decide::connect(&call) {
        verdict if call.remark(verdict) => verdict,
        _ => Verdict::RefuseMarkFailed,
    };
    count(verdict);
    let subject = Subject { cookie, destination: &call.destination, port: call.port() };
    match verdict {
        Verdict::ConnectUnclassified => report::caller(EventKind::Unclassified, &subject),
        Verdict::RefuseUnclassified => report::caller(EventKind::UnclassifiedRefused, &subject),
        _ => {}
    }
    log::connect!(context, verdict, cookie, call.destination, call.port());
    match verdict.effect() {
        Effect::Refuse(refusal) => {
            // SAFETY: sets the errno this call returns; the helper cannot fail for a negative errno.
            unsafe { bpf_set_retval(-(refusal as i32)) };
            FAIL
        }
        _ => PROCEED,
    }
}

/// A connect call; its facts are read when asked for.
struct Call<'a> {
    context: &'a SockAddrContext,
    destination: Address,
    pod: Option<&'a PodEntry>,
}

impl Call<'_> {
    #[inline(always)]
    fn port(&self) -> Port {
        // SAFETY: the context is valid for the whole run of the program.
        Port::from_sock_addr_user_port(unsafe { (*self.context.sock_addr).user_port })
    }

    /// Brings the socket's mark in line with the verdict; false if the kernel refused.
    #[inline(always)]
    fn remark(&self, verdict: Verdict) -> bool {
        let mark = match verdict.effect() {
            Effect::Steer => Marks::steered(self.mark()),
            Effect::PassUnmarked => match Marks::cleared(self.mark()) {
                Some(mark) => mark,
                None => return true,
            },
            _ => return true,
        };
        // SAFETY: the option's value is four bytes on this stack frame and the kernel copies it.
        let failed = unsafe {
            bpf_setsockopt(
                self.context.as_ptr(),
                SOL_SOCKET,
                SO_MARK,
                ptr::from_ref(&mark).cast_mut().cast(),
                size_of::<u32>() as i32,
            )
        };
        failed == 0
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: a connect hook always has a full socket, and the verifier rewrites the access.
        unsafe { (*(*self.context.sock_addr).__bindgen_anon_1.sk).mark }
    }
}

impl ConnectFacts for Call<'_> {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        // SAFETY: the context is valid for the whole run of the program.
        let (kind, protocol) = unsafe { ((*self.context.sock_addr).type_, (*self.context.sock_addr).protocol) };
        kind == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
    }

    #[inline(always)]
    fn pod(&self) -> Option<&PodEntry> {
        self.pod
    }

    #[inline(always)]
    fn destination(&self) -> &Address {
        &self.destination
    }

    #[inline(always)]
    fn is_agent(&self) -> bool {
        // SAFETY: the helper reads the current task, which is the caller of connect; the map's value is not read.
        unsafe { AGENTS.get(bpf_get_current_cgroup_id()).is_some() }
    }

    #[inline(always)]
    fn is_mesh_destination(&self) -> bool {
        // SAFETY: only the entry's existence is looked at.
        let known = unsafe { DESTINATIONS.get(self.destination.words()) }.is_some();
        known || config().capture_all != 0
    }

    #[inline(always)]
    fn bound_device(&self) -> u32 {
        // SAFETY: as in `mark`.
        unsafe { (*(*self.context.sock_addr).__bindgen_anon_1.sk).bound_dev_if }
    }

    #[inline(always)]
    fn holds_unclassified(&self) -> bool {
        // SAFETY: reads a clock.
        config().holds_unclassified(unsafe { bpf_ktime_get_ns() })
    }
}
