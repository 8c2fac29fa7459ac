//! Published checkpoints: any container, any layout, to weights under open_clip's names.
//!
//! 1. the container is told by the first bytes of the file, and its tensors are listed (`container`),
//! 2. the layout is told by their names, and says what becomes of each ([`layout`]),
//! 3. only the tensors that are kept are read, each storage once,
//! 4. where no configuration is given, shapes tell it ([`infer`]).
//!
//! Pickles are read by a reader that knows tensors and plain containers and refuses everything else by
//! name; no code of a file is run.

mod archive;
mod container;
mod fault;
mod globals;
pub mod infer;
mod input;
mod keymap;
pub mod layout;
mod legacy;
mod opcode;
mod pickle;
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

pub use infer::{adapt_config, infer_config};
pub use layout::Layout;

use crate::{ClipConfig, Result};
use container::Container;
use fault::Found;

/// Metadata key of a safetensors file for the model's configuration, in the format of `open_clip_config.json`.
pub const CONFIG_ENTRY: &str = "open_clip_config";

/// The weights of a file.
#[derive(Debug)]
pub struct Checkpoint {
    /// Tensors on the CPU, each in its own kind, under open_clip's names; tensors that shared a storage
    /// share memory.
    pub weights: HashMap<String, Tensor>,
    /// Whose names they had.
    pub layout: Layout,
    /// Names in the file that are no part of the model: buffers, losses' projections, a teacher.
    pub dropped: Vec<String>,
    /// What was decided on the way, for people to read.
    pub notes: Vec<String>,
    /// The configuration stored in the file ([`CONFIG_ENTRY`]), as unparsed text.
    pub config: Option<String>,
}

impl Checkpoint {
    /// The configuration that the shapes of the weights tell; see [`infer_config`].
    ///
    /// # Errors
    /// [`crate::Error::Config`] where the shapes are of no tower that can be told by them.
    pub fn infer_config(&self) -> Result<ClipConfig> {
        let config = infer_config(&self.weights)?;
        Ok(ClipConfig { quick_gelu: self.layout == Layout::OpenAi, ..config })
    }
}

/// Reads a checkpoint of any kind: safetensors (one file, or an index of several), torch's archives and
/// legacy pickles, TorchScript.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be read, [`crate::Error::Format`] where it is damaged or of
/// no known kind, [`crate::Error::Refused`] where its pickle asks for more than tensors.
pub fn read(path: &Path) -> Result<Checkpoint> {
    finish(container::open(path)?).map_err(|fault| fault.at(path))
}

/// The same for the bytes of one file.
///
/// # Errors
/// Those of [`read`].
pub fn read_bytes(bytes: &[u8]) -> Result<Checkpoint> {
    let length = bytes.len() as u64;
    container::list(Box::new(std::io::Cursor::new(bytes.to_vec())), length)
        .and_then(finish)
        .map_err(|fault| fault.at(Path::new("bytes")))
}

/// Returns the configuration stored in a file ([`CONFIG_ENTRY`]), or `None` if it has none or cannot be read.
pub(crate) fn own_config(path: &Path) -> Option<String> {
    container::open(path).ok()?.config
}

/// All tensors of a file of any container under the names that they have there.
///
/// # Errors
/// Those of [`read`].
pub fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    let mut container = container::open(path)?;
    let all = (0..container.tensors.len()).collect::<Vec<_>>();
    let tensors = container.load(&all).map_err(|fault| fault.at(path))?;
    Ok(container.tensors.into_iter().map(|listed| listed.name).zip(tensors).collect())
}

fn finish(mut container: Container) -> Found<Checkpoint> {
    let plan = layout::plan(container.tensors.iter().map(|t| t.name.as_str()), container.script);
    let (places, targets): (Vec<_>, Vec<_>) = plan.kept.into_iter().unzip();
    let tensors = container.load(&places)?;
    let weights = keymap::apply(targets.into_iter().zip(tensors).collect())?;
    let mut notes = container.notes;
    notes.extend(plan.notes);
    let mut dropped = plan.dropped;
    dropped.extend(container.other);
    Ok(Checkpoint { weights, layout: plan.layout, dropped, notes, config: container.config })
}
