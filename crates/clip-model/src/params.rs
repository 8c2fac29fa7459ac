//! Named parameters: the tensors of a model under their state-dict names.

use std::cell::{Cell, RefCell};

use tch::{Device, Kind, Tensor};

use crate::mode::{Mode, name_seed};
use crate::{Error, Result};

/// A named tensor of the state dict.
#[derive(Debug)]
pub struct Parameter {
    /// State-dict name, such as `visual.conv1.weight`.
    pub name: String,
    /// The value; shares its storage with the layer that uses it.
    pub tensor: Tensor,
}

/// The state dict of a model: all parameters and buffers, in the order of construction.
#[derive(Debug, Default)]
pub struct Params {
    entries: Vec<Parameter>,
    buffers: Vec<Parameter>,
}

/// Initialisation of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    /// A constant value.
    Constant(f64),
    /// Normal distribution with mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform distribution in ± this bound.
    Uniform(f64),
}

impl Init {
    /// PyTorch's default for linear and convolution layers: uniform in ±1/sqrt(fan_in).
    pub(crate) fn fan_in(fan_in: i64) -> Self {
        Init::Uniform(1.0 / (fan_in as f64).sqrt())
    }

    /// Xavier's uniform initialisation of a matrix `[out, in]`.
    pub(crate) fn xavier(fan_out: i64, fan_in: i64) -> Self {
        Init::Uniform((6.0 / (fan_in + fan_out) as f64).sqrt())
    }
}

impl Params {
    /// Iterates over the trainable parameters, in the order of construction.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.entries.iter()
    }

    /// Iterates over the buffers: tensors without a gradient, such as BatchNorm's running statistics.
    pub fn buffers(&self) -> std::slice::Iter<'_, Parameter> {
        self.buffers.iter()
    }

    /// Iterates over the whole state dict: parameters, then buffers.
    pub fn state(&self) -> impl Iterator<Item = &Parameter> {
        self.entries.iter().chain(&self.buffers)
    }

    /// Returns the parameter or buffer with a name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.state().find(|p| p.name == name).map(|p| &p.tensor)
    }

    /// Returns the number of elements of all parameters; buffers are not counted, as is usual.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|p| p.tensor.numel()).sum()
    }

    /// Enables or disables gradients of all parameters.
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

/// Creates the parameters of a model under a dotted prefix, and counts what their use costs.
#[derive(Clone)]
pub(crate) struct ParamBuilder<'a> {
    store: &'a ParamStore,
    prefix: String,
    positions: i64,
    sequences: i64,
}

/// Parameters, counters and mode that the builders of one model share.
#[derive(Debug)]
pub(crate) struct ParamStore {
    params: RefCell<Params>,
    macs: Cell<u64>,
    outputs: Cell<u64>,
    mode: Mode,
    device: Device,
    seed: u64,
    values: Values,
}

/// The values of new parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// Random or constant, from the seed.
    Initial,
    /// Undefined, for weights that replace all of them.
    Unset,
    /// None: the parameters are only counted.
    Counted,
}

impl ParamStore {
    /// Creates a store for a model on `device`; `seed` determines the initial parameters.
    pub(crate) fn new(device: Device, seed: u64) -> Self {
        ParamStore {
            params: RefCell::default(),
            macs: Cell::new(0),
            outputs: Cell::new(0),
            mode: Mode::default(),
            device,
            seed,
            values: Values::Initial,
        }
    }

    /// Creates a store whose parameters have undefined values. They take no memory until they are written.
    pub(crate) fn unset(device: Device) -> Self {
        ParamStore { values: Values::Unset, ..ParamStore::new(device, 0) }
    }

    /// Creates a store that only counts. Its tensors have the right shapes but share one element each, so a model of
    /// any size takes no memory. Do not run such a model.
    pub(crate) fn counting() -> Self {
        ParamStore { values: Values::Counted, ..ParamStore::new(Device::Cpu, 0) }
    }

    /// Returns the builder at the root of the state dict.
    ///
    /// The seed and the parameter's name determine its initial values, so two models with a common part have the same
    /// initial values in that part.
    pub(crate) fn root(&self) -> ParamBuilder<'_> {
        ParamBuilder { store: self, prefix: String::new(), positions: 1, sequences: 1 }
    }

    /// Returns the multiply-accumulates counted so far.
    pub(crate) fn macs(&self) -> u64 {
        self.macs.get()
    }

    /// Returns the output elements per sample of the weighted layers so far.
    pub(crate) fn outputs(&self) -> u64 {
        self.outputs.get()
    }

    /// Returns the device of the parameters.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// Returns the number of parameters so far.
    pub(crate) fn count(&self) -> u64 {
        self.params.borrow().count() as u64
    }

    /// Returns the training and evaluation mode, shared by all layers of the model.
    pub(crate) fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Returns the finished state dict.
    pub(crate) fn into_params(self) -> Params {
        self.params.into_inner()
    }
}

