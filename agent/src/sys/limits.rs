//! What the kernel lets this process have.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets the process open as many files as it may at all, and answers how many that are. What it starts with is often 1,024,
/// for programs that use select(2); an agent has one for every connection it carries.
///
/// # Errors
/// Those of `getrlimit` and `setrlimit`.
pub fn raise_open_files() -> io::Result<u64> {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if now < most {
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_it_may_be() {
        let most = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (most, most));
    }
}
