//! The parameters with weight decay: all, matrices, or those whose names match a pattern.

use crate::config::{DecayedParameters, suggest};
use crate::model::Parameters;
use crate::{Error, Result};

/// Whether each of the parameters decays, in their order.
///
/// # Errors
/// A pattern that matches no parameter.
pub(super) fn decayed(choice: &DecayedParameters, parameters: &Parameters) -> Result<Vec<bool>> {
    let names = || parameters.iter().map(|parameter| parameter.name());
    Ok(match choice {
        DecayedParameters::All => vec![true; parameters.len()],
        DecayedParameters::Matrices => parameters
            .iter()
            .map(|parameter| parameter.value().rank() >= 2)
            .collect(),
        DecayedParameters::Matching(patterns) => {
            for pattern in patterns {
                if !names().any(|name| matches(pattern, name)) {
                    let near = suggest::nearest(pattern, names());
                    let hint = near.map_or(String::new(), |name| format!("; did you mean \"{name}\"?"));
                    return Err(Error::config(format!(
                        "train.decay: no parameter is called {pattern:?}, where * stands for any text{hint}"
                    )));
                }
            }
            let any = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
            names().map(any).collect()
        }
    })
}

/// Whether all of `name` matches `pattern`, in which `*` stands for any text, even none.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    // take the first match between two stars: it leaves the most for the rest
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let mut name = name;
    for part in middle.split('*') {
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_text() {
        let name = "stage_models.0.layers.1.weight";
        for pattern in [
            "*",
            "**",
            name,
            "stage_models.*",
            "*.weight",
            "*.0.*.weight",
            "s*0*1*t",
            "*layers*",
            "*layers*1*",
        ] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in [
            "",
            "weight",
            "stage_models.1.*",
            "*.bias",
            "*.1.*.0.*",
            "weight*",
            "*layers",
            "*t*x",
            "stage_models.0.layers.1.weight*t",
        ] {
            assert!(!matches(pattern, name), "{pattern}");
        }
        // prefix and suffix do not overlap
        assert!(!matches("ab*ba", "aba"));
    }
}
