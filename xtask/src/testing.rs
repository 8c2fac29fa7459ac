//! Stand-ins that several tests share: wheels without content and a Python that fetches nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::setup::{Wheels, parts};

/// Writes a file and the folders above it.
pub(crate) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What pip would unpack, as far as set-up looks at it.
pub(crate) fn fake_wheels(version: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in parts(Wheels::Cuda) {
        write(&folder.path().join(part), "");
    }
    write(&folder.path().join("torch/version.py"), &format!("__version__ = '{version}'"));
    folder
}

/// A shell script in the place of Python: notes what it is asked in `log`, and does what `mode` says.
pub(crate) struct FakePython {
    pub folder: TempDir,
    pub program: PathBuf,
}

impl FakePython {
    /// The script sees its own folder as `$here`, and has the words of the call.
    pub(crate) fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (text, program) = (folder.path().join("text"), folder.path().join("python3"));
        fs::write(&text, format!("#!/bin/sh\nhere='{}'\n{script}", folder.path().display())).unwrap();
        // By another process: a program that this one has open for writing cannot be started by any
        // test that forks at that moment.
        let status = Command::new("install").args(["-m", "755"]).args([&text, &program]).status();
        assert!(status.unwrap().success());
        let fake = Self { folder, program };
        fake.set_mode("whole");
        fake
    }

    pub(crate) fn set_mode(&self, mode: &str) {
        fs::write(self.folder.path().join("mode"), mode).unwrap();
    }

    /// Lines of the log.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_string).collect()
    }
}
