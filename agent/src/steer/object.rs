//! The compiled programs: loading them onto the pinned maps, and putting them into links old and new.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{CgroupAttachMode, CgroupSockAddr, ProgramFd, SkLookup, links::FdLink},
};
use weft_abi::{PodIdentity, map, program};

use super::{SteerError, pins, pins::Pins};
use crate::sys::{NetNs, bpf, cgroup};

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
    fn load(&self, log_level: u8, pod: PodIdentity) -> Result<Ebpf, SteerError> {
        let paths: Vec<(&str, PathBuf)> = map::SHARED.iter().map(|name| (*name, self.pins.map(name))).collect();
        let mut loader = EbpfLoader::new();
        loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .map_max_entries(map::DESTINATIONS, self.destinations)
            .override_global(aya_log::LEVEL, &log_level, true)
            .override_global(program::POD, &pod, true);
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        loader.load(bytes()?).map_err(SteerError::load)
    }

    /// Runs the connect hooks for everything below a cgroup. Where a predecessor's run already, they are exchanged
    /// without a gap.
    pub(super) fn install_connect(&self, directory: &Path, log_level: u8) -> Result<(), SteerError> {
        let id = cgroup::id(directory).map_err(SteerError::file("look at", directory))?;
        let mut ebpf = self.load(log_level, PodIdentity::default())?;
        for (family, name) in [(4, program::CONNECT4), (6, program::CONNECT6)] {
            let hook: &mut CgroupSockAddr = find(&mut ebpf, name)?;
            hook.load().map_err(SteerError::load)?;
            let pin = self.pins.connect(family, id);
            if replace(&pin, hook.fd().map_err(SteerError::load)?)? {
                continue;
            }
            let cgroup = File::open(directory).map_err(SteerError::file("open", directory))?;
            let link = hook.attach(cgroup, CgroupAttachMode::Single).map_err(SteerError::load)?;
            let link = hook.take_link(link).map_err(SteerError::load)?;
            FdLink::try_from(link).map_err(SteerError::load)?.pin(&pin).map_err(SteerError::load)?;
        }
        // A predecessor attached elsewhere: its hooks go once ours run.
        self.pins.remove_links(|name| {
            name.split_once('-').is_some_and(|(hook, of)| hook.starts_with("connect") && of != id.to_string())
        })
    }

    /// Runs the lookup hook in a pod's namespace, with the pod as its constant.
    pub(super) fn install_lookup(&self, ns: &NetNs, pod: PodIdentity, log_level: u8) -> Result<(), SteerError> {
        let mut ebpf = self.load(log_level, pod)?;
        let hook: &mut SkLookup = find(&mut ebpf, program::LOOKUP)?;
        hook.load().map_err(SteerError::load)?;
        let pin = self.pins.lookup(pod.cookie);
        if replace(&pin, hook.fd().map_err(SteerError::load)?)? {
            return Ok(());
        }
        let link = hook.attach(ns).map_err(SteerError::load)?;
        let link = hook.take_link(link).map_err(SteerError::load)?;
        FdLink::from(link).pin(&pin).map_err(SteerError::load)?;
        Ok(())
    }
}

fn find<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, SteerError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
    <&'a mut P as TryFrom<&'a mut aya::programs::Program>>::Error: std::error::Error + Send + Sync + 'static,
{
    let program =
        ebpf.program_mut(name).ok_or_else(|| SteerError::load(format!("the object has no program {name}")))?;
    program.try_into().map_err(SteerError::load)
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
