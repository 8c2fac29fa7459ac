//! Checkpoints in any published container and layout, converted to weights under open_clip's names.
//!
//! 1. The first bytes of a file determine the container, which lists its tensors (`container`).
//! 2. The tensor names determine the layout, which plans the renaming ([`Layout`]).
//! 3. Only the tensors that are kept are read, each storage once.
//! 4. Without a configuration, the tensor shapes determine it ([`infer_config`]).
//!
//! A restricted unpickler accepts tensors and plain containers and rejects every other global by name. Code in a file
//! never runs.

mod archive;
mod container;
mod globals;
pub(crate) mod infer;
mod input;
mod keymap;
pub(crate) mod layout;
mod legacy;
mod opcode;
mod pickle;
mod read_error;
mod safetensors;
mod sharded;
mod state;
#[cfg(test)]
mod tests;
mod value;
mod zip;

use std::collections::HashMap;
use std::path::Path;

use tch::Tensor;

pub use infer::{infer_config, infer_pruned_config};
pub use layout::Layout;

use crate::{ClipConfig, Error, Result};
use container::Container;
use read_error::{ReadError, ReadResult};

/// Metadata key of the model's configuration in a safetensors file, in the format of `open_clip_config.json`.
pub const CONFIG_ENTRY: &str = "open_clip_config";

/// Maximum number of names in a message.
const MAX_LISTED: usize = 4;

/// Weights of a checkpoint under open_clip's names.
///
/// ```no_run
/// let checkpoint = clip_model::weight_files::WeightFile::open("ViT-B-32.pt")?;
/// println!("{}: {} tensors", checkpoint.layout, checkpoint.weights.len());
/// # Ok::<(), clip_model::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct WeightFile {
    /// Tensors on the CPU with their element types. Tensors that share a storage in the file share memory.
    pub weights: HashMap<String, Tensor>,
    /// Layout of the names in the file.
    pub layout: Layout,
    /// Names in the file that are not part of the model: buffers, parts of losses, a teacher.
    pub dropped: Vec<String>,
    /// Notes on decisions while reading.
    pub notes: Vec<String>,
    /// Configuration stored in the file ([`CONFIG_ENTRY`]), as unparsed JSON.
    pub config: Option<String>,
}

impl WeightFile {
    /// Opens a checkpoint: safetensors (one file, or an index of several), torch's zip archives and legacy pickles,
    /// or TorchScript.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if the file cannot be read, [`crate::Error::Damaged`] if it is damaged, [`crate::Error::UnsupportedFormat`] if
    /// it is in another format, [`crate::Error::Refused`] if its pickle needs more than tensors and plain containers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        finish(container::open(path)?).map_err(|error| error.at(path))
    }

    /// Checks that a checkpoint lists its tensors and contains their bytes, without reading them.
    pub(crate) fn check(path: &Path) -> Result<()> {
        container::open(path).map(drop)
    }

    /// Reads a checkpoint from the bytes of one file.
    ///
    /// # Errors
    /// The errors of [`WeightFile::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let length = bytes.len() as u64;
        container::list(Box::new(std::io::Cursor::new(bytes.to_vec())), length)
            .and_then(finish)
            .map_err(|error| error.at(Path::new("bytes")))
    }

    /// Checks that a file has weights of a model that this crate can build, before an error names all that it lacks.
    pub(crate) fn check_model(&self, path: &Path) -> Result<()> {
        if self.weights.keys().any(|name| layout::is_root(name)) {
            return Ok(());
        }
        let kind = match self.layout {
            Layout::OpenAi => "it is a TorchScript archive of another model",
            _ => "it contains another model",
        };
        let mut names = self.weights.keys().chain(&self.dropped).collect::<Vec<_>>();
        if names.is_empty() {
            let reason = "it contains no tensors: save the model again".into();
            return Err(Error::UnsupportedFormat { path: path.into(), reason });
        }
        names.sort();
        let shown = names.iter().take(MAX_LISTED).map(|name| format!("`{}`", name.escape_debug()));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let reason = format!(
            "{kind}, or a part of one: none of its {} entries has a name of CLIP's towers, such as `visual.conv1.weight`; \
             the first ones are {shown}. Use a CLIP model in the layout of open_clip, OpenAI or transformers",
            names.len()
        );
        Err(Error::UnsupportedFormat { path: path.into(), reason })
    }

    /// Infers the configuration from the shapes of the weights; see [`infer_config`].
    ///
    /// # Errors
    /// [`crate::Error::Config`] if the shapes do not determine the towers.
    pub fn infer_config(&self) -> Result<ClipConfig> {
        let config = infer_config(&self.weights)?;
        Ok(ClipConfig { quick_gelu: self.layout == Layout::OpenAi, ..config })
    }
}

/// Whether a file can contain a model: it lists a parameter of one, or its tensors cannot be listed.
pub(crate) fn may_hold_model(path: &Path) -> bool {
    container::open(path).map_or(true, |container| {
        let mut names = container.tensors.iter().map(|tensor| tensor.name.as_str());
        names.any(|name| layout::has_model_name(name) || layout::is_image_tower_name(name))
    })
}

/// Returns the configuration stored in a file ([`CONFIG_ENTRY`]); `None` if the file has none or cannot be read.
pub(crate) fn embedded_config(path: &Path) -> Option<String> {
    container::open(path).ok()?.config
}

/// Reads all tensors of a file in any container under their names in the file.
///
/// # Errors
/// The errors of [`WeightFile::open`].
pub(crate) fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    let mut container = container::open(path)?;
    let all = (0..container.tensors.len()).collect::<Vec<_>>();
    let tensors = container.load(&all).map_err(|error| error.at(path))?;
    Ok(container.tensors.into_iter().map(|entry| entry.name).zip(tensors).collect())
}

fn finish(mut container: Container) -> ReadResult<WeightFile> {
    let plan = layout::plan_renames(container.tensors.iter().map(|t| t.name.as_str()), container.script)
        .map_err(ReadError::Unsupported)?;
    let (indices, targets): (Vec<_>, Vec<_>) = plan.kept.into_iter().unzip();
    let tensors = container.load(&indices)?;
    let weights = keymap::apply(targets.into_iter().zip(tensors).collect())?;
    let mut notes = container.notes;
    notes.extend(plan.notes);
    let mut dropped = plan.dropped;
    dropped.extend(container.other);
    Ok(WeightFile { weights, layout: plan.layout, dropped, notes, config: container.config })
}
