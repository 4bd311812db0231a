//! Parameters, where their first values come from, and the buffers of their gradients.
//!
//! A [`Parameter`] is a named tensor that is updated in place. Layers hold their own parameters; the model holds the list of
//! all of them, in the order in which they were made, and a parameter's place in that list is its index in [`Gradients`].
//!
//! Decoding reads the weights of linear layers in a form of their own ([`linear::Packed`]). Whoever decodes holds it
//! ([`Parameters::pack`]); the parameter only knows where it is, and stops to use it once its values have changed. How the linear
//! layers multiply is the same for all of a model ([`Parameters::multiply`]). On a CUDA device, products rounded to bfloat16 mean
//! activations in bfloat16, and each weight keeps a rounded copy of itself until it changes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use candle_core::{DType, Device, Tensor, Var};
use mblm_ops::GradBuffer;
use mblm_ops::cpu::par_map;
use mblm_ops::linear::{self, Products};

use super::init::Init;
use super::shards::ShardGradients;
use crate::{Error, Result};

/// A named tensor of the model that training changes in place.
#[derive(Clone, Debug)]
pub struct Parameter {
    name: Arc<str>,
    index: usize,
    var: Var,
    value: Tensor,
    /// Whether products round to bfloat16; one for the whole model.
    rounded: Arc<AtomicBool>,
    /// What a linear layer's weight knows besides.
    linear: Option<LinearWeight>,
}

#[derive(Clone, Debug, Default)]
struct LinearWeight {
    /// Where the packed form is, while somebody holds it.
    packed: Arc<RwLock<Weak<linear::Packed>>>,
    /// The values in the type of activations, from their first use until they change.
    shadow: Arc<Mutex<Option<Tensor>>>,
}

/// As long as this lives, the linear layers of a model multiply as [`Parameters::multiply`] was told.
pub(crate) struct Multiplying {
    rounded: Option<Arc<AtomicBool>>,
    before: bool,
}

impl Drop for Multiplying {
    fn drop(&mut self) {
        if let Some(rounded) = &self.rounded {
            rounded.store(self.before, Ordering::Relaxed);
        }
    }
}

/// Holds the packed weights of a model: as long as this lives, its linear layers read them.
pub(crate) struct PackedWeights(#[expect(dead_code, reason = "held, not read")] Vec<Arc<linear::Packed>>);

impl Parameter {
    /// The name in model files, such as `stage_models.0.norm.g`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The values, outside every autograd graph.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The same storage as a variable of candle's autograd, for blocks that leave their gradients to candle.
    pub fn tracked(&self) -> &Tensor {
        self.var.as_tensor()
    }

    /// Replaces the values; every holder of the parameter sees them.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        self.changed();
        Ok(self
            .var
            .set(&value.to_dtype(self.value.dtype())?.to_device(self.value.device())?)?)
    }

    /// Says that the values have been changed in place, in another way than by [`set`](Self::set).
    pub fn changed(&self) {
        if let Some(weight) = &self.linear {
            // a lock that a panicking thread held still guards a whole `Weak`
            *weight.packed.write().unwrap_or_else(PoisonError::into_inner) = Weak::new();
            *weight.shadow.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// The type of the activations that this parameter meets.
    pub(super) fn activations(&self) -> DType {
        match self.value.device().is_cuda() && self.rounded.load(Ordering::Relaxed) {
            true => DType::BF16,
            false => self.value.dtype(),
        }
    }

    /// The values of a linear layer's weight in the type of its input.
    pub(super) fn weight_for(&self, x: &Tensor) -> Result<Tensor> {
        let Some(weight) = self.linear.as_ref().filter(|_| x.dtype() != self.value.dtype()) else {
            return Ok(self.value.clone());
        };
        let mut shadow = weight.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shadow {
            Some(shadow) if shadow.dtype() == x.dtype() => Ok(shadow.clone()),
            _ => Ok(shadow.insert(self.value.to_dtype(x.dtype())?).clone()),
        }
    }

    /// The packed form of the values, where somebody holds it.
    pub(super) fn packed(&self) -> Option<Arc<linear::Packed>> {
        let weight = self.linear.as_ref()?;
        weight.packed.read().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// How a linear layer multiplies with this weight.
    pub(super) fn products(&self) -> Products {
        match self.rounded.load(Ordering::Relaxed) {
            true => Products::Bf16,
            false => Products::Exact,
        }
    }
}

/// All parameters of a model, in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// The parameters in the order in which the model was built.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.0.iter()
    }

    /// The number of parameter tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no parameter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of scalar parameters.
    pub fn elements(&self) -> usize {
        self.iter().map(|parameter| parameter.value().elem_count()).sum()
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.iter().find(|parameter| parameter.name() == name)
    }

    /// The packed form of every linear layer's weight, shared with whoever holds them already.
    pub(crate) fn pack(&self) -> Result<PackedWeights> {
        let mut held = Vec::new();
        for parameter in self.iter() {
            let Some(weight) = &parameter.linear else { continue };
            let mut place = weight.packed.write().unwrap_or_else(PoisonError::into_inner);
            let packed = match place.upgrade() {
                Some(packed) => Some(packed),
                None => linear::pack(&parameter.value)?.map(Arc::new),
            };
            if let Some(packed) = packed {
                *place = Arc::downgrade(&packed);
                held.push(packed);
            }
        }
        Ok(PackedWeights(held))
    }

    /// Rounds the weights of all linear layers to bfloat16, for good; their packed forms take half the memory then.
    pub(crate) fn round_weights(&self) -> Result<()> {
        let weights = self.iter().filter(|parameter| parameter.linear.is_some());
        for parameter in weights {
            parameter.set(&parameter.value.to_dtype(DType::BF16)?)?;
        }
        Ok(())
    }

    /// Whether the model's linear layers round from now on.
    pub(crate) fn round(&self, rounded: bool) {
        if let Some(parameter) = self.0.first() {
            parameter.rounded.store(rounded, Ordering::Relaxed);
        }
    }

    /// Lets the model's linear layers multiply like that, for as long as the result lives; then as before.
    pub(crate) fn multiply(&self, products: Products) -> Multiplying {
        // one flag for the whole model
        let rounded = self.0.first().map(|parameter| parameter.rounded.clone());
        let before = match &rounded {
            Some(rounded) => rounded.swap(products == Products::Bf16, Ordering::Relaxed),
            None => false,
        };
        Multiplying { rounded, before }
    }

    /// Names and values, as a model file holds them.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        self.iter()
            .map(|parameter| (parameter.name().to_string(), parameter.value().clone()))
            .collect()
    }
}

