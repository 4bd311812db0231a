//! Translation of the parameter names of older files.
//!
//! Files of the Python package up to 0.4.0 name the byte embeddings by their index in a list of
//! layers:
//!
//! | up to 0.4.0 | since |
//! |---|---|
//! | `token_embs_rev.0.weight`, `token_embs_rev.{k}.0.weight` | `token_embs_rev.{k}.embedding.weight` |
//! | `token_embs_rev.{k}.{2,3,4}.…` | `token_embs_rev.{k}._post.{1,2,3}.…` |
//!
//! A model that is a part of another has a prefix before its names, as in `model.to_logits.weight`
//! of a Lightning module or `module.…` of DistributedDataParallel. If exactly one name ends in
//! `to_logits.weight`, its prefix is removed and tensors without the prefix, such as the weights of
//! a loss, are dropped. `_orig_mod` (torch.compile), `_fsdp_wrapped_module` and
//! `_checkpoint_wrapped_module` are removed anywhere in a name.
//!
//! The two generations share no name, so names are translated one by one. Recomputed buffers are
//! dropped.

use std::borrow::Cow;
use std::collections::HashSet;

use candle_core::Tensor;
use indexmap::IndexMap;

const EMBEDDINGS: &str = "token_embs_rev.";

/// Returns the tensors of one file under their current names, in the file's order.
pub(super) fn current<T>(tensors: Vec<(String, T)>) -> Result<IndexMap<String, T>, String> {
    let mut named = IndexMap::with_capacity(tensors.len());
    let tensors: Vec<_> = tensors
        .into_iter()
        .filter(|(name, _)| !is_of_no_parameter(name))
        .collect();
    let root = root_of(&tensors.iter().map(|(name, _)| unwrapped(name)).collect::<Vec<_>>());
    for (found, tensor) in tensors {
        let bare = unwrapped(&found);
        // other tensors belong to the enclosing model
        let Some(bare) = bare.strip_prefix(&root) else { continue };
        let name = current_name(bare);
        if named.contains_key(name.as_ref()) {
            return Err(format!(
                "the file holds the tensor `{name}` twice, the second time as `{found}`; expected each parameter once, \
                 under its old or new name"
            ));
        }
        named.insert(name.into_owned(), tensor);
    }
    Ok(named)
}

/// Checks tensors before they are written: unique names and floating-point elements.
pub(super) fn check_writable(tensors: &[(String, Tensor)]) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !seen.insert(name.as_str()) {
            return Err(format!("the tensor `{name}` appears twice; expected each name once"));
        }
        if !tensor.dtype().is_float() {
            return Err(format!(
                "the tensor `{name}` has elements of type {:?}, expected floating-point numbers",
                tensor.dtype()
            ));
        }
    }
    Ok(())
}

/// Prefixes that wrappers add to all names.
const PREFIXES: [&str; 4] = ["module.", "model.", "net.", "_forward_module."];

/// A parameter of every model; no other parameter's name ends like this.
const HEAD: &str = "to_logits.weight";