impl ParamBuilder<'_> {
    /// Returns the builder one level down.
    pub(crate) fn child(&self, name: impl std::fmt::Display) -> Self {
        ParamBuilder { prefix: self.full_name(&name.to_string()), ..self.clone() }
    }

    /// Sets the number of positions (tokens or pixels) per sequence for layers built here.
    pub(crate) fn at_positions(&self, positions: i64) -> Self {
        ParamBuilder { positions, sequences: 1, ..self.clone() }
    }

    /// Sets the number of sequences per sample, each with the length set by [`ParamBuilder::at_positions`].
    pub(crate) fn with_sequences(&self, sequences: i64) -> Self {
        ParamBuilder { sequences, ..self.clone() }
    }

    /// Returns the number of positions per sequence for layers built here.
    pub(crate) fn positions(&self) -> i64 {
        self.positions
    }

    /// Counts multiply-accumulates per sequence of a product without weights, such as attention.
    pub(crate) fn count_macs(&self, macs: i64) {
        let macs = macs.saturating_mul(self.sequences).max(0) as u64;
        self.store.macs.set(self.store.macs.get().saturating_add(macs));
    }

    /// Moves a tensor that is neither trained nor saved to the model's device.
    ///
    /// # Errors
    /// [`Error::Torch`] if memory runs out.
    pub(crate) fn constant(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.f_to_device(self.store.device)?)
    }

    /// Returns the model's mode and the key of this layer's random numbers.
    pub(crate) fn mode(&self) -> (Mode, u64) {
        (self.store.mode.clone(), name_seed(0, &self.prefix))
    }

    /// Creates the weight of a matrix product or convolution: a parameter whose use costs one multiply-accumulate per
    /// element and position.
    ///
    /// # Errors
    /// The errors of [`ParamBuilder::parameter`].
    pub(crate) fn weight(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let elements = shape.iter().fold(1i64, |product, n| product.saturating_mul(*n));
        self.count_macs(elements.saturating_mul(self.positions));
        let channels = shape.first().copied().unwrap_or(1);
        let outputs = channels.saturating_mul(self.positions).saturating_mul(self.sequences).max(0) as u64;
        self.store.outputs.set(self.store.outputs.get().saturating_add(outputs));
        self.parameter(name, shape, init)
    }

    /// Creates a trainable float32 parameter.
    ///
    /// # Errors
    /// [`Error::Config`] if the name is already used; [`Error::Torch`] if memory runs out.
    pub(crate) fn parameter(&self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        let name = self.new_name(name)?;
        let tensor = match self.store.values {
            Values::Counted => {
                Tensor::f_zeros([0i64; 0], (Kind::Float, Device::Cpu))?.f_expand(shape, false)?
            }
            Values::Unset => {
                Tensor::f_empty(shape, (Kind::Float, self.store.device))?.f_set_requires_grad(true)?
            }
            Values::Initial => {
                // Drawn on the CPU, so that a seed gives the same weights on any device.
                let mut tensor = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
                match init {
                    Init::Constant(value) => tensor.f_fill_(value)?,
                    // torch has a single generator, so no other thread may draw in between.
                    Init::Normal(std) => {
                        crate::mode::seeded(name_seed(self.store.seed, &name), || tensor.f_normal_(0.0, std))?
                    }
                    Init::Uniform(bound) => crate::mode::seeded(name_seed(self.store.seed, &name), || {
                        tensor.f_uniform_(-bound, bound)
                    })?,
                }
                .f_to_device(self.store.device)?
                .f_set_requires_grad(true)?
            }
        };
        let entry = Parameter { name, tensor: tensor.shallow_clone() };
        self.store.params.borrow_mut().entries.push(entry);
        Ok(tensor)
    }

    /// Creates a buffer: part of the state dict, but not trained.
    ///
    /// # Errors
    /// The errors of [`ParamBuilder::parameter`].
    pub(crate) fn buffer(&self, name: &str, tensor: Tensor) -> Result<Tensor> {
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
    fn names_are_unique_and_determine_the_random_stream() {
        let (first, second) = (ParamStore::new(Device::Cpu, 3), ParamStore::new(Device::Cpu, 3));
        let root = first.root();
        let a = root.child("visual").child(0).parameter("weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(root.child("visual.0").parameter("weight", &[4, 5], Init::Normal(1.0)).is_err());
        let other = second.root();
        let _ = other.parameter("before", &[7], Init::Uniform(1.0)).unwrap();
        let b = other.parameter("visual.0.weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(a.equal(&b));
        let third = ParamStore::new(Device::Cpu, 4);
        let c = third.root().parameter("visual.0.weight", &[4, 5], Init::Normal(1.0)).unwrap();
        assert!(!a.equal(&c));
    }

    #[test]
    fn a_counting_store_takes_no_memory() {
        let store = ParamStore::counting();
        // This would take a terabyte.
        let weight =
            store.root().at_positions(3).weight("weight", &[1 << 19, 1 << 19], Init::Normal(1.0)).unwrap();
        let _ = store.root().buffer("running_mean", Tensor::zeros([2], (Kind::Float, Device::Cpu))).unwrap();
        assert_eq!(weight.size(), [1 << 19, 1 << 19]);
        assert_eq!((store.count(), store.macs()), (1 << 38, 3 << 38));
        let params = store.into_params();
        assert_eq!((params.iter().len(), params.state().count()), (1, 2));
    }
}
