//! Helpers that run the program, and its test data.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use clip_model::{Clip, ClipConfig, PreprocessConfig, folder};
use tch::Device;

pub(crate) fn clip_distill(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

/// Returns a command of the program. With the settings of OpenMP and the allocator in its environment, the program does
/// not restart itself, which would load libtorch twice. One thread is enough, because the tests run in parallel.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clip-distill"));
    let settings = [("GOMP_SPINCOUNT", "20000"), ("MALLOC_TOP_PAD_", "131072"), ("OMP_NUM_THREADS", "1")];
    command.envs(settings).stdin(Stdio::null());
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command that must succeed. Returns its standard output.
pub(crate) fn done(args: &[&str]) -> String {
    let output = clip_distill(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must fail with exit code 1. Returns the error, which is the last line.
pub(crate) fn failed(args: &[&str]) -> String {
    let output = clip_distill(args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    let line = said.lines().last().unwrap_or_default();
    assert!(line.starts_with("error: ") && said.matches("error: ").count() == 1, "{said}");
    assert!(!said.contains("panicked"), "{said}");
    line.to_string()
}

pub(crate) struct Place(pub(crate) tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a model with a small transformer layer per tower.
    pub(crate) fn model(&self) -> String {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "patch_size": 8, "head_width": 8},
            "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}}"#;
        let model = Clip::new(&ClipConfig::from_json("tiny", json).unwrap(), Device::Cpu, 1).unwrap();
        folder::save(self.path("tiny"), &model, &PreprocessConfig::default()).unwrap();
        self.name("tiny")
    }

    pub(crate) fn recipe(&self, more: &str) -> String {
        let recipe = format!(
            "name = 'small'\nstudent.model = '{}'\nlosses.task = 1.0\ntrain = {{ batch_size = 8, steps = 3, threads = 1 }}\n\
             data.train = [{{ source = 'emoji' }}]\n{more}\n\
             [[eval.sets]]\nname = 'held out'\ntask = 'retrieval'\nsource = 'emoji'\nsplit = 'test'\n",
            self.model()
        );
        fs::write(self.path("small.toml"), recipe).unwrap();
        self.name("small.toml")
    }

    /// Writes a folder of two classes with two images each.
    pub(crate) fn pictures(&self) -> String {
        for (class, color) in [("red", [255, 0, 0]), ("blue", [0, 0, 255])] {
            fs::create_dir_all(self.path("pictures").join(class)).unwrap();
            for number in 0..2u8 {
                let color = image::Rgb([color[0], 10 * number, color[2]]);
                let path = self.path("pictures").join(class).join(format!("{number}.png"));
                image::RgbImage::from_pixel(20, 20, color).save(path).unwrap();
            }
        }
        self.name("pictures")
    }
}
