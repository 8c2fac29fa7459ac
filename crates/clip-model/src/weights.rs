//! Weights on disk: safetensors files, read and written with strict checking.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use file_ext::write_atomic;
use safetensors::tensor::{Dtype, TensorView};
use tch::{Device, Kind, Tensor};

use crate::params::Params;
use crate::{Error, Result};

/// Every difference between a set of weights and a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Names that the model has and the weights lack.
    pub missing: Vec<String>,
    /// Names that the weights have and the model lacks.
    pub surplus: Vec<String>,
    /// Names of both whose shapes differ: name, shape in the weights, shape in the model.
    pub wrong_shape: Vec<(String, Vec<i64>, Vec<i64>)>,
    /// Names of both whose elements are floating point on one side only: name and kind.
    pub wrong_kind: Vec<(String, String)>,
}

impl LoadReport {
    /// Whether the weights fit exactly.
    pub fn is_clean(&self) -> bool {
        *self == LoadReport::default()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self
            .wrong_shape
            .iter()
            .map(|(name, found, expected)| format!("{name} is {found:?} instead of {expected:?}"))
            .collect::<Vec<_>>();
        let kinds =
            self.wrong_kind.iter().map(|(name, kind)| format!("{name} is {kind}")).collect::<Vec<_>>();
        let mut separator = "";
        for (title, rows) in [
            ("missing", &self.missing),
            ("surplus", &self.surplus),
            ("wrong shape", &shapes),
            ("wrong kind", &kinds),
        ] {
            if !rows.is_empty() {
                // The first few say which layout or size it is; hundreds of names would hide that.
                let shown = rows.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
                let more =
                    if rows.len() > 8 { format!(" and {} more", rows.len() - 8) } else { String::new() };
                write!(f, "{separator}{} {title} ({shown}{more})", rows.len())?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

/// Reads all tensors of a safetensors file, onto the CPU, each in its own kind and under its own name.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read, [`Error::Format`] where it is damaged.
pub fn read_safetensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    crate::checkpoint::read_tensors(path)
}

/// Writes tensors as a safetensors file, through a temporary name and synced, so that a stop
/// half way leaves the old file or none.
///
/// # Errors
/// [`Error::Io`] where the file cannot be written.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    write_safetensors_with(path, tensors, &[])
}

/// Writes the file of [`write_safetensors`] with extra metadata entries (key, text).
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_with<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    entries: &[(&str, &str)],
) -> Result<()> {
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
    let format = |e: safetensors::SafeTensorError| Error::Format { path: path.into(), reason: e.to_string() };
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
        add_metadata(&mut bytes, entries).ok_or_else(|| Error::Format {
            path: path.into(),
            reason: "its header cannot be extended".into(),
        })?;
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

/// Copies weights into a model's parameters; nothing is changed unless all of them fit.
///
/// fp16, bf16 and float64 weights are converted to float32.
///
/// # Errors
/// [`Error::Mismatch`] with every difference, [`Error::Config`] where a value is not finite; `origin` names the
/// source in it.
pub fn load(params: &Params, weights: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
    let report = compare(params, weights);
    if !report.is_clean() {
        return Err(Error::Mismatch { origin: origin.into(), report });
    }
    for (name, value) in weights {
        let floating = matches!(value.kind(), Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
        if floating && value.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            let reason =
                format!("`{name}` has values that are not finite: the file or its training is broken");
            return Err(Error::config(origin, reason));
        }
    }
    tch::no_grad(|| {
        for entry in params.state() {
            // What may be missing keeps its start value.
            if let Some(value) = weights.get(&entry.name) {
                entry.tensor.shallow_clone().f_copy_(value)?;
            }
        }
        Ok(())
    })
}

/// Lists how weights differ from what a model needs.
pub fn compare(params: &Params, weights: &HashMap<String, Tensor>) -> LoadReport {
    let mut report = LoadReport::default();
    let mut names = std::collections::HashSet::new();
    for entry in params.state() {
        names.insert(entry.name.as_str());
        let floating = |kind| matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
        match weights.get(&entry.name) {
            // A count that only cumulative averages read; checkpoints of before torch 0.4.1 lack it.
            None if entry.name.ends_with(".num_batches_tracked") => {}
            None => report.missing.push(entry.name.clone()),
            Some(found) if found.size() != entry.tensor.size() => {
                report.wrong_shape.push((entry.name.clone(), found.size(), entry.tensor.size()));
            }
            Some(found) if floating(found.kind()) != floating(entry.tensor.kind()) => {
                report.wrong_kind.push((entry.name.clone(), format!("{:?}", found.kind())));
            }
            Some(_) => {}
        }
    }
    report.surplus = weights.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
    report.surplus.sort();
    report
}
