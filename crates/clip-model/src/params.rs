//! Named parameters: the flat list of tensors behind a model, under their state-dict names.

use std::cell::{Cell, RefCell};

use tch::{Device, Kind, Tensor};

use crate::mode::{Mode, name_seed};
use crate::{Error, Result};

/// One tensor of the state dict.
#[derive(Debug)]
pub struct Parameter {
    /// State-dict name, such as `visual.conv1.weight`.
    pub name: String,
    /// The value; shares its storage with the module that uses it.
    pub tensor: Tensor,
}

/// All tensors of a model's state dict, in the order of construction.
#[derive(Debug, Default)]
pub struct Params {
    entries: Vec<Parameter>,
    buffers: Vec<Parameter>,
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
    /// The trainable parameters in the order of construction.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.entries.iter()
    }

    /// The buffers: what a model carries but no gradient reaches, such as BatchNorm's running statistics.
    pub fn buffers(&self) -> std::slice::Iter<'_, Parameter> {
        self.buffers.iter()
    }

    /// The whole state dict: parameters, then buffers.
    pub fn state(&self) -> impl Iterator<Item = &Parameter> {
        self.entries.iter().chain(&self.buffers)
    }

    /// The parameter or buffer of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.state().find(|p| p.name == name).map(|p| &p.tensor)
    }

    /// Number of elements of all parameters together; buffers are not counted, as is usual.
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

/// Creates parameters under a dotted prefix, records them once each, and counts what their use costs.
#[derive(Clone)]
pub struct Builder<'a> {
    store: &'a Store,
    prefix: String,
    positions: i64,
    sequences: i64,
}

/// What the builders of one model share.
#[derive(Debug)]
pub struct Store {
    params: RefCell<Params>,
    macs: Cell<u64>,
    outputs: Cell<u64>,
    mode: Mode,
    device: Device,
    seed: u64,
    dry: bool,
}

impl Store {
    /// A store for a model on `device`, whose parameters start from `seed`.
    pub fn new(device: Device, seed: u64) -> Self {
        Store {
            params: RefCell::default(),
            macs: Cell::new(0),
            outputs: Cell::new(0),
            mode: Mode::default(),
            device,
            seed,
            dry: false,
        }
    }

    /// A store that only counts: its tensors have their shapes but share one element each, so a
    /// model of any size takes no memory. It must not be run.
    pub fn dry() -> Self {
        Store { dry: true, ..Store::new(Device::Cpu, 0) }
    }

    /// The builder at the root of the state dict.
    ///
    /// Each parameter starts from its own random stream, named by the seed and the parameter's
    /// name, so that two models with a common part start alike in that part.
    pub fn root(&self) -> Builder<'_> {
        Builder { store: self, prefix: String::new(), positions: 1, sequences: 1 }
    }

    /// Multiply-accumulates counted so far.
    pub fn macs(&self) -> u64 {
        self.macs.get()
    }

    /// Elements that the weighted layers counted so far give for one sample.
    pub fn outputs(&self) -> u64 {
        self.outputs.get()
    }

    /// Elements of the parameters made so far.
    pub fn count(&self) -> u64 {
        self.params.borrow().count() as u64
    }

    /// The training switch that every layer of the model listens to.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The finished state dict.
    pub fn into_params(self) -> Params {
        self.params.into_inner()
    }
}

