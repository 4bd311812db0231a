//! Parameters, and the builder that makes them.
//!
//! A [`Parameter`] is a named tensor that is updated in place. Layers hold their own parameters.
//! The model holds the list of all parameters in the order of their creation; a parameter's index
//! in that list is its index in [`Gradients`](super::Gradients).
//!
//! The weight of a linear layer counts its changes, so that copies ([`Compute`](super::Compute))
//! can tell whether they are up to date. If activations have another type, as on a GPU, the weight
//! keeps a rounded copy of itself until it changes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor, Var};

use super::init::{Init, ParameterSource};
use crate::{Error, Result};

/// A named tensor of the model, updated in place by training.
#[derive(Clone, Debug)]
pub struct Parameter {
    name: Arc<str>,
    index: usize,
    var: Var,
    value: Tensor,
    /// Version and rounded copy, for the weight of a linear layer.
    linear: Option<LinearWeight>,
}

#[derive(Clone, Debug, Default)]
struct LinearWeight {
    /// The number of changes of the values.
    changes: Arc<AtomicU64>,
    /// The values in the type of activations, made at first use, dropped on a change.
    shadow: Arc<Mutex<Option<Tensor>>>,
}

/// The weight, and the version of its values, that a copy was made of.
#[derive(Debug)]
pub(super) struct WeightVersion {
    weight: Arc<AtomicU64>,
    changes: u64,
}

impl Parameter {
    /// The name in model files, such as `stage_models.0.norm.g`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The values, outside every autograd graph.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The same storage as a variable of candle's autograd, for blocks differentiated by candle.
    pub fn tracked(&self) -> &Tensor {
        self.var.as_tensor()
    }

    /// Replaces the values for every holder of the parameter.
    pub fn set(&self, value: &Tensor) -> Result<()> {
        let value = value.to_dtype(self.value.dtype())?.to_device(self.value.device())?;
        self.var.set(&value)?;
        self.changed();
        Ok(())
    }

    /// Records an in-place change of the values that did not go through [`set`](Self::set).
    pub fn changed(&self) {
        if let Some(weight) = &self.linear {
            weight.changes.fetch_add(1, Ordering::Release);
            *weight.shadow.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// The index in the list of the model's parameters.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The current version, to store with a copy; `None` unless this is a linear layer's weight.
    pub(super) fn weight_version(&self) -> Option<WeightVersion> {
        self.linear.as_ref().map(|weight| WeightVersion {
            weight: weight.changes.clone(),
            changes: weight.changes.load(Ordering::Acquire),
        })
    }

    /// Whether `version` is of this weight and its values have not changed since.
    pub(super) fn has_version(&self, version: &WeightVersion) -> bool {
        self.linear.as_ref().is_some_and(|weight| {
            Arc::ptr_eq(&weight.changes, &version.weight) && weight.changes.load(Ordering::Acquire) == version.changes
        })
    }

    /// The values of a linear layer's weight in the type of its input `x`.
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

    /// Rounds the weights of all linear layers to bfloat16 permanently; packed forms halve in size.
    pub(crate) fn round_weights(&self) -> Result<()> {
        let weights = self.iter().filter(|parameter| parameter.linear.is_some());
        for parameter in weights {
            parameter.set(&parameter.value.to_dtype(DType::BF16)?)?;
        }
        Ok(())
    }

    /// Names and values, as in a model file.
    pub fn named_tensors(&self) -> Vec<(String, Tensor)> {
        self.iter()
            .map(|parameter| (parameter.name().to_string(), parameter.value().clone()))
            .collect()
    }
}

/// Creates and lists the parameters of a model; nested scopes form their names.
#[derive(Clone)]
pub struct Builder<'a> {
    source: &'a dyn ParameterSource,
    dtype: DType,
    device: Device,
    prefix: String,
    made: Rc<RefCell<Vec<Parameter>>>,
}

impl<'a> Builder<'a> {
    /// Creates a builder that takes initial values from `source`.
    pub fn new(source: &'a dyn ParameterSource, dtype: DType, device: &Device) -> Self {
        Self {
            source,
            dtype,
            device: device.clone(),
            prefix: String::new(),
            made: Rc::default(),
        }
    }

    /// The scope `name` inside this one: its parameters are named `….name.…`.
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

    /// Creates the parameter `name` of this scope.
    pub fn parameter(&self, name: &str, shape: &[usize], init: Init) -> Result<Parameter> {
        self.make(name, shape, init, None)
    }

    /// Creates the parameter `weight` (outputs, inputs) of a linear layer in this scope.
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
        // contiguous, and not shared: parameters change in place
        let var = Var::from_tensor(&tensor.contiguous()?.detach())?;
        let mut made = self.made.borrow_mut();
        let parameter = Parameter {
            name: name.into(),
            index: made.len(),
            value: var.as_detached_tensor(),
            var,
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
