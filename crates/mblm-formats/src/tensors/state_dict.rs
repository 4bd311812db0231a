//! Finds the weights in a torch file.
//!
//! A torch file holds a bare state dict `{name: tensor}`, or a dict of many objects, one of which
//! is a state dict under some key: `MODEL` in the published package, `state_dict`, `model`, …
//! elsewhere, possibly nested. Other values, and objects beside the state dict, are ignored.

use std::collections::HashSet;

use super::pickle::{Id, Object, Pickle};

/// The key of the state dict in a training checkpoint of the published package.
pub(super) const MODEL: &str = "MODEL";

/// The common keys of state dicts, the most likely first.
const KEYS: [&str; 11] = [
    MODEL,
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "ema",
    "checkpoint",
];

/// The depth of nested dicts that are searched.
const MAX_DEPTH: usize = 4;

/// A call of a torch function that makes a tensor.
pub(super) struct Rebuild<'p> {
    pub(super) function: &'p str,
    pub(super) arguments: &'p [Id],
}

/// Returns the names and tensors of the state dict.
pub(super) fn find<'p>(pickle: &'p Pickle<'_>) -> Result<Vec<(&'p str, Id)>, String> {
    match pickle.top() {
        Object::Dict(_) => {}
        Object::Call { callable, .. } => return Err(whole_object(pickle, *callable)),
        other => {
            return Err(format!(
                "expected a state dict or a training checkpoint, found {}; save one with `torch.save(model.state_dict(), path)`",
                other.describe()
            ));
        }
    }
    search(pickle, pickle.top_id(), MAX_DEPTH, &mut HashSet::new())?.ok_or_else(|| nothing(pickle))
}

/// Returns the tensors of the state dict in a dict; `None` if there are none. Candidates in order:
/// a dict under a known key, this dict itself, the only other nested dict with tensors. Known keys
/// come first because a loss or a random state beside them may be a tensor too. Each dict is
/// searched once (`seen`): a dict under several keys is found under the first.
fn search<'p>(
    pickle: &'p Pickle<'_>,
    id: Id,
    depth: usize,
    seen: &mut HashSet<Id>,
) -> Result<Option<Vec<(&'p str, Id)>>, String> {
    let Object::Dict(items) = pickle.get(id) else {
        return Ok(None);
    };
    if !seen.insert(id) {
        return Ok(None);
    }
    let named = || {
        items.iter().filter_map(|&(key, value)| match *pickle.get(key) {
            Object::Text(name) => Some((name, value)),
            _ => None,
        })
    };
    for known in KEYS.iter().filter(|_| depth > 0) {
        // of duplicate keys Python keeps the last
        if let Some((_, value)) = named().rfind(|(name, _)| name == known)
            && let Some(found) = search(pickle, value, depth - 1, seen)?
        {
            return Ok(Some(found));
        }
    }
    let tensors: Vec<_> = named().filter(|(_, value)| is_tensor(pickle, *value)).collect();
    if !tensors.is_empty() || depth == 0 {
        return Ok((!tensors.is_empty()).then_some(tensors));
    }
    let mut others = Vec::new();
    for (name, value) in named().filter(|(name, _)| !KEYS.contains(name)) {
        if let Some(found) = search(pickle, value, depth - 1, seen)? {
            others.push((name, found));
        }
    }
    match others.len() {
        0 => Ok(None),
        1 => Ok(others.pop().map(|(_, found)| found)),
        _ => {
            let names: Vec<_> = others.iter().map(|(name, _)| format!("`{name}`")).collect();
            Err(format!(
                "expected one state dict, found tensors under {}; save only the model's, or save it under \
                 \"state_dict\"",
                names.join(", ")
            ))
        }
    }
}

/// Returns whether an object is a tensor of any kind.
fn is_tensor(pickle: &Pickle<'_>, id: Id) -> bool {
    let Object::Call { callable, .. } = pickle.get(id) else {
        return false;
    };
    matches!(
        pickle.get(*callable),
        Object::Global("torch._utils" | "torch._tensor", function) if function.starts_with("_rebuild_")
    )
}

/// Returns the call that makes a tensor, without an enclosing parameter or subclass.
pub(super) fn plain<'p>(pickle: &'p Pickle<'_>, id: Id) -> Result<Rebuild<'p>, String> {
    let mut rebuild = call(pickle, id)?;
    for _ in 0..MAX_DEPTH {
        match (rebuild.function, rebuild.arguments) {
            ("_rebuild_parameter" | "_rebuild_parameter_with_state", arguments) => {
                let &data = arguments.first().ok_or("a parameter without data")?;
                rebuild = call(pickle, data)?;
            }
            // a subclass: the function, the class, its arguments, the attributes
            ("_rebuild_from_type_v2", &[function, _, arguments, ..]) => {
                match (pickle.get(function), pickle.get(arguments)) {
                    (Object::Global("torch._utils", function), Object::Tuple(arguments)) => {
                        rebuild = Rebuild { function, arguments }
                    }
                    _ => return Err("expected a plain tensor, found a tensor of a custom class".into()),
                }
            }
            _ => break,
        }
    }
    Ok(rebuild)
}

/// Returns the name and arguments of a call of a torch function.
fn call<'p>(pickle: &'p Pickle<'_>, id: Id) -> Result<Rebuild<'p>, String> {
    if let Object::Call { callable, arguments } = *pickle.get(id)
        && let Object::Global("torch._utils" | "torch._tensor", function) = *pickle.get(callable)
        && let Object::Tuple(arguments) = pickle.get(arguments)
    {
        return Ok(Rebuild { function, arguments });
    }
    Err(format!("expected a tensor, found {}", pickle.get(id).describe()))
}

/// Returns the error for a file that holds an object of a class.
fn whole_object(pickle: &Pickle<'_>, callable: Id) -> String {
    // objects are made by copyreg with their class, or by a call of the class itself
    let class = match pickle.get(callable) {
        Object::Global(module, name) => format!("an object of {module}.{name}"),
        _ => "a Python object".into(),
    };
    format!(
        "expected a state dict, found {class}, as `torch.save(model, path)` writes it: its weights cannot be read \
         without the Python code; save only the weights with `torch.save(model.state_dict(), path)`"
    )
}

fn nothing(pickle: &Pickle<'_>) -> String {
    let Object::Dict(items) = pickle.top() else {
        return "found no tensors".into();
    };
    let whole = items
        .iter()
        .find_map(|&(key, value)| match (pickle.get(key), pickle.get(value)) {
            (Object::Text("MODEL" | "model" | "state_dict"), Object::Call { callable, .. }) => {
                Some(whole_object(pickle, *callable))
            }
            _ => None,
        });
    whole.unwrap_or_else(|| {
        let keys = items.iter().filter_map(|&(key, value)| match *pickle.get(key) {
            Object::Text(name) => Some(format!("`{name}` ({})", pickle.get(value).describe())),
            _ => None,
        });
        let keys: Vec<_> = keys.take(5).collect();
        let among = if keys.is_empty() {
            "an empty dict".into()
        } else {
            keys.join(", ")
        };
        format!(
            "expected a state dict, found no tensors, only {among}; save one with \
             `torch.save(model.state_dict(), path)`"
        )
    })
}
