//! One sample, id by id, which the model may be ahead of: what may belong to a stop text is held back until it is known.

use super::cursor::Cursor;
use super::draft::Draft;
use super::generator::Generator;
use super::window::Sliding;
use crate::Result;

/// One sample, which the model may be ahead of.
pub(super) struct Single {
    pub(super) draft: Draft,
    /// The id that was chosen last and that the model has not read.
    unread: Option<u32>,
    /// Where the model is, if it has read what is held back.
    ahead: Option<Cursor>,
    /// Ids that the completion's cursor is not behind yet.
    since: Vec<u32>,
    /// How many of them have been handed over.
    pub(super) handed_over: usize,
}

impl Single {
    /// A sample of which nothing has been generated.
    pub(super) fn new(draft: Draft) -> Self {
        Self {
            draft,
            unread: None,
            ahead: None,
            since: Vec::new(),
            handed_over: 0,
        }
    }

    /// Chooses the next id, of at most `remaining`.
    pub(super) fn choose(&mut self, cursor: &Cursor, remaining: usize) -> Result<()> {
        let now = self.ahead.as_ref().unwrap_or(cursor);
        let id = self.draft.choose(&now.next()?, remaining)?;
        self.since.push(id);
        self.unread = Some(id);
        Ok(())
    }

    /// Lets the model read the id that was chosen last, where it has not; a window slides first where it is full.
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

    /// `cursor`, moved behind what was handed over.
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

    /// How many of the ids since the cursor the model has read ahead of it.
    fn read_since(&self) -> usize {
        match (&self.ahead, self.unread) {
            (None, _) => 0,
            (Some(_), None) => self.since.len(),
            (Some(_), Some(_)) => self.since.len() - 1,
        }
    }

    /// Lets the model read an id, and `cursor` too as far as nothing is held back.
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
    /// Makes room for one more id where there is none.
    fn slide(&mut self, generator: &Generator, cursor: &mut Cursor, sliding: &Sliding) -> Result<()> {
        if !sliding.is_full(self.ahead.as_ref().unwrap_or(cursor), 1) {
            return Ok(());
        }
        let (mut begun, rest) = sliding.slide(generator)?;
        // the last of what was read may be held back: `cursor` stays before that
        let held = self.ahead.as_ref().map_or(0, |_| self.since.len() - 1).min(rest.len()); // without the id at hand
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
