//! Puts the compiled eBPF programs where the crate can include them.
//!
//! They are another target's build (`cargo xtask build-ebpf`), so this script only looks for the result. Without it the
//! crate still compiles, or nobody could run `cargo check` on a fresh clone; the agent then refuses to start and says why.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

const REMEDY: &str = "run `cargo xtask build-ebpf`, then build again";

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(weft_programs)");
    println!("cargo::rerun-if-env-changed=WEFT_EBPF_OBJECT");
    let crate_root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = crate_root.parent().unwrap_or(&crate_root);
    let architecture = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let object = env::var_os("WEFT_EBPF_OBJECT")
        .map_or_else(|| workspace.join("target/ebpf").join(architecture).join("release/weft-programs"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let sources = [workspace.join("ebpf/abi/src"), workspace.join("ebpf/programs/src")];
    for directory in &sources {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    if !object.is_file() {
        println!("cargo::warning=the eBPF programs are not built, so this agent will not be able to steer: {REMEDY}");
        return Ok(());
    }
    let newest = sources.iter().filter_map(|directory| newest(directory)).max();
    if newest > fs::metadata(&object)?.modified().ok() {
        println!("cargo::warning=the eBPF programs are older than their sources: {REMEDY}");
    }
    fs::copy(&object, Path::new(&variable("OUT_DIR")?).join("weft-programs"))?;
    println!("cargo::rustc-cfg=weft_programs");
    Ok(())
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|why| io::Error::other(format!("cargo did not set {name}: {why}")))
}

fn newest(directory: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(directory).ok()?;
    entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            if metadata.is_dir() { newest(&entry.path()) } else { metadata.modified().ok() }
        })
        .max()
}
