//! The possible answers as ids with an end: the id of the end of a part or, without one, the
//! padding.

/// The answers and their ids, sorted by ids, so that answers with a common prefix are adjacent.
pub(super) struct Answers {
    list: Vec<(Vec<u32>, String)>,
}

impl Answers {
    /// Builds the list from each answer and its bytes; answers without bytes are dropped.
    pub(super) fn new<'a>(answers: impl IntoIterator<Item = (&'a str, Vec<u8>)>, end: u32) -> Self {
        let ids = |bytes: Vec<u8>| bytes.into_iter().map(u32::from).chain([end]).collect();
        let mut list: Vec<(Vec<u32>, String)> = answers
            .into_iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(answer, bytes)| (ids(bytes), answer.to_string()))
            .collect();
        list.sort();
        Self { list }
    }

    /// Returns the number of ids of the longest answer with its end.
    pub(super) fn longest(&self) -> usize {
        self.list.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0)
    }

    /// Returns the answers that begin with `ids`.
    fn beginning(&self, ids: &[u32]) -> &[(Vec<u32>, String)] {
        let first = self.list.partition_point(|(answer, _)| answer.as_slice() < ids);
        let count = self.list[first..].partition_point(|(answer, _)| answer.starts_with(ids));
        &self.list[first..first + count]
    }

    /// Returns the ids that may follow `ids`, in ascending order with repetitions.
    pub(super) fn following<'a>(&'a self, ids: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        self.beginning(ids)
            .iter()
            .filter_map(|(answer, _)| answer.get(ids.len()).copied())
    }

    /// Returns whether at most one answer begins with `ids`.
    pub(super) fn decided(&self, ids: &[u32]) -> bool {
        self.beginning(ids).len() <= 1
    }

    /// Returns the first answer that begins with `ids`.
    pub(super) fn text(&self, ids: &[u32]) -> Option<&str> {
        self.beginning(ids).first().map(|(_, text)| text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id_leads_to_an_answer() {
        let words = ["10", "1", "yes", "yellow"];
        let answers = Answers::new(words.map(|word| (word, word.as_bytes().to_vec())), 300);
        let next = |ids: &[u32]| answers.following(ids).collect::<Vec<_>>();
        let [one, zero, y, e, l, s] = [b'1', b'0', b'y', b'e', b'l', b's'].map(u32::from);
        assert_eq!(next(&[]), [one, one, y, y]);
        assert_eq!(next(&[one]), [zero, 300]);
        assert_eq!(next(&[y, e]), [l, s]);
        assert!(next(&[y, e, s, 300]).is_empty());
        assert!(answers.decided(&[y, e, s]) && answers.decided(&[one, zero]) && !answers.decided(&[one]));
        assert_eq!(answers.text(&[y, e, l]), Some("yellow"));
        assert_eq!(answers.text(&[one, 300]), Some("1"));
        assert_eq!(answers.text(&[7]), None);
        assert_eq!(answers.longest(), 7);
    }
}