/// Parts that wrappers insert anywhere in names.
const PARTS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Returns whether a tensor is no parameter: a buffer of rotary frequencies (computed from the
/// configuration), the counter of an averaged model, or extra state.
fn is_of_no_parameter(name: &str) -> bool {
    ["rotary_emb.inv_freq", "n_averaged", "_extra_state"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// Returns the name without the parts that wrappers insert.
fn unwrapped(name: &str) -> String {
    let parts = name.split('.').filter(|part| !PARTS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// Returns the prefix of the model's parameter names: the prefix of `to_logits.weight`, which every
/// model has once, else the wrapper prefixes that all names share. Empty if several models qualify.
fn root_of(names: &[String]) -> String {
    let before = |name: &String| name.strip_suffix(HEAD).map(str::to_string);
    let mut roots: Vec<String> = names.iter().filter_map(before).collect();
    roots.retain(|root| root.is_empty() || root.ends_with('.'));
    let of_a_wrapper = |root: &&String| shared_prefix(std::slice::from_ref(*root)).len() == root.len();
    match &roots[..] {
        [] => shared_prefix(names),
        [root] => root.clone(),
        // a second model is in the file, such as a moving average of the weights
        _ => {
            let mut known = roots.iter().filter(of_a_wrapper);
            match (known.next(), known.next()) {
                (Some(root), None) => root.clone(),
                _ => String::new(),
            }
        }
    }
}

/// Returns the wrapper prefixes that all names share.
fn shared_prefix(names: &[String]) -> String {
    let mut shared = String::new();
    let longer = |shared: &str| {
        let mut prefixes = PREFIXES.iter().map(|prefix| format!("{shared}{prefix}"));
        prefixes.find(|prefix| !names.is_empty() && names.iter().all(|name| name.starts_with(prefix.as_str())))
    };
    while let Some(prefix) = longer(&shared) {
        shared = prefix;
    }
    shared
}

/// Returns the current name of the parameter that a file calls `name`.
fn current_name(name: &str) -> Cow<'_, str> {
    translate(name).map_or(Cow::Borrowed(name), Cow::Owned)
}

fn translate(name: &str) -> Option<String> {
    let (level, rest) = name.strip_prefix(EMBEDDINGS)?.split_once('.')?;
    if level.is_empty() || !level.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if rest == "0.weight" || (rest == "weight" && level == "0") {
        return Some(format!("{EMBEDDINGS}{level}.embedding.weight"));
    }
    let (layer, parameter) = rest.split_once('.')?;
    let post = match layer {
        "2" => 1,
        "3" => 2,
        "4" => 3,
        _ => return None,
    };
    Some(format!("{EMBEDDINGS}{level}._post.{post}.{parameter}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_become_current() {
        for (old, new) in [
            ("token_embs_rev.0.weight", "token_embs_rev.0.embedding.weight"),
            ("token_embs_rev.1.0.weight", "token_embs_rev.1.embedding.weight"),
            ("token_embs_rev.12.0.weight", "token_embs_rev.12.embedding.weight"),
            ("token_embs_rev.1.2.weight", "token_embs_rev.1._post.1.weight"),
            ("token_embs_rev.1.2.bias", "token_embs_rev.1._post.1.bias"),
            ("token_embs_rev.2.3.weight", "token_embs_rev.2._post.2.weight"),
            ("token_embs_rev.2.4.bias", "token_embs_rev.2._post.3.bias"),
        ] {
            assert_eq!(current_name(old), new);
            assert_eq!(current_name(new), new, "a current name stays");
        }
    }

    #[test]
    fn other_names_stay() {
        for name in [
            "start_tokens.0",
            "to_next_stage_proj.0.1.weight",
            "stage_models.1.layers.0.1.4.weight",
            "stage_models.0.token_embs_rev.1.0.weight",
            "token_embs_rev.1.5.weight",
            "token_embs_rev.1.weight",
            "token_embs_rev.x.0.weight",
            "token_embs_rev..0.weight",
            "token_embs_rev.",
            "",
        ] {
            assert_eq!(current_name(name), name);
        }
    }

    fn map(names: &[&str]) -> Result<Vec<String>, String> {
        let tensors = names.iter().map(|name| (name.to_string(), ())).collect();
        current(tensors).map(|named| named.into_keys().collect())
    }

    #[test]
    fn buffers_are_left_out_and_the_order_stays() {
        let names = map(&[
            "b",
            "stage_models.1.rotary_emb.inv_freq",
            "token_embs_rev.0.weight",
            "a",
        ])
        .unwrap();
        assert_eq!(names, ["b", "token_embs_rev.0.embedding.weight", "a"]);
    }

    #[test]
    fn what_wrappers_add_is_left_out() {
        for prefix in [
            "",
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model.",
            "model.module.",
        ] {
            let found = [
                format!("{prefix}token_embs_rev.0.weight"),
                format!("{prefix}start_tokens.0"),
                "n_averaged".into(),
            ];
            let names = map(&found.each_ref().map(String::as_str)).unwrap();
            assert_eq!(
                names,
                ["token_embs_rev.0.embedding.weight", "start_tokens.0"],
                "{prefix}"
            );
        }
        assert_eq!(
            map(&["a._orig_mod.b", "_extra_state", "c._extra_state"]).unwrap(),
            ["a.b"]
        );
        // not all names have the prefix, so it stays
        assert_eq!(map(&["module.a", "b"]).unwrap(), ["module.a", "b"]);
        assert!(map(&["a._orig_mod.b", "a.b"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_model_that_is_a_part_of_another_is_found() {
        let of = |names: &[&str]| map(names).unwrap();
        for root in ["model.", "lm.inner.", "module.model."] {
            let names = ["to_logits.weight", "start_tokens.0"].map(|name| format!("{root}{name}"));
            let all = [&names[0], "loss_fn.weight", &names[1], "model.n_averaged"];
            assert_eq!(of(&all), ["to_logits.weight", "start_tokens.0"], "{root}");
        }
        // with a moving average of the weights
        let two = ["ema.to_logits.weight", "model.to_logits.weight", "model.a", "ema.a"];
        assert_eq!(of(&two), ["to_logits.weight", "a"]);
        // several models, none preferred
        let two = ["a.to_logits.weight", "b.to_logits.weight"];
        assert_eq!(of(&two), two);
        assert_eq!(
            of(&["to_logits.weight", "b.to_logits.weight"]),
            ["to_logits.weight", "b.to_logits.weight"]
        );
    }

    #[test]
    fn a_parameter_under_both_names_is_an_error() {
        let error = map(&["token_embs_rev.0.embedding.weight", "token_embs_rev.0.weight"]).unwrap_err();
        assert!(error.contains("`token_embs_rev.0.embedding.weight` twice"), "{error}");
    }
}