/// One gradient buffer for each parameter of a model.
#[derive(Debug)]
pub struct Gradients {
    buffers: Vec<GradBuffer>,
    /// Of the shards of a training pass that adds to these.
    shards: ShardGradients,
}

impl Gradients {
    /// Buffers of zeros.
    pub fn zeros(parameters: &Parameters) -> Result<Self> {
        let buffers = parameters
            .iter()
            .map(|parameter| GradBuffer::zeros_like(parameter.value()))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self {
            buffers,
            shards: ShardGradients::default(),
        })
    }

    /// The buffer of one parameter.
    pub fn of(&mut self, parameter: &Parameter) -> &mut GradBuffer {
        &mut self.buffers[parameter.index]
    }

    /// The buffers of several different parameters at once.
    pub fn of_each<const N: usize>(&mut self, parameters: [&Parameter; N]) -> [&mut GradBuffer; N] {
        self.buffers
            .get_disjoint_mut(parameters.map(|parameter| parameter.index))
            .expect("a builder gives each of its parameters another index")
    }

    /// The buffers in the order of the parameters.
    pub fn iter(&self) -> std::slice::Iter<'_, GradBuffer> {
        self.buffers.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, GradBuffer> {
        self.buffers.iter_mut()
    }

    /// Those of shards, out of here while they are added to.
    pub(super) fn take_shards(&mut self) -> ShardGradients {
        std::mem::take(&mut self.shards)
    }

    pub(super) fn keep_shards(&mut self, shards: ShardGradients) {
        self.shards = shards;
    }

    /// Sets every gradient to zero, to begin the next step.
    pub fn clear(&mut self) -> Result<()> {
        let on_cpu = self.buffers.iter().all(|buffer| buffer.tensor().device().is_cpu());
        let cleared = par_map(
            self.buffers.iter_mut().collect(),
            on_cpu,
            |_, buffer: &mut GradBuffer| buffer.clear(),
        );
        Ok(cleared.into_iter().collect::<candle_core::Result<()>>()?)
    }
}

/// Where the first values of parameters come from: a seed or a file.
pub trait ParameterSource {
    /// The tensor of this name and shape. `init` says how it starts in a new model.
    fn tensor(&self, name: &str, shape: &[usize], init: Init, dtype: DType, device: &Device) -> Result<Tensor>;
}

/// Makes the parameters of a model and keeps the list of them; scopes make up the names.
#[derive(Clone)]
pub struct Builder<'a> {
    source: &'a dyn ParameterSource,
    dtype: DType,
    device: Device,
    prefix: String,
    made: Rc<RefCell<Vec<Parameter>>>,
    /// Whether the products of the linear layers round; shared by all of them.
    rounded: Arc<AtomicBool>,
}

impl<'a> Builder<'a> {
    /// A builder that takes first values from `source`.
    pub fn new(source: &'a dyn ParameterSource, dtype: DType, device: &Device) -> Self {
        Self {
            source,
            dtype,
            device: device.clone(),
            prefix: String::new(),
            made: Rc::default(),
            rounded: Arc::default(),
        }
    }

    /// The scope `name` inside this one: its parameters are called `….name.…`.
    pub fn scope(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.prefix)
        };
        Self { prefix, ..self.clone() }
    }

    /// The device that parameters are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Makes the parameter `name` of this scope.
    pub fn parameter(&self, name: &str, shape: &[usize], init: Init) -> Result<Parameter> {
        self.make(name, shape, init, None)
    }

    /// Makes the parameter `weight` (outputs, inputs) of a linear layer in this scope.
    pub(super) fn linear_weight(&self, shape: &[usize; 2], init: Init) -> Result<Parameter> {
        self.make("weight", shape, init, Some(LinearWeight::default()))
    }

    fn make(&self, name: &str, shape: &[usize], init: Init, linear: Option<LinearWeight>) -> Result<Parameter> {
        let name = self.scope(name).prefix;
        let tensor = self.source.tensor(&name, shape, init, self.dtype, &self.device)?;
        if tensor.dims() != shape {
            return Err(Error::input(format!(
                "tensor {name}: expected shape {shape:?}, found {:?}",
                tensor.dims()
            )));
        }
        // contiguous and a copy of its own: parameters change in place
        let var = Var::from_tensor(&tensor.contiguous()?.detach())?;
        let mut made = self.made.borrow_mut();
        let parameter = Parameter {
            name: name.into(),
            index: made.len(),
            value: var.as_detached_tensor(),
            var,
            rounded: self.rounded.clone(),
            linear,
        };
        made.push(parameter.clone());
        Ok(parameter)
    }

    /// The parameters made so far, by this builder and all its scopes.
    pub fn parameters(&self) -> Parameters {
        Parameters(self.made.borrow().clone())
    }
}