impl Builder<'_> {
    /// The builder one level down.
    pub fn child(&self, name: impl std::fmt::Display) -> Self {
        Builder { prefix: self.full_name(&name.to_string()), ..self.clone() }
    }

    /// The same builder for layers that are applied at this many positions (tokens or pixels) per sample.
    pub fn at(&self, positions: i64) -> Self {
        Builder { positions, sequences: 1, ..self.clone() }
    }

    /// The same builder for layers that work on this many sequences per sample, each of [`Builder::at`]'s length.
    pub fn times(&self, sequences: i64) -> Self {
        Builder { sequences, ..self.clone() }
    }

    /// Positions per sequence that layers built here are applied at.
    pub fn positions(&self) -> i64 {
        self.positions
    }

    /// Counts multiply-accumulates of a product without weights, such as attention.
    /// The figure is per sequence.
    pub fn spend(&self, macs: i64) {
        let macs = macs.saturating_mul(self.sequences).max(0) as u64;
        self.store.macs.set(self.store.macs.get().saturating_add(macs));
    }

    /// A tensor that is neither trained nor saved, on the model's device.
    ///
    /// # Errors
    /// [`Error::Torch`] where memory runs out.
    pub fn constant(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.f_to_device(self.store.device)?)
    }

    /// The training switch of the model, with the name that keys this layer's random numbers.
    pub fn mode(&self) -> (Mode, u64) {
        (self.store.mode.clone(), name_seed(0, &self.prefix))
    }

    /// A new weight of a matrix product or convolution: a parameter whose use at every position
    /// costs one multiply-accumulate per element.
    ///
    /// # Errors
    /// As [`Builder::parameter`].
    pub fn weight(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let elements = shape.iter().fold(1i64, |product, n| product.saturating_mul(*n));
        self.spend(elements.saturating_mul(self.positions));
        let channels = shape.first().copied().unwrap_or(1);
        let given = channels.saturating_mul(self.positions).saturating_mul(self.sequences).max(0) as u64;
        self.store.outputs.set(self.store.outputs.get().saturating_add(given));
        self.parameter(name, shape, init)
    }

    /// A new trainable parameter of float32.
    ///
    /// # Errors
    /// [`Error::Config`] where the name is taken already; [`Error::Torch`] where memory runs out.
    pub fn parameter(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let name = self.new_name(name)?;
        let tensor = if self.store.dry {
            Tensor::f_zeros([0i64; 0], (Kind::Float, Device::Cpu))?.f_expand(shape, false)?
        } else {
            // On the CPU, so that a seed stands for the same weights on any device.
            let mut tensor = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
            match init {
                Init::Constant(value) => tensor.f_fill_(value)?,
                // The generator is torch's only one, so nobody else may draw in between.
                Init::Normal(std) => {
                    crate::mode::seeded(name_seed(self.store.seed, &name), || tensor.f_normal_(0.0, std))?
                }
                Init::Uniform(bound) => crate::mode::seeded(name_seed(self.store.seed, &name), || {
                    tensor.f_uniform_(-bound, bound)
                })?,
            }
            .f_to_device(self.store.device)?
            .f_set_requires_grad(true)?
        };
        let entry = Parameter { name, tensor: tensor.shallow_clone() };
        self.store.params.borrow_mut().entries.push(entry);
        Ok(tensor)
    }

    /// A new buffer: part of the state dict, but not trained.
    ///
    /// # Errors
    /// As [`Builder::parameter`].
    pub fn buffer(&self, name: &str, tensor: Tensor) -> Result<Tensor> {
        let name = self.new_name(name)?;
        let tensor = tensor.f_to_device(self.store.device)?;
        let entry = Parameter { name, tensor: tensor.shallow_clone() };
        self.store.params.borrow_mut().buffers.push(entry);
        Ok(tensor)
    }

    fn new_name(&self, name: &str) -> Result<String> {
        let name = self.full_name(name);
        if self.store.params.borrow().state().any(|p| p.name == name) {
            return Err(Error::config(name, "this parameter name is used twice"));
        }
        Ok(name)
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once_and_names_the_random_stream() {
        let (first, second) = (Store::new(Device::Cpu, 3), Store::new(Device::Cpu, 3));
        let root = first.root();
        let a = root.child("visual").child(0).parameter("weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(root.child("visual.0").parameter("weight", &[4, 5], Init::Normal(1.0)).is_err());
        let other = second.root();
        let _ = other.parameter("before", &[7], Init::Uniform(1.0)).unwrap();
        let b = other.parameter("visual.0.weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(a.equal(&b));
        let third = Store::new(Device::Cpu, 4);
        let c = third.root().parameter("visual.0.weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(!a.equal(&c));
    }

    #[test]
    fn a_dry_store_counts_without_memory() {
        let store = Store::dry();
        // A terabyte, were it real.
        let weight = store.root().at(3).weight("weight", &[1 << 19, 1 << 19], Init::Normal(1.0)).unwrap();
        let _ = store.root().buffer("running_mean", Tensor::zeros([2], (Kind::Float, Device::Cpu))).unwrap();
        assert_eq!(weight.size(), [1 << 19, 1 << 19]);
        assert_eq!((store.count(), store.macs()), (1 << 38, 3 << 38));
        let params = store.into_params();
        assert_eq!((params.iter().len(), params.state().count()), (1, 2));
    }
}
