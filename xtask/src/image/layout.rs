//! An OCI image layout in a tar archive: <https://github.com/opencontainers/image-spec>. Three small JSON documents and a
//! layer; whoever reads it checks every digest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an image says of itself.
pub(super) struct Image<'a> {
    /// Repository and tag.
    pub(super) name: String,
    pub(super) version: &'a str,
    /// The commit.
    pub(super) revision: Option<String>,
    /// Seconds since 1970: of every file, too.
    pub(super) created: u64,
}

/// One architecture's program.
pub(super) struct Platform {
    pub(super) architecture: &'static str,
    pub(super) program: PathBuf,
}

/// Writes the archive; yields the digest by which the image is pulled.
pub(super) fn write(image: &Image<'_>, platforms: &[Platform], to: impl Write) -> Result<String> {
    let mut archive = Archive { tar: tar::Builder::new(to), time: image.created };
    archive.file("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string().as_bytes())?;
    let mut manifests = Vec::new();
    for platform in platforms {
        let mut descriptor = manifest(image, platform, &mut archive)?;
        descriptor["platform"] = json!({"architecture": platform.architecture, "os": "linux"});
        manifests.push(descriptor);
    }
    let images = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let mut all = archive.blob(INDEX, images.to_string().as_bytes())?;
    let digest = all["digest"].as_str().unwrap_or_default().to_owned();
    let tag = image.name.rsplit(':').next().unwrap_or_default();
    all["annotations"] = json!({"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [all]});
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.tar.finish()?;
    Ok(digest)
}

fn manifest<W: Write>(image: &Image<'_>, platform: &Platform, archive: &mut Archive<W>) -> Result<Value> {
    let program = fs::read(&platform.program).with_context(|| format!("reading {}", platform.program.display()))?;
    let mut layer = Archive { tar: tar::Builder::new(Vec::new()), time: image.created };
    layer.entry("weft", &program, 0o755)?;
    let layer = layer.tar.into_inner()?;
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    packed.write_all(&layer)?;
    let created = timestamp(image.created);
    let labels = json!({
        "org.opencontainers.image.title": "weft",
        "org.opencontainers.image.description": "Weft, a sidecarless service mesh for Kubernetes",
        "org.opencontainers.image.version": image.version,
        "org.opencontainers.image.revision": image.revision.as_deref().unwrap_or_default(),
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.licenses": "Apache-2.0",
    });
    let config = json!({
        "created": created, "architecture": platform.architecture, "os": "linux",
        "config": {"Entrypoint": ["/weft"], "WorkingDir": "/", "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created": created, "created_by": "cargo xtask image"}],
    });
    let config = archive.blob(CONFIG, config.to_string().as_bytes())?;
    let layer = archive.blob(LAYER, &packed.finish()?)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], "annotations": labels,
    });
    archive.blob(MANIFEST, manifest.to_string().as_bytes())
}

/// A tar in which nothing depends on when and by whom it was made.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    time: u64,
}

impl<W: Write> Archive<W> {
    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.entry(path, bytes, 0o644)
    }

    fn entry(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        header.set_mtime(self.time);
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(tar::EntryType::Regular);
        self.tar.append_data(&mut header, path, bytes).with_context(|| format!("writing {path}"))
    }

    /// Adds a blob under its digest; yields its descriptor.
    fn blob(&mut self, kind: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        self.file(&format!("blobs/{}", digest.replace(':', "/")), bytes)?;
        Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// RFC 3339, in UTC. Days to a date by Howard Hinnant's `civil_from_days`.
fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (date, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Unpacks an archive's root for an architecture, every digest on the way checked.
pub(super) fn unpack(archive: &Path, architecture: &str, to: &Path) -> Result<()> {
    let index: Value = serde_json::from_slice(&member(archive, "index.json")?)?;
    let images: Value = serde_json::from_slice(&blob(archive, &index["manifests"][0])?)?;
    let manifests = images["manifests"].as_array().context("an index without manifests")?;
    let found = manifests.iter().find(|m| m["platform"]["architecture"] == architecture);
    let manifest: Value = serde_json::from_slice(&blob(archive, found.context("no such architecture in it")?)?)?;
    let config: Value = serde_json::from_slice(&blob(archive, &manifest["config"])?)?;
    let mut layer = Vec::new();
    GzDecoder::new(&*blob(archive, &manifest["layers"][0])?).read_to_end(&mut layer)?;
    ensure!(config["rootfs"]["diff_ids"][0] == digest(&layer), "the layer is not what the configuration says");
    fs::create_dir_all(to)?;
    tar::Archive::new(&*layer).unpack(to).with_context(|| format!("unpacking into {}", to.display()))
}

fn blob(archive: &Path, descriptor: &Value) -> Result<Vec<u8>> {
    let expected = descriptor["digest"].as_str().context("a descriptor without digest")?;
    let bytes = member(archive, &format!("blobs/{}", expected.replace(':', "/")))?;
    ensure!(digest(&bytes) == expected && descriptor["size"] == bytes.len(), "{expected} is not what it should be");
    Ok(bytes)
}

fn member(archive: &Path, path: &str) -> Result<Vec<u8>> {
    let mut tar = tar::Archive::new(File::open(archive)?);
    for entry in tar.entries()? {
        let mut entry = entry?;
        if entry.path()? == Path::new(path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    anyhow::bail!("{} has no {path}", archive.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image<'static> {
        Image { name: "example.org/weft:1".into(), version: "1", revision: None, created: 1_700_000_000 }
    }

    #[test]
    fn the_same_program_gives_the_same_archive_and_comes_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        fs::write(&program, b"\x7fELF and so on".repeat(100)).unwrap();
        let pack = || {
            let platforms = ["amd64", "arm64"].map(|architecture| Platform { architecture, program: program.clone() });
            let mut bytes = Vec::new();
            let digest = write(&image(), &platforms, &mut bytes).unwrap();
            (digest, bytes)
        };
        let (digest, bytes) = pack();
        assert_eq!(pack(), (digest.clone(), bytes.clone()));
        let archive = directory.path().join("image.tar");
        fs::write(&archive, &bytes).unwrap();
        let index: Value = serde_json::from_slice(&member(&archive, "index.json").unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["digest"], digest);
        let root = directory.path().join("root");
        unpack(&archive, "arm64", &root).unwrap();
        assert_eq!(fs::read(root.join("weft")).unwrap(), fs::read(&program).unwrap());
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(root.join("weft")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o755);
        // One bit of the layer, and nothing is unpacked.
        let at = bytes.windows(2).position(|pair| pair == [0x1f, 0x8b]).unwrap() + 20;
        let mut broken = bytes;
        broken[at] ^= 1;
        fs::write(&archive, broken).unwrap();
        assert!(unpack(&archive, "amd64", &directory.path().join("other")).is_err());
    }

    #[test]
    fn times_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }
}
