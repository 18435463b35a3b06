//! The compiled programs: loading them onto the pinned maps, and putting them into links old and new.

use std::{fs::File, io, os::fd::AsFd, path::Path, sync::LazyLock};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, ProgramFd, SkLookup, SockOps, links::FdLink},
};
use weft_abi::{PodIdentity, map, program};

use super::{SteerError, pins, pins::Pins};
use crate::sys::{NetNs, bpf, cgroup, loader};

/// The object, as the build script found it.
#[cfg(weft_programs)]
fn bytes() -> Result<&'static [u8], SteerError> {
    Ok(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft-programs")))
}

/// The build script found none.
#[cfg(not(weft_programs))]
fn bytes() -> Result<&'static [u8], SteerError> {
    Err(SteerError::NoPrograms)
}

/// aya-log's levels: 0 is off, 5 is trace.
static LEVELS: [u8; 6] = [0, 1, 2, 3, 4, 5];
/// The pod of programs that are no pod's.
static NOBODY: LazyLock<PodIdentity> = LazyLock::new(PodIdentity::default);

/// The connect hooks: their pins and their names.
const CONNECT_HOOKS: [(&str, &str); 2] = [("connect4", program::CONNECT4), ("connect6", program::CONNECT6)];
/// What tells an application whom it dialled, where the connect hooks wrote another address.
const PEERNAME_HOOKS: [(&str, &str); 2] = [("peername4", program::PEERNAME4), ("peername6", program::PEERNAME6)];
/// What follows a connection past the proxy: its pin.
const FLOW: &str = "flow";

/// Attaches a program by the method named, and yields the link, to be pinned.
macro_rules! link {
    ($program:expr, $attach:ident($($argument:expr),+)) => {{
        let id = $program.$attach($($argument),+).map_err(SteerError::load)?;
        FdLink::try_from($program.take_link(id).map_err(SteerError::load)?).map_err(SteerError::load)
    }};
}

/// Loads programs on demand, each load a fresh instance over the same maps.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) pins: Pins,
    /// How many destinations the map holds, where it is made anew.
    pub(super) destinations: u32,
}

impl Programs {
    /// Opens the maps, making those that are not pinned yet.
    pub(super) fn maps(&self) -> Result<Ebpf, SteerError> {
        self.load(0, PodIdentity::default())
    }

    /// Parses the object, with maps and constants in place; no program is in the kernel yet.
    pub(super) fn load(&self, log_level: u8, pod: PodIdentity) -> Result<Ebpf, SteerError> {
        let level = LEVELS.get(usize::from(log_level)).unwrap_or(&0);
        let load = loader::Load {
            object: bytes()?,
            pins: map::SHARED.iter().map(|name| (*name, self.pins.map(name))).collect(),
            sizes: vec![(map::DESTINATIONS, self.destinations)],
            fixed: (aya_log::LEVEL, level),
            own: (program::POD, pod),
            none: &NOBODY,
        };
        load.run().map_err(SteerError::load)
    }

    /// Runs the connect hooks for everything below a cgroup. Where a predecessor's run already, they are exchanged
    /// without a gap, and so is what follows connections past the proxy, if that runs.
    pub(super) fn install_connect(&self, directory: &Path, log_level: u8) -> Result<(), SteerError> {
        if self.follows()? {
            self.install_flow(directory)?;
        }
        let id = cgroup::id(directory).map_err(SteerError::file("look at", directory))?;
        let mut ebpf = self.load(log_level, PodIdentity::default())?;
        for hook in CONNECT_HOOKS {
            self.install_address(&mut ebpf, directory, id, hook)?;
        }
        // A predecessor attached elsewhere: its hooks go once ours run.
        let all = || CONNECT_HOOKS.iter().chain(&PEERNAME_HOOKS).map(|(pin, _)| *pin).chain([FLOW]);
        self.pins.remove_links(|name| {
            name.split_once('-').is_some_and(|(hook, of)| all().any(|pin| pin == hook) && of != id.to_string())
        })
    }

