//! Weights on disk: safetensors files with strict checking.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use file_ext::write_atomic;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Device, Kind, Tensor};

use crate::params::Params;
use crate::{Error, Result};

/// All differences between a set of weights and the state dict of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names in the model that the weights lack.
    pub missing: Vec<String>,
    /// Names in the weights that the model lacks.
    pub unexpected: Vec<String>,
    /// Tensors with another shape than in the model.
    pub wrong_shape: Vec<ShapeMismatch>,
    /// Tensors that are floating point either in the weights or in the model, but not in both.
    pub wrong_kind: Vec<KindMismatch>,
}

/// A tensor whose shape differs between weights and model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// State-dict name.
    pub name: String,
    /// Shape in the weights.
    pub found: Vec<i64>,
    /// Shape in the model.
    pub expected: Vec<i64>,
}

/// A tensor whose elements are floating point either in the weights or in the model, but not in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindMismatch {
    /// State-dict name.
    pub name: String,
    /// Element type in the weights.
    pub found: Kind,
}

impl LoadReport {
    /// Whether the weights fit the model exactly.
    pub fn is_clean(&self) -> bool {
        *self == LoadReport::default()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self
            .wrong_shape
            .iter()
            .map(|ShapeMismatch { name, found, expected }| {
                format!("{name} is {found:?} instead of {expected:?}")
            })
            .collect::<Vec<_>>();
        let kinds = self
            .wrong_kind
            .iter()
            .map(|KindMismatch { name, found }| format!("{name} is {found:?}"))
            .collect::<Vec<_>>();
        let mut separator = "";
        for (title, names) in [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("wrong shape", &shapes),
            ("wrong kind", &kinds),
        ] {
            if !names.is_empty() {
                // The first few show which layout or size it is.
                let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
                let more =
                    if names.len() > 8 { format!(" and {} more", names.len() - 8) } else { String::new() };
                write!(f, "{separator}{} {title} ({shown}{more})", names.len())?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

/// Reads all tensors of a safetensors file to the CPU, under their names and with their element types.
///
/// ```no_run
/// let tensors = clip_model::weights::read_safetensors("model.safetensors")?;
/// println!("{} tensors", tensors.len());
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Damaged`] if it is damaged.
pub fn read_safetensors(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    crate::weight_files::read_tensors(path.as_ref())
}

/// Writes tensors to a safetensors file. The file is written under a temporary name, synced and renamed, so an
/// interrupted write leaves the old file or none.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn write_safetensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    write_safetensors_with(path, tensors, &[])
}

/// Writes the file of [`write_safetensors`] with extra metadata entries (key, value).
///
/// # Errors
/// The errors of [`write_safetensors`].
pub fn write_safetensors_with<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    entries: &[(&str, &str)],
) -> Result<()> {
    let path = path.as_ref();
    let mut buffers = Vec::new();
    for (name, tensor) in tensors {
        let (kind, dtype) = match tensor.kind() {
            Kind::Double => (Kind::Double, Dtype::F64),
            Kind::Half => (Kind::Half, Dtype::F16),
            Kind::BFloat16 => (Kind::BFloat16, Dtype::BF16),
            Kind::Int64 => (Kind::Int64, Dtype::I64),
            Kind::Uint8 => (Kind::Uint8, Dtype::U8),
            _ => (Kind::Float, Dtype::F32),
        };
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?;
        let mut bytes = vec![0u8; tensor.numel() * kind.elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        buffers.push((
            name.to_string(),
            dtype,
            tensor.size().iter().map(|&n| n as usize).collect::<Vec<_>>(),
            bytes,
        ));
    }
    let format = |e: safetensors::SafeTensorError| Error::damaged(path, e.to_string());
    let views = buffers
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(format)?;
    // open_clip and transformers both look for this entry.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let mut bytes = safetensors::serialize(views, Some(metadata)).map_err(format)?;
    if !entries.is_empty() {
        add_metadata(&mut bytes, entries)
            .ok_or_else(|| Error::damaged(path, "its header cannot be extended"))?;
    }
    Ok(write_atomic(path, &bytes)?)
}

/// Adds entries to the metadata of a safetensors file. The library would take them from a hash map and write them in a
/// different order each time.
fn add_metadata(file: &mut Vec<u8>, entries: &[(&str, &str)]) -> Option<()> {
    let length = usize::try_from(u64::from_le_bytes(file.get(..8)?.try_into().ok()?)).ok()?;
    let end = length.checked_add(8)?;
    let mut header = serde_json::from_slice::<serde_json::Map<_, _>>(file.get(8..end)?).ok()?;
    let metadata = header.get_mut("__metadata__")?.as_object_mut()?;
    metadata.extend(entries.iter().map(|(key, text)| (key.to_string(), (*text).into())));
    let mut header = serde_json::to_vec(&header).ok()?;
    // The format requires the tensors to start at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    file.splice(..end, length.into_iter().chain(header));
    Some(())
}

/// Copies weights into the parameters of a model. Nothing changes unless all of them fit.
///
/// ```no_run
/// use clip_model::{Clip, presets, weights};
///
/// let model = Clip::new(&presets::get("ViT-B-32")?, tch::Device::Cpu, 0)?;
/// let tensors = weights::read_safetensors("model.safetensors")?;
/// weights::load(model.params(), &tensors, "model.safetensors")?;
/// # Ok::<(), clip_model::Error>(())
/// ```
///
/// float16, bfloat16 and float64 weights are converted to float32. `origin` names the source in error messages.
///
/// # Errors
/// [`Error::Mismatch`] with every difference, [`Error::NonFinite`] for a value that is NaN or infinite.
pub fn load(params: &Params, weights: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
    check(params, weights, origin)?;
    tch::no_grad(|| {
        for entry in params.state() {
            // An optional tensor that is missing keeps its initial value.
            if let Some(value) = weights.get(&entry.name) {
                entry.tensor.shallow_clone().f_copy_(value)?;
            }
        }
        Ok(())
    })
}

/// Alignment of libtorch's CPU tensors in bytes.
const ALIGNMENT: usize = 64;

/// Makes weights the parameters of a model, like [`load`]. Weights of the model's element type, device and layout are not
/// copied, so a large model is in memory once.
///
/// # Errors
/// The errors of [`load`].
pub(crate) fn replace(params: &Params, mut weights: HashMap<String, Tensor>, origin: &str) -> Result<()> {
    check(params, &weights, origin)?;
    // Parameters must not share elements: a training step changes each of them.
    let separate = are_separate(weights.values());
    tch::no_grad(|| {
        for entry in params.state() {
            let Some(value) = weights.remove(&entry.name) else { continue };
            let mut own = entry.tensor.shallow_clone();
            // Products depend on strides and alignment in the last bits, so both stay those of a new tensor.
            let same_form = value.kind() == own.kind()
                && value.device() == own.device()
                && value.stride() == own.stride()
                && (value.data_ptr() as usize).is_multiple_of(ALIGNMENT);
            if separate && same_form && value.is_contiguous() {
                own.f_set_data(&value)?;
            } else {
                own.f_copy_(&value)?;
            }
        }
        Ok(())
    })
}

/// Whether no two tensors have elements at the same place in memory. Tensors that are not contiguous are not looked at.
fn are_separate<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> bool {
    let range = |tensor: &Tensor| {
        let start = tensor.data_ptr() as usize;
        (start, start + tensor.numel() * tensor.kind().elt_size_in_bytes())
    };
    let mut ranges =
        tensors.filter(|one| one.is_contiguous() && one.numel() > 0).map(range).collect::<Vec<_>>();
    ranges.sort_unstable();
    ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

/// Checks that all weights fit the parameters and are finite.
fn check(params: &Params, weights: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
    let report = compare(params, weights);
    if !report.is_clean() {
        return Err(Error::Mismatch { origin: origin.into(), report });
    }
    for (name, value) in weights {
        let floating = matches!(value.kind(), Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
        if floating && value.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(Error::NonFinite { origin: origin.into(), name: name.clone() });
        }
    }
    Ok(())
}

/// Compares weights with the state dict of a model and lists all differences.
pub fn compare(params: &Params, weights: &HashMap<String, Tensor>) -> LoadReport {
    let mut report = LoadReport::default();
    let mut names = std::collections::HashSet::new();
    for entry in params.state() {
        names.insert(entry.name.as_str());
        let floating = |kind| matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
        match weights.get(&entry.name) {
            // This counter matters only for cumulative averages; checkpoints from before torch 0.4.1 lack it.
            None if entry.name.ends_with(".num_batches_tracked") => {}
            None => report.missing.push(entry.name.clone()),
            Some(found) if found.size() != entry.tensor.size() => {
                let (name, found, expected) = (entry.name.clone(), found.size(), entry.tensor.size());
                report.wrong_shape.push(ShapeMismatch { name, found, expected });
            }
            Some(found) if floating(found.kind()) != floating(entry.tensor.kind()) => {
                report.wrong_kind.push(KindMismatch { name: entry.name.clone(), found: found.kind() });
            }
            Some(_) => {}
        }
    }
    report.unexpected = weights.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
    report.unexpected.sort();
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clip, presets};

    /// Returns a model without values and the weights of another one, as separate tensors.
    fn model_and_weights() -> (Clip, HashMap<String, Tensor>) {
        let config = presets::get("ViT-nano-32px").unwrap();
        let other = Clip::new(&config, Device::Cpu, 5).unwrap();
        let weights = other.params().state().map(|p| (p.name.clone(), p.tensor.detach().copy())).collect();
        (Clip::unset(&config, Device::Cpu).unwrap(), weights)
    }

    #[test]
    fn replaced_weights_are_used_by_the_layers_and_not_copied() {
        let (model, weights) = model_and_weights();
        let other = Clip::new(model.config(), Device::Cpu, 5).unwrap();
        let places =
            weights.iter().map(|(name, own)| (name.clone(), own.data_ptr())).collect::<HashMap<_, _>>();
        replace(model.params(), weights, "test").unwrap();
        for parameter in model.params().iter() {
            assert_eq!(parameter.tensor.data_ptr(), places[&parameter.name], "{}", parameter.name);
            assert!(parameter.tensor.requires_grad() && parameter.tensor.is_leaf(), "{}", parameter.name);
        }
        let images = Tensor::ones([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        let [ours, theirs] = [&model, &other].map(|clip| clip.encode_image(&images).unwrap());
        assert!(ours.equal(&theirs));
    }

    #[test]
    fn parameters_never_share_elements() {
        let (model, mut weights) = model_and_weights();
        let shared = weights["ln_final.weight"].shallow_clone();
        weights.insert("ln_final.bias".into(), shared);
        assert!(!are_separate(weights.values()));
        replace(model.params(), weights, "test").unwrap();
        let [weight, bias] =
            ["ln_final.weight", "ln_final.bias"].map(|name| model.params().get(name).unwrap());
        assert!(weight.equal(bias) && weight.data_ptr() != bias.data_ptr());
    }

    #[test]
    fn weights_of_other_kinds_are_converted_and_unfit_ones_refused() {
        let (model, mut weights) = model_and_weights();
        let half = weights["visual.proj"].to_kind(Kind::Half);
        weights.insert("visual.proj".into(), half);
        replace(model.params(), weights, "test").unwrap();
        assert_eq!(model.params().get("visual.proj").unwrap().kind(), Kind::Float);
        let (model, mut weights) = model_and_weights();
        weights.remove("visual.proj");
        assert!(matches!(replace(model.params(), weights, "test"), Err(Error::Mismatch { .. })));
    }
}
