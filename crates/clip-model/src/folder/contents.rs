//! Error messages for folders that are not model folders, from their contents.

use std::path::{Path, PathBuf};

use super::{CONFIG_FILE, WEIGHT_FILES, hugging_face};
use crate::{Error, weight_files};

/// Depth of the search for a model folder inside another.
const DEPTH: usize = 4;
/// Maximum number of entries read from a folder.
const MOST_ENTRIES: usize = 1000;
/// Maximum number of weight files in a message.
const MOST_NAMED: usize = 5;
/// Extensions of weight files.
const EXTENSIONS: [&str; 6] = ["safetensors", "pt", "pth", "bin", "ckpt", "th"];
/// Beginnings of the names of files with the state of a training, which contain no model.
const STATES: [&str; 8] =
    ["optimizer", "scheduler", "scaler", "learned", "masks", "rng_state", "random_states", "training_args"];

/// Returns the error for a folder without a configuration. It names the model folder inside, the weight files, or the
/// kind of the folder.
pub(super) fn not_a_model_folder(folder: &Path) -> Error {
    let lacks = format!("it has neither {CONFIG_FILE} nor {}", hugging_face::CONFIG_FILE);
    let reason = if !folder.is_dir() {
        "it does not exist".into()
    } else if folder.join("adapter_config.json").is_file() {
        "it is an adapter (LoRA), which changes a base model: merge both with PEFT's `merge_and_unload`, and save the \
         result"
            .into()
    } else if let Some(inner) = inner_model(folder, DEPTH) {
        format!("{lacks}; use the model folder inside it: `{}`", inner.display())
    } else {
        match &weight_files(folder)[..] {
            [] => lacks,
            [file] => format!("{lacks}; use its weight file: `{}`", file.display()),
            files => {
                let named = files.iter().take(MOST_NAMED).map(|file| format!("`{}`", file.display()));
                let more = if files.len() > MOST_NAMED { ", …" } else { "" };
                format!(
                    "{lacks}; use one of its weight files: {}{more}",
                    named.collect::<Vec<_>>().join(", ")
                )
            }
        }
    };
    Error::NotAModelFolder { path: folder.into(), reason }
}

/// Returns the entries of a folder, sorted.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths = entries.flatten().map(|entry| entry.path()).take(MOST_ENTRIES).collect::<Vec<_>>();
    paths.sort();
    paths
}

/// Finds a model folder inside a folder, nearest first: of a run, of sentence-transformers, or of the hub's cache.
fn inner_model(folder: &Path, depth: usize) -> Option<PathBuf> {
    let mut level = vec![folder.to_path_buf()];
    for _ in 0..depth {
        let below = level.iter().flat_map(|folder| entries(folder));
        level = below.filter(|path| path.is_dir()).take(MOST_ENTRIES).collect();
        // A run has a model and checkpoints beside it.
        let named = level.iter().filter(|path| path.ends_with("model"));
        let candidates = named.chain(&level);
        if let Some(found) = candidates.into_iter().find(|path| is_model(path)) {
            return Some(found.clone());
        }
    }
    None
}

fn is_model(folder: &Path) -> bool {
    let has_weights = WEIGHT_FILES.iter().any(|file| folder.join(file).is_file());
    let config = |file: &str| folder.join(file).is_file();
    has_weights && (config(CONFIG_FILE) || config(hugging_face::CONFIG_FILE))
}

/// Returns the files of a folder that can contain a model.
fn weight_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = entries(folder);
    files.retain(|path| {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file()
            && extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
            && !STATES.iter().any(|state| name.starts_with(state))
    });
    files.into_iter().filter(|path| weight_files::may_hold_model(path)).take(MOST_NAMED + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(files: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "{}").unwrap();
        }
        let error = crate::folder::open(folder.path(), tch::Device::Cpu, 0).unwrap_err();
        assert!(matches!(error, Error::NotAModelFolder { .. }), "{error}");
        assert_eq!(crate::folder::config(folder.path()).unwrap_err().to_string(), error.to_string());
        error.to_string()
    }

    #[test]
    fn the_message_names_what_to_use_instead() {
        let cases: [(&[&str], &str); 8] = [
            (&["modules.json", "0_CLIPModel/config.json", "0_CLIPModel/model.safetensors"], "0_CLIPModel`"),
            (
                &[
                    "recipe.toml",
                    "best/open_clip_config.json",
                    "best/open_clip_model.safetensors",
                    "model/open_clip_config.json",
                    "model/open_clip_model.safetensors",
                ],
                "/model`",
            ),
            (&["snapshots/0a/config.json", "snapshots/0a/pytorch_model.bin", "refs/main"], "snapshots/0a`"),
            (&["adapter_config.json", "adapter_model.safetensors"], "LoRA"),
            (&["epoch_1.pt"], "its weight file: `"),
            (&["model.safetensors", "optimizer.safetensors", "learned.safetensors"], "its weight file: `"),
            (&["epoch_1.pt", "epoch_2.safetensors", "notes.txt"], "epoch_2.safetensors`"),
            (&["notes.txt"], "neither open_clip_config.json nor config.json"),
        ];
        for (files, word) in cases {
            let message = message(files);
            assert!(message.contains(word), "{files:?}: {message}");
            assert!(!message.contains("notes"), "{message}");
        }
    }

    #[test]
    fn files_without_a_parameter_of_a_model_are_not_offered() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = tch::Tensor::from_slice(&[1f32]);
        for (file, name) in [("head.safetensors", "head.weight"), ("net.safetensors", "model.visual.proj")] {
            let path = folder.path().join(file);
            crate::weights::write_safetensors(path, [(name, &tensor)]).unwrap();
        }
        let message = not_a_model_folder(folder.path()).to_string();
        assert!(message.contains("its weight file: `") && message.contains("net.safetensors"), "{message}");
    }
}
