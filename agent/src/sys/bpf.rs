//! Calls of bpf(2) that aya lacks: opening any pin, exchanging the program under a live link without a moment in which
//! neither the old nor the new one runs, and detaching a link at once.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `bpf_attr` of BPF_OBJ_GET, as far as it is used.
#[repr(C)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `bpf_attr` of BPF_LINK_UPDATE.
#[repr(C)]
struct LinkUpdate {
    link_fd: RawFd,
    new_prog_fd: RawFd,
    flags: u32,
    old_prog_fd: u32,
}

/// `bpf_attr` of BPF_LINK_DETACH.
#[repr(C)]
struct LinkDetach {
    link_fd: RawFd,
}

/// Opens what is pinned at a path.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectGet { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = call(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `program` in the place of whatever the link runs. ENOLINK: what it was attached to is gone.
pub fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes =
        LinkUpdate { link_fd: link.as_raw_fd(), new_prog_fd: program.as_raw_fd(), flags: 0, old_prog_fd: 0 };
    call(BPF_LINK_UPDATE, &attributes).map(drop)
}

/// Detaches the link's program before it returns. Dropping the last reference to a link detaches it too, but some
/// milliseconds later: the kernel puts that off.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    call(BPF_LINK_DETACH, &LinkDetach { link_fd: link.as_raw_fd() }).map(drop)
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: `attributes` is one of the `repr(C)` structures above, a prefix of `bpf_attr` without padding; the kernel
    // reads exactly the size it is told and takes the rest as zero. The path it may point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
