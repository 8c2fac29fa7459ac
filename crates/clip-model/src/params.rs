//! Named parameters: the flat list of tensors behind a model, under their state-dict names.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// One tensor of the state dict.
#[derive(Debug)]
pub struct Parameter {
    /// State-dict name, such as `visual.conv1.weight`.
    pub name: String,
    /// The value; shares its storage with the module that uses it.
    pub tensor: Tensor,
}

/// All parameters of a model, in the order of construction.
#[derive(Debug, Default)]
pub struct Params {
    entries: Vec<Parameter>,
}

/// How a new parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f64),
    /// Gaussian around zero with this standard deviation.
    Normal(f64),
    /// Uniform in ± this bound.
    Uniform(f64),
}

impl Init {
    /// PyTorch's default for linear and convolution layers: uniform in ±1/sqrt(fan_in).
    pub fn fan_in(fan_in: i64) -> Self {
        Init::Uniform(1.0 / (fan_in as f64).sqrt())
    }

    /// Xavier's uniform bound for a matrix `[out, in]`.
    pub fn xavier(fan_out: i64, fan_in: i64) -> Self {
        Init::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
    }
}

impl Params {
    /// The parameters in the order of construction.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.entries.iter()
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.entries.iter().find(|p| p.name == name).map(|p| &p.tensor)
    }

    /// Number of elements of all parameters together.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|p| p.tensor.numel()).sum()
    }

    /// Switches gradients of every parameter on or off (a frozen teacher has none).
    pub fn set_requires_grad(&self, requires_grad: bool) {
        for parameter in &self.entries {
            let _ = parameter.tensor.set_requires_grad(requires_grad);
        }
    }
}

impl<'a> IntoIterator for &'a Params {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Creates parameters under a dotted prefix and records them once each.
#[derive(Clone)]
pub struct Builder<'a> {
    store: &'a RefCell<Params>,
    prefix: String,
    device: Device,
    seed: u64,
}

impl<'a> Builder<'a> {
    /// A builder at the root of the state dict.
    ///
    /// Each parameter starts from its own random stream, named by `seed` and the parameter's
    /// name, so that two models with a common part start alike in that part.
    pub fn root(store: &'a RefCell<Params>, device: Device, seed: u64) -> Self {
        Builder { store, prefix: String::new(), device, seed }
    }

    /// The builder one level down.
    pub fn child(&self, name: impl std::fmt::Display) -> Self {
        Builder { prefix: self.full_name(&name.to_string()), ..self.clone() }
    }

    /// A new trainable parameter of float32.
    ///
    /// # Errors
    /// [`Error::Config`] where the name is taken already; [`Error::Torch`] where memory runs out.
    pub fn parameter(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let name = self.full_name(name);
        let mut store = self.store.borrow_mut();
        if store.entries.iter().any(|p| p.name == name) {
            return Err(Error::config(name, "this parameter name is used twice"));
        }
        let mut tensor = Tensor::f_empty(shape, (Kind::Float, self.device))?;
        let _ = match init {
            Init::Constant(value) => tensor.f_fill_(value)?,
            Init::Normal(std) => {
                tch::manual_seed(name_seed(self.seed, &name));
                tensor.f_normal_(0.0, std)?
            }
            Init::Uniform(bound) => {
                tch::manual_seed(name_seed(self.seed, &name));
                tensor.f_uniform_(-bound, bound)?
            }
        };
        let tensor = tensor.f_set_requires_grad(true)?;
        store.entries.push(Parameter { name, tensor: tensor.shallow_clone() });
        Ok(tensor)
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

/// FNV-1a of the name, mixed with the seed.
fn name_seed(seed: u64, name: &str) -> i64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64 ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    }
    // torch takes a signed seed; the top bit is dropped so that it stays positive.
    (hash >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_names_the_random_stream() {
        let (first, second) = (RefCell::default(), RefCell::default());
        let root = Builder::root(&first, Device::Cpu, 3);
        let a = root.child("visual").child(0).parameter("weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(root.child("visual.0").parameter("weight", &[4, 5], Init::Normal(1.0)).is_err());
        let other = Builder::root(&second, Device::Cpu, 3);
        let _ = other.parameter("before", &[7], Init::Uniform(1.0)).unwrap();
        let b = other.parameter("visual.0.weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(a.equal(&b));
        let c = Builder::root(&RefCell::default(), Device::Cpu, 4)
            .parameter("visual.0.weight", &[4, 5], Init::Normal(1.0))
            .unwrap();
        assert!(!a.equal(&c));
    }
}
