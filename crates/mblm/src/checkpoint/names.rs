//! Parameter names: those of older files, brought up to date.
//!
//! Files written by the Python package up to 0.4.0 name the byte embeddings by their place in a sequence of layers:
//!
//! | up to 0.4.0 | since |
//! |---|---|
//! | `token_embs_rev.0.weight`, `token_embs_rev.{k}.0.weight` | `token_embs_rev.{k}.embedding.weight` |
//! | `token_embs_rev.{k}.{2,3,4}.…` | `token_embs_rev.{k}._post.{1,2,3}.…` |
//!
//! The two generations share no name, so each name is translated for itself. Buffers that are recomputed are left out.

use std::borrow::Cow;
use std::collections::HashSet;

use candle_core::Tensor;
use indexmap::IndexMap;

const EMBEDDINGS: &str = "token_embs_rev.";

/// The tensors of one file under their current names, in the file's order.
pub(super) fn current<T>(tensors: Vec<(String, T)>) -> Result<IndexMap<String, T>, String> {
    let mut named = IndexMap::with_capacity(tensors.len());
    for (found, tensor) in tensors {
        if is_recomputed(&found) {
            continue;
        }
        let name = current_name(&found);
        if named.contains_key(name.as_ref()) {
            return Err(format!(
                "the file holds the tensor `{name}` twice, the second time as `{found}`; \
                 expected every parameter once, under its old or its new name"
            ));
        }
        named.insert(name.into_owned(), tensor);
    }
    Ok(named)
}

/// Checks tensors that are to be written: each name once, and floating-point elements.
pub(super) fn check_writable(tensors: &[(String, Tensor)]) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !seen.insert(name.as_str()) {
            return Err(format!("the tensor `{name}` is given twice, expected every name once"));
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

/// Whether the tensor is a buffer of rotary frequencies, a function of the configuration.
fn is_recomputed(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

/// The current name of the parameter that a file calls `name`.
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
    fn a_parameter_under_both_names_is_an_error() {
        let error = map(&["token_embs_rev.0.embedding.weight", "token_embs_rev.0.weight"]).unwrap_err();
        assert!(error.contains("`token_embs_rev.0.embedding.weight` twice"), "{error}");
    }
}
