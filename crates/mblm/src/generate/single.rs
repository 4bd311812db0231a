//! One sample, id by id. The model may be ahead of ids held back as a possible stop text.

use super::cursor::Cursor;
use super::draft::Draft;
use super::generator::Generator;
use super::window::Sliding;
use crate::Result;

/// One sample, with a model that may be ahead of it.
pub(super) struct Single {
    pub(super) draft: Draft,
    /// The last chosen id, if the model has not read it.
    unread: Option<u32>,
    /// The model's position, if it has read ids that are held back.
    ahead: Option<Cursor>,
    /// Ids after the completion's cursor.
    since: Vec<u32>,
    /// How many ids of `since` have been delivered.
    pub(super) handed_over: usize,
}

impl Single {
    /// Creates a sample without generated ids.
    pub(super) fn new(draft: Draft) -> Self {
        Self {
            draft,
            unread: None,
            ahead: None,
            since: Vec::new(),
            handed_over: 0,
        }
    }

    /// Chooses the next id; at most `remaining` may follow, this one included.
    pub(super) fn choose(&mut self, cursor: &Cursor, remaining: usize) -> Result<()> {
        let now = self.ahead.as_ref().unwrap_or(cursor);
        let id = self.draft.choose(&now.next()?, remaining)?;
        self.since.push(id);
        self.unread = Some(id);
        Ok(())
    }

    /// Reads the last chosen id, unless already read; slides a full window first.
    pub(super) fn read_last(
        &mut self,
        generator: &Generator,
        cursor: &mut Cursor,
        sliding: Option<&mut Sliding>,
    ) -> Result<()> {
        let Some(id) = self.unread.take() else { return Ok(()) };
        if let Some(sliding) = sliding {
            self.slide(generator, cursor, sliding)?;
            sliding.remember(&[id]);
        }
        self.read(generator, cursor, id)
    }

    /// Moves `cursor` after the last delivered id.
    pub(super) fn into_cursor(
        self,
        generator: &Generator,
        mut cursor: Cursor,
        sliding: Option<&Sliding>,
    ) -> Result<Cursor> {
        let mut first = 0;
        if let Some(sliding) = sliding.filter(|sliding| sliding.is_full(&cursor, self.handed_over)) {
            let (begun, rest) = sliding.slide(generator)?;
            first = self.read_since();
            let held = first.saturating_sub(self.handed_over).min(rest.len());
            cursor = begun;
            cursor.read(generator, &rest[..rest.len() - held])?;
        }
        for id in self.since.iter().take(self.handed_over).skip(first) {
            cursor.step(generator, *id)?;
        }
        Ok(cursor)
    }

    /// How many ids of `since` the model has read.
    fn read_since(&self) -> usize {
        match (&self.ahead, self.unread) {
            (None, _) => 0,
            (Some(_), None) => self.since.len(),
            (Some(_), Some(_)) => self.since.len() - 1,
        }
    }

    /// Reads an id, and moves `cursor` too unless ids are held back.
    fn read(&mut self, generator: &Generator, cursor: &mut Cursor, id: u32) -> Result<()> {
        if self.draft.holds_back() {
            return self.ahead.get_or_insert_with(|| cursor.clone()).step(generator, id);
        }
        match self.ahead.take() {
            Some(mut now) => {
                now.step(generator, id)?;
                *cursor = now;
            }
            None => cursor.step(generator, id)?,
        }
        self.since.clear();
        self.handed_over = 0;
        Ok(())
    }
}

impl Single {
    /// Slides the window if it has no room for one more id.
    fn slide(&mut self, generator: &Generator, cursor: &mut Cursor, sliding: &Sliding) -> Result<()> {
        if !sliding.is_full(self.ahead.as_ref().unwrap_or(cursor), 1) {
            return Ok(());
        }
        let (mut begun, rest) = sliding.slide(generator)?;
        // ids at the end may be held back: `cursor` stays before them
        let held = self.ahead.as_ref().map_or(0, |_| self.since.len() - 1).min(rest.len()); // without the current id
        let (before, after) = rest.split_at(rest.len() - held);
        begun.read(generator, before)?;
        *cursor = begun.clone();
        if self.ahead.is_some() {
            begun.read(generator, after)?;
            self.ahead = Some(begun);
        }
        Ok(())
    }
}
