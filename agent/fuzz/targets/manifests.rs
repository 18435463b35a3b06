//! Manifest files: no panic, bounded work, and problems that name the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_control::manifests::{MAX_DOCUMENTS, parse};

fuzz_target!(|bytes: &[u8]| {
    let read = parse(bytes, "fuzz.yaml");
    assert!(read.objects.len() <= MAX_DOCUMENTS);
    for problem in &read.problems {
        assert!(problem.to_string().contains("fuzz.yaml"), "{problem}");
    }
});
