//! What starting took and running does not need.

use std::fs;

/// Gives memory that was freed back to the kernel.
///
/// Loading one program parses the kernel's BTF, some 30 MB for a moment, and glibc keeps what was freed for an agent
/// that may never need it again. Takes milliseconds; with another libc it does nothing.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives freed memory back and unmaps code, where one piece of work is done and the next takes other code.
pub fn let_go() {
    give_back();
    let_code_go();
}

/// Has all threads share at most so many of glibc's arenas; to be called before there are others.
///
/// By default there are eight for each core, of which every thread has its own as long as there are any, and each keeps what was
/// freed in it. With another libc it does nothing.
pub fn limit_arenas(count: usize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, i32::try_from(count.max(1)).unwrap_or(i32::MAX));
    }
}

/// Unmaps the pages of programs and libraries; those still used come back as they are.
///
/// Most of an agent's code reads settings, Kubernetes types and BTF, once. Its pages stay mapped for as long as the process
/// lives, 20 of 28 MB resident, unless they are let go.
pub fn let_code_go() {
    let Ok(maps) = fs::read_to_string("/proc/self/smaps") else { return };
    for (start, size) in unchanged(&maps) {
        // SAFETY: the range is a private mapping of a file, not writable, of which no page differs from the file's, since
        // none is anonymous. What is fetched again is what was there.
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), size, libc::MADV_DONTNEED);
        }
    }
}

/// Where files are mapped that have not been written to and cannot be, and how many bytes of each. What the loader has
/// relocated and then made read-only has pages of its own, and is not among them.
fn unchanged(smaps: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut mapping = None;
    smaps.lines().filter_map(move |line| {
        if let Some(range) = read_only_file(line) {
            mapping = range;
            return None;
        }
        let own = line.strip_prefix("Anonymous:")?;
        mapping.take().filter(|_| own.trim() == "0 kB")
    })
}

/// If a line begins a mapping: where it is, if it is a private one of a file and read-only.
#[allow(clippy::option_option)]
fn read_only_file(line: &str) -> Option<Option<(usize, usize)>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let permissions = words.next()?;
    let file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((file && matches!(permissions, "r-xp" | "r--p")).then_some((start, end.checked_sub(start)?)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    const CODE: &str = "\
7f00deadb000-7f00deadd000 r-xp 00026000 fe:00 1234                     /usr/lib/libc.so.6
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
";

    #[test]
    fn only_what_is_as_in_its_file_is_let_go() {
        let found = |smaps: &str| unchanged(smaps).collect::<Vec<_>>();
        assert_eq!(found(CODE), [(0x7f00_dead_b000, 0x2000)]);
        assert_eq!(found(&CODE.replace("r-xp", "r--p")).len(), 1);
        let others = [
            CODE.replace("r-xp", "rw-p"),
            CODE.replace("r-xp", "rwxp"),
            CODE.replace("r-xp", "r-xs"),
            CODE.replace("/usr/lib/libc.so.6", "[vdso]"),
            CODE.replace("/usr/lib/libc.so.6", ""),
            CODE.replace("Anonymous:             0 kB", "Anonymous:             4 kB"),
        ];
        for other in others {
            // The one after it is judged by itself.
            assert_eq!(found(&(other.clone() + CODE)), [(0x7f00_dead_b000, 0x2000)], "{other}");
        }
    }

    /// The resident kilobytes of the mapping of `file`.
    fn resident(file: &str) -> u64 {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.ends_with(file));
        let line = lines.find(|line| line.starts_with("Rss:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_used_comes_back() {
        const SIZE: usize = 64 * 4096;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::write(&path, [7; SIZE]).unwrap();
        let file = fs::File::open(&path).unwrap();
        // SAFETY: a new mapping, which nobody else knows, of a file that keeps its size while it is mapped.
        let mapped = unsafe {
            let address =
                libc::mmap(std::ptr::null_mut(), SIZE, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
            assert_ne!(address, libc::MAP_FAILED);
            std::slice::from_raw_parts(address.cast::<u8>(), SIZE)
        };
        let sum = || mapped.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        let path = path.to_str().unwrap();
        assert_eq!((sum(), resident(path)), (7 * SIZE, 256));
        let_code_go();
        assert_eq!(resident(path), 0);
        assert_eq!((sum(), resident(path)), (7 * SIZE, 256));
        // SAFETY: it is the mapping made above, and not used after this.
        unsafe { libc::munmap(mapped.as_ptr().cast_mut().cast(), SIZE) };
    }
}
