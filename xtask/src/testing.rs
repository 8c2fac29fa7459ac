//! Test doubles: wheels with empty files, and a Python that downloads nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::setup::{Wheels, parts};

/// Writes a file and creates its parent folders.
pub(crate) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Creates the files of the unpacked wheels that `setup` checks, all empty.
pub(crate) fn fake_wheels(version: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in parts(Wheels::Cuda) {
        write(&folder.path().join(part), "");
    }
    write(&folder.path().join("torch/version.py"), &format!("__version__ = '{version}'"));
    folder
}

/// A shell script in place of Python; it logs its calls in `log` and behaves according to the file `mode`.
pub(crate) struct FakePython {
    pub folder: TempDir,
    pub program: PathBuf,
}

impl FakePython {
    /// Writes the script; inside, `$here` is its folder and `$*` the arguments of the call.
    pub(crate) fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (text, program) = (folder.path().join("text"), folder.path().join("python3"));
        fs::write(&text, format!("#!/bin/sh\nhere='{}'\n{script}", folder.path().display())).unwrap();
        // Another process writes the program: a file that this process has open for writing cannot be
        // executed while another test forks.
        let status = Command::new("install").args(["-m", "755"]).args([&text, &program]).status();
        assert!(status.unwrap().success());
        let fake = Self { folder, program };
        fake.set_mode("whole");
        fake
    }

    pub(crate) fn set_mode(&self, mode: &str) {
        fs::write(self.folder.path().join("mode"), mode).unwrap();
    }

    /// Returns the lines of the log.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_string).collect()
    }
}
