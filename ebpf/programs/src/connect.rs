//! The connect hook: does the mesh take this connection? What is for the agent keeps its destination, and the mark is all
//! that is set; what goes to a pod of this node directly gets that pod's address, and the getpeername hook answers with
//! what the application dialled.

use core::{cell::Cell, ptr};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_set_retval,
        bpf_setsockopt,
    },
    programs::SockAddrContext,
};
use weft_abi::{
    Address, Choice, Effect, EventKind, Frontend, FrontendKey, Marks, PodEntry, Port, TUNNEL_PORT, Verdict, capacity,
    decide::{self, ConnectFacts, Draw},
};

use crate::{
    flow, log,
    maps::{AGENTS, DESTINATIONS, FRONTENDS, HELD, PODS, config, count, flows_of},
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
pub(crate) fn judge(
    context: &SockAddrContext,
    destination: Address,
    redirect: impl Fn(&SockAddrContext, &Address),
) -> i32 {
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_netns_cookie(context.as_ptr()) };
    let call = Call {
        context,
        destination,
        // SAFETY: user space replaces entries as a whole; the programs only read.
        pod: unsafe { PODS.get(cookie) },
        choice: Cell::new(Choice::default()),
    };
    let verdict = match decide::connect(&call) {
        // Without a note of what was dialled the application could not be told the truth.
        Verdict::ConnectSameNode if !call.note(cookie) => Verdict::Steer,
        verdict => verdict,
    };
    let verdict = if call.remark(verdict) { verdict } else { Verdict::RefuseMarkFailed };
    if verdict == Verdict::ConnectSameNode {
        let choice = call.choice.get();
        redirect(context, &choice.address);
        // SAFETY: the context is valid for the whole run of the program; the verifier checks the access.
        unsafe {
            let port = Port::new(choice.port as u16).to_sock_addr_user_port();
            ptr::write_volatile(&raw mut (*context.sock_addr).user_port, port);
        }
    } else if call.pod.is_some_and(|pod| pod.flags != 0) {
        flow::forget(context);
    }
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
    /// Whom the draw fell on, if it was made and fell on somebody here.
    choice: Cell<Choice>,
}

impl Call<'_> {
    /// Notes on the socket where it goes; false if the kernel has no room.
    #[inline(always)]
    fn note(&self, cookie: u64) -> bool {
        let choice = self.choice.get();
        flow::note(self.context, |flow| {
            flow.tuple.source = Address::UNSPECIFIED;
            flow.tuple.source_port = 0;
            flow.tuple.destination = choice.address;
            flow.tuple.destination_port = choice.port;
            flow.dialled = self.destination;
            flow.dialled_port = u32::from(self.port().number());
            flow.source = cookie;
            flow.destination = choice.cookie;
            flow.flags = 0;
            flow.established = 0;
            flow.received = 0;
            flow.srtt = 0;
        })
    }

    /// The frontend of what was dialled: a service's port, or else a pod.
    #[inline(always)]
    fn frontend(&self) -> Option<*mut Frontend> {
        let port = self.port().number();
        if port == TUNNEL_PORT {
            return None;
        }
        let mut key = FrontendKey { address: self.destination, port: u32::from(port) };
        if let Some(found) = FRONTENDS.get_ptr_mut(key) {
            return Some(found);
        }
        key.port = 0;
        FRONTENDS.get_ptr_mut(key)
    }

    /// Whether there is room for one more attested connection of the pod.
    #[inline(always)]
    fn has_room(&self) -> bool {
        // SAFETY: the helper takes the program's own context.
        let cookie = unsafe { bpf_get_netns_cookie(self.context.as_ptr()) };
        flows_of(cookie) < capacity::ATTESTED_PER_POD && flows_of(0) < capacity::ATTESTED_IN_ALL
    }

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
            Effect::SteerRest => Marks::drawn(self.mark()),
            Effect::PassUnmarked | Effect::Direct => match Marks::cleared(self.mark()) {
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

    #[inline(always)]
    fn draw(&self) -> Draw {
        // SAFETY: the context is valid for the whole run of the program.
        let plain = unsafe { (*self.context.sock_addr).protocol } == IPPROTO_TCP;
        // The subflows of MPTCP are sockets of their own, on which nothing is noted.
        if !plain || config().same_node == 0 || !self.pod.is_some_and(PodEntry::is_direct) {
            return Draw::Unmade;
        }
        let Some(frontend) = self.frontend() else { return Draw::Unmade };
        // SAFETY: entries are replaced as a whole by user space; of the turn, which programs on several CPUs count, one
        // may be given twice.
        let frontend = unsafe { &mut *frontend };
        if frontend.count == 0 || !self.has_room() {
            return Draw::Unmade;
        }
        let number = if frontend.in_turns != 0 {
            frontend.turn = frontend.turn.wrapping_add(1);
            Frontend::turn(frontend.turn)
        } else {
            // SAFETY: the helper takes nothing.
            unsafe { bpf_get_prandom_u32() }
        };
        let Some(choice) = frontend.draw(number) else { return Draw::Elsewhere };
        let mut choice = *choice;
        if choice.port == 0 {
            choice.port = u32::from(self.port().number());
        }
        let endpoint = FrontendKey { address: choice.address, port: choice.port };
        // SAFETY: the value is one word.
        let until = unsafe { HELD.get(endpoint) };
        // SAFETY: reads a clock.
        if until.is_some_and(|until| unsafe { bpf_ktime_get_ns() } < *until) {
            return Draw::Unmade;
        }
        self.choice.set(choice);
        Draw::Here
    }
}
