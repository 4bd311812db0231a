//! The known name nearest to a misspelled one, by Damerau–Levenshtein distance.
//!
//! ```
//! use mblm::config::suggest::nearest;
//!
//! assert_eq!(nearest("learning_rte", ["learning_rate", "batch_size"]), Some("learning_rate"));
//! ```

/// Returns the known name nearest to `word`: at most two edits away, or a third of its length for
/// long names.
///
/// Letter case does not count. Of equally near names the first is returned.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Returns the end of an error message about an unknown name: the nearest known name, or all known
/// names.
pub fn hint(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None if known.is_empty() => String::new(),
        None => format!("; known are: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{hint, nearest};

    #[test]
    fn finds_slips_and_leaves_strangers() {
        let known = ["learning_rate", "batch_size", "io"];
        assert_eq!(nearest("learning_rat", known), Some("learning_rate"));
        assert_eq!(nearest("Batch_Size", known), Some("batch_size"));
        assert_eq!(nearest("abtch_size", known), Some("batch_size"));
        assert_eq!(nearest("oi", known), Some("io"));
        assert_eq!(nearest("xy", known), None);
        assert_eq!(nearest("momentum", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn lists_the_known_names_where_none_is_near() {
        assert_eq!(hint("rate", &["tiny", "small"]), "; known are: tiny, small");
        assert_eq!(hint("smal", &["tiny", "small"]), "; did you mean \"small\"?");
        assert_eq!(hint("anything", &[]), "");
    }
}
