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

/// Unmaps the pages of programs and libraries; those still executed come back as they are.
///
/// Most of an agent's code reads settings, Kubernetes types and BTF, once. Its pages stay mapped for as long as the process
/// lives, 16 of 28 MB resident, unless they are let go; of those that run connections, 3 MB come back.
pub fn let_code_go() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    for (start, size) in maps.lines().filter_map(code_of_a_file) {
        // SAFETY: the range is a private mapping of a file that is executable and not writable, so that no page of it
        // differs from the file's: text holds no relocations. What is fetched again is what was there.
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), size, libc::MADV_DONTNEED);
        }
    }
}

/// Where a line of `/proc/self/maps` says that code of a file is mapped, and how many bytes of it.
fn code_of_a_file(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions, path) = (words.next()?, words.next()?, words.nth(3)?);
    if permissions != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_let_go() {
        let code = "7f00deadb000-7f00deadd000 r-xp 00026000 fe:00 1234                     /usr/lib/libc.so.6";
        assert_eq!(code_of_a_file(code), Some((0x7f00_dead_b000, 0x2000)));
        let others = [
            code.replace("r-xp", "r--p"),
            code.replace("r-xp", "rwxp"),
            code.replace("r-xp", "r-xs"),
            code.replace("/usr/lib/libc.so.6", "[vdso]"),
            code.replace("/usr/lib/libc.so.6", ""),
            String::new(),
        ];
        for other in others {
            assert_eq!(code_of_a_file(&other), None, "{other}");
        }
    }

    #[test]
    fn what_is_executed_comes_back() {
        let resident = || {
            let maps = fs::read_to_string("/proc/self/smaps").unwrap();
            let mut code = false;
            let of_code = maps.lines().filter(|line| {
                if line.split_ascii_whitespace().next().is_some_and(|word| word.contains('-')) {
                    code = code_of_a_file(line).is_some();
                }
                code && line.starts_with("Rss:")
            });
            of_code.map(|line| line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum::<u64>()
        };
        let before = resident();
        let_code_go();
        let after = resident();
        assert!(after < before, "{before} kB of code resident before, {after} kB after");
        assert_eq!((1..=10).map(|n: u64| n.to_string().parse::<u64>().unwrap()).sum::<u64>(), 55);
    }
}
