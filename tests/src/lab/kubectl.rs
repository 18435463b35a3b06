//! Programs people administer a cluster with, run against the lab's API server as `system:admin`.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{ApiServer, binary};

impl ApiServer {
    /// Runs the real `kubectl`; yields what it prints.
    ///
    /// # Errors
    /// When it is missing or exits non-zero.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/tools/kubectl/bin/kubectl");
        ensure!(program.exists(), "{} is missing: `cargo xtask setup` installs it", program.display());
        self.administer(&program, arguments)
    }

    /// Runs a verb of `weft` that asks the API server; yields what it prints.
    ///
    /// # Errors
    /// When it exits non-zero.
    pub fn weft(&self, arguments: &[&str]) -> Result<String> {
        self.administer(&binary("weft")?, arguments)
    }

    fn administer(&self, program: &Path, arguments: &[&str]) -> Result<String> {
        // kubectl keeps what it has learnt of a server below the home directory.
        let home = self.admin().parent().unwrap_or(Path::new("/"));
        let (config, home) = (format!("KUBECONFIG={}", self.admin().display()), format!("HOME={}", home.display()));
        let program = program.display().to_string();
        let mut command = vec!["env", &config, &home, &program];
        command.extend(arguments);
        self.network().output(&command)
    }
}
