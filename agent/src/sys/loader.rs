//! aya's loader, made once: making one parses the kernel's BTF, tens of milliseconds and 30 MB for a moment, which is for
//! programs that relocate against the kernel's types. Ours do not, and each enrolled pod has a program of its own.

use std::mem;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use aya::{Ebpf, EbpfError, EbpfLoader, Pod, VerifierLogLevel};

/// The loader while nobody loads. Of several who load at once, all but one make one of their own.
static KEPT: Mutex<Option<EbpfLoader<'static>>> = Mutex::new(None);

/// What differs between one load of an object and the next.
pub struct Load<'o, P: 'static> {
    /// The object.
    pub object: &'o [u8],
    /// Where its maps are pinned, by name.
    pub pins: Vec<(&'static str, PathBuf)>,
    /// Maps of another size than the object says.
    pub sizes: Vec<(&'static str, u32)>,
    /// A variable of the object and its value for all of the process's life.
    pub fixed: (&'static str, &'static u8),
    /// A variable of the object and its value for this load.
    pub own: (&'static str, P),
    /// Any value of that variable.
    pub none: &'static P,
}

impl<P: Pod> Load<'_, P> {
    /// Parses the object, with maps and variables in place; no program is in the kernel yet.
    ///
    /// # Errors
    /// aya's.
    pub fn run(self) -> Result<Ebpf, EbpfError> {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut loader = kept.unwrap_or_else(|| {
            let mut loader = EbpfLoader::new();
            loader.btf(None);
            loader
        });
        loader.verifier_log_level(VerifierLogLevel::STATS);
        for (name, path) in self.pins {
            loader.map_pin_path(name, path);
        }
        for (name, size) in self.sizes {
            loader.map_max_entries(name, size);
        }
        loader.override_global(self.fixed.0, self.fixed.1, true);
        let (name, value) = self.own;
        let loaded = {
            // SAFETY: `EbpfLoader` only stores what it is given. Under the shorter lifetime it is given one reference, to
            // `value`, which outlives this block, and the next statement replaces it by one that lives for ever, under the
            // same key, before the loader is used or kept again. Should `load` panic in between, the loader is dropped with
            // this frame, and dropping a reference does not read it.
            let brief: &mut EbpfLoader<'_> = unsafe { mem::transmute(&mut loader) };
            brief.override_global(name, &value, true).load(self.object)
        };
        loader.override_global(name, self.none, true);
        *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(loader);
        loaded
    }
}