    /// Runs what follows connections past the proxy. To be there before the connect hooks send any that way: a connect
    /// that is rewritten must be attested.
    pub(super) fn install_flow(&self, directory: &Path) -> Result<(), SteerError> {
        let id = cgroup::id(directory).map_err(SteerError::file("look at", directory))?;
        let mut ebpf = self.load(0, PodIdentity::default())?;
        for hook in PEERNAME_HOOKS {
            self.install_address(&mut ebpf, directory, id, hook)?;
        }
        let hook: &mut SockOps = find(&mut ebpf, program::FLOW)?;
        hook.load().map_err(SteerError::load)?;
        run(&self.pins.of_cgroup(FLOW, id), &fd(hook.fd())?, || {
            link!(hook, attach(open(directory)?, CgroupAttachMode::Single))
        })
    }

    /// Takes off what follows connections past the proxy.
    pub(super) fn remove_flow(&self) -> Result<(), SteerError> {
        self.pins.remove_links(follows)
    }

    /// Whether connections past the proxy are followed, by this agent's programs or a predecessor's.
    pub(super) fn follows(&self) -> Result<bool, SteerError> {
        self.pins.has_link(follows)
    }

    fn install_address(
        &self,
        ebpf: &mut Ebpf,
        directory: &Path,
        id: u64,
        (pin, name): (&str, &'static str),
    ) -> Result<(), SteerError> {
        let hook: &mut CgroupSockAddr = find(ebpf, name)?;
        hook.load().map_err(SteerError::load)?;
        run(&self.pins.of_cgroup(pin, id), &fd(hook.fd())?, || {
            link!(hook, attach(open(directory)?, CgroupAttachMode::Single))
        })
    }

    /// Runs the lookup hook in a pod's namespace, with the pod as its constant.
    pub(super) fn install_lookup(&self, ns: &NetNs, pod: PodIdentity, log_level: u8) -> Result<(), SteerError> {
        let mut ebpf = self.load(log_level, pod)?;
        let hook: &mut SkLookup = find(&mut ebpf, program::LOOKUP)?;
        hook.load().map_err(SteerError::load)?;
        run(&self.pins.lookup(pod.cookie), &fd(hook.fd())?, || link!(hook, attach(ns)))
    }
}

fn open(cgroup: &Path) -> Result<File, SteerError> {
    File::open(cgroup).map_err(SteerError::file("open", cgroup))
}

/// Whether a pin is of what follows connections past the proxy.
fn follows(pin: &str) -> bool {
    let hooks = PEERNAME_HOOKS.iter().map(|(pin, _)| *pin).chain([FLOW]);
    pin.split_once('-').is_some_and(|(hook, _)| hooks.into_iter().any(|of| of == hook))
}

pub(super) fn find<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, SteerError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
    <&'a mut P as TryFrom<&'a mut aya::programs::Program>>::Error: std::error::Error + Send + Sync + 'static,
{
    let program =
        ebpf.program_mut(name).ok_or_else(|| SteerError::load(format!("the object has no program {name}")))?;
    program.try_into().map_err(SteerError::load)
}

/// A loaded program, held apart from what attaches it.
pub(super) fn fd(loaded: Result<&ProgramFd, ProgramError>) -> Result<ProgramFd, SteerError> {
    loaded.map_err(SteerError::load)?.try_clone().map_err(SteerError::load)
}

/// Runs a program by the pinned link, in the place of what runs there; without one, by the link that is made then.
pub(super) fn run(
    pin: &Path,
    program: &ProgramFd,
    make: impl FnOnce() -> Result<FdLink, SteerError>,
) -> Result<(), SteerError> {
    if replace(pin, program)? {
        return Ok(());
    }
    make()?.pin(pin).map_err(SteerError::load)?;
    Ok(())
}

/// Exchanges the program of a pinned link; false if there is no link to exchange it in, or what it was attached to died.
fn replace(pin: &Path, program: &ProgramFd) -> Result<bool, SteerError> {
    let link = match bpf::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(SteerError::file("open the pin", pin)(error)),
    };
    match bpf::replace_program(link.as_fd(), program.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => pins::remove(pin).map(|()| false),
        Err(error) => Err(SteerError::file("exchange the program of", pin)(error)),
    }
}
