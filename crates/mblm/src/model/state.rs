//! The state that a block carries from one position to the next.
//!
//! A [`State`] is a list of slots. A slot is empty (the start: zeros, or no rows yet) or holds a
//! tensor whose first dimension is the sequences: all n, or 1 if all sequences share it. A block
//! documents its slots. Training (the state after a shared start row, or at a chunk border),
//! prefill and decode use the same type.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use candle_core::Tensor;

use super::room::{AddedRows, NextRow, Room};
use crate::{Error, Result};

/// The state of one block: the position of the next input, and the block's slots.
#[derive(Clone, Debug, Default)]
pub struct State {
    position: usize,
    slots: Vec<Option<Tensor>>,
    /// For growing slots: the memory that their tensors are prefixes of.
    rooms: Vec<Option<Room>>,
    /// The slots that rows were appended to.
    growing: BTreeSet<usize>,
}

impl State {
    /// The state before the first position, with all slots empty.
    pub fn empty(slots: usize) -> Self {
        Self {
            position: 0,
            slots: vec![None; slots],
            rooms: Vec::new(),
            growing: BTreeSet::new(),
        }
    }

    /// A state before `position`, with all slots empty, to be filled by the caller.
    pub fn at(position: usize, slots: usize) -> Self {
        Self {
            position,
            ..Self::empty(slots)
        }
    }

    /// The number of positions consumed.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The number of rows of each growing slot.
    pub(crate) fn growing_rows(&self) -> impl Iterator<Item = usize> {
        let growing = self.growing.iter().filter_map(|slot| self.get(*slot));
        growing.map(|tensor| tensor.dims().get(1).copied().unwrap_or(0))
    }

    /// Advances the position by `positions`.
    pub fn advance(&mut self, positions: usize) {
        self.position += positions;
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The tensor in a slot.
    pub fn get(&self, slot: usize) -> Option<&Tensor> {
        self.slots.get(slot).and_then(Option::as_ref)
    }

    /// Fills a slot.
    pub fn set(&mut self, slot: usize, tensor: Tensor) {
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(tensor);
        if let Some(room) = self.rooms.get_mut(slot) {
            *room = None;
        }
    }

    /// Appends `rows` (n, t, w) to the rows (n or 1, s, w) of a slot.
    ///
    /// Repeated appends get spare capacity, so that the cost of a row does not grow.
    pub fn append(&mut self, slot: usize, rows: &Tensor) -> Result<()> {
        self.growing.insert(slot);
        let Some(past) = self.get(slot).cloned() else {
            self.set(slot, rows.contiguous()?);
            return Ok(());
        };
        let (sequences, added, width) = rows.dims3()?;
        let len = past.dim(1)?;
        let room = self.rooms.get(slot).and_then(Option::as_ref);
        let (room, grown) = match room.map(|room| room.append(rows, len)).transpose()?.flatten() {
            Some(grown) => (room.cloned(), grown),
            None if past.dim(0)? != sequences || added > len => {
                // a first append, or many rows at once: no more may follow, so no spare capacity
                let past = past.broadcast_as((sequences, len, width))?;
                (None, Tensor::cat(&[&past, rows], 1)?)
            }
            None => {
                let (room, _) = Room::new(&past, sequences, added)?;
                match room.append(rows, len)? {
                    Some(grown) => (Some(room), grown),
                    None => return Err(Error::input("state: expected room for the rows that it was made for")),
                }
            }
        };
        self.set(slot, grown);
        self.set_room(slot, room);
        Ok(())
    }

    /// Allocates the next row (n, 1, w) of each of `slots`, in the type and on the device of
    /// `like`. The caller writes the row; [`grow`](Self::grow) then appends it.
    pub(crate) fn next_rows(
        &self,
        slots: &[usize],
        (sequences, width): (usize, usize),
        like: &Tensor,
    ) -> Result<Vec<NextRow>> {
        let mut rooms = Vec::with_capacity(slots.len());
        let shape = AddedRows {
            sequences,
            added: 1,
            width,
        };
        let mut capacity = 0;
        for &slot in slots {
            let len = self.get(slot).map_or(Ok(0), |past| past.dim(1))?;
            let room = self.rooms.get(slot).and_then(Option::as_ref);
            let taken = match room {
                Some(room) => room.take(shape, len)?,
                None => false,
            };
            rooms.push(room.filter(|_| taken).cloned());
            capacity = capacity.max(Room::capacity(len + 1));
        }
        let missing = rooms.iter().filter(|room| room.is_none()).count();
        // one allocation for all of them
        let memory = Tensor::zeros((missing, sequences, capacity, width), like.dtype(), like.device())?;
        let mut made = 0;
        let mut rows = Vec::with_capacity(slots.len());
        for (&slot, room) in slots.iter().zip(rooms) {
            let past = self.get(slot).cloned();
            let len = past.as_ref().map_or(Ok(0), |past| past.dim(1))?;
            let moves = room.is_none();
            let room = match room {
                Some(room) => room,
                None => {
                    made += 1;
                    Room {
                        rows: memory.get(made - 1)?,
                        taken: Arc::new(AtomicUsize::new(len + 1)),
                    }
                }
            };
            rows.push(NextRow { past, moves, room });
        }
        Ok(rows)
    }

    /// Appends a row that has been written to its place.
    pub(crate) fn grow(&mut self, slot: usize, row: NextRow) -> Result<()> {
        let len = row.past.as_ref().map_or(Ok(0), |past| past.dim(1))?;
        self.growing.insert(slot);
        self.set(slot, row.room.rows.narrow(1, 0, len + 1)?);
        self.set_room(slot, Some(row.room));
        Ok(())
    }

    fn set_room(&mut self, slot: usize, room: Option<Room>) {
        if slot >= self.rooms.len() {
            self.rooms.resize(slot + 1, None);
        }
        self.rooms[slot] = room;
    }

    /// Allocates spare capacity for growing slots ahead of decoding, not at the next row.
    pub(crate) fn reserve(&mut self) -> Result<()> {
        for slot in self.growing.clone() {
            let has_room = self.rooms.get(slot).is_some_and(Option::is_some);
            if let Some(past) = self.get(slot).filter(|_| !has_room).cloned() {
                let (room, kept) = Room::new(&past, past.dim(0)?, 0)?;
                self.set(slot, kept);
                self.set_room(slot, Some(room));
            }
        }
        Ok(())
    }

    /// This state, with the same growing slots as `other`.
    pub(crate) fn growing_like(mut self, other: &Self) -> Self {
        self.growing.clone_from(&other.growing);
        self
    }

    /// Joins the states of several groups of sequences, all at the same position.
    ///
    /// # Errors
    /// States at different positions, or with tensors of different shapes.
    pub fn stack(states: &[&Self]) -> Result<Self> {
        let Some(first) = states.first() else {
            return Ok(Self::default());
        };
        if let Some(other) = states.iter().find(|other| other.position != first.position) {
            return Err(Error::input(format!(
                "states: expected all at position {}, found one at {}",
                first.position, other.position
            )));
        }
        let mut stacked = Self::at(first.position, first.slots());
        for slot in 0..first.slots() {
            let tensors: Vec<&Tensor> = states.iter().filter_map(|state| state.get(slot)).collect();
            match tensors.as_slice() {
                [] => {}
                // a shared tensor stays shared
                [one, others @ ..] if one.dim(0)? == 1 && others.iter().all(|other| other.id() == one.id()) => {
                    stacked.set(slot, (*one).clone());
                }
                tensors => stacked.set(slot, Tensor::cat(tensors, 0)?),
            }
        }
        Ok(stacked)
    }

    /// Returns the state of one sequence.
    ///
    /// # Errors
    /// `index` out of range.
    pub fn sequence(&self, index: usize) -> Result<Self> {
        self.map(|tensor| match tensor.dim(0)? {
            1 => Ok(tensor.clone()),
            _ => Ok(tensor.narrow(0, index, 1)?.contiguous()?),
        })
    }

    /// The same state with every tensor mapped.
    pub fn map(&self, mut map: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let slots = self
            .slots
            .iter()
            .map(|slot| slot.as_ref().map(&mut map).transpose())
            .collect::<Result<_>>()?;
        Ok(Self {
            position: self.position,
            slots,
            rooms: Vec::new(),
            growing: BTreeSet::new(),
        })
    }

    /// A copy that keeps no larger tensor alive; growing slots stay in their room.
    pub(super) fn apart(&self) -> Result<Self> {
        let mut apart = self.clone();
        for (slot, tensor) in apart.slots.iter_mut().enumerate() {
            if let Some(tensor) = tensor.as_mut().filter(|_| !self.growing.contains(&slot)) {
                *tensor = tensor.copy()?;
            }
        }
        Ok(apart)
    }

    /// The same values outside every autograd graph.
    pub fn detach(&self) -> Self {
        Self {
            position: self.position,
            slots: self
                .slots
                .iter()
                .map(|slot| slot.as_ref().map(Tensor::detach))
                .collect(),
            rooms: self.rooms.clone(),
            growing: self.growing.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn rows(values: std::ops::Range<u32>, sequences: usize) -> Tensor {
        let count = values.len();
        let values = Tensor::arange(values.start as f32, values.end as f32, &Device::Cpu).unwrap();
        let values = values.reshape((1, count, 1)).unwrap();
        values
            .broadcast_as((sequences, count, 2))
            .unwrap()
            .contiguous()
            .unwrap()
    }

    fn held(state: &State) -> Vec<Vec<f32>> {
        let slot = state.get(0).unwrap().narrow(2, 0, 1).unwrap().squeeze(2).unwrap();
        slot.to_vec2().unwrap()
    }

    fn counting(to: u32) -> Vec<f32> {
        (0..to).map(|value| value as f32).collect()
    }

    #[test]
    fn rows_are_appended_one_by_one_or_many_at_once() {
        let mut state = State::empty(1);
        let mut len = 0;
        for added in [1, 1, 1, 5, 1, 40, 1, 1, 100, 1] {
            state.append(0, &rows(len..len + added, 2)).unwrap();
            len += added;
            assert_eq!(held(&state), vec![counting(len); 2]);
        }
    }

    #[test]
    fn reserved_room_takes_the_next_rows() {
        let mut state = State::empty(2);
        state.append(0, &rows(0..1, 1)).unwrap();
        state.append(0, &rows(1..100, 1)).unwrap();
        state.set(1, rows(0..3, 1));
        state.reserve().unwrap();
        let room = |state: &State| state.rooms[0].as_ref().unwrap().rows.id();
        let reserved = room(&state);
        assert_eq!(held(&state), [counting(100)]);
        for value in 100..140 {
            state.append(0, &rows(value..value + 1, 1)).unwrap();
        }
        assert_eq!(held(&state), [counting(140)]);
        assert_eq!(room(&state), reserved);
        assert!(state.rooms.get(1).is_none(), "nothing was appended to it");
        let mut loaded = State::at(100, 2).growing_like(&state);
        loaded.set(0, rows(0..100, 1));
        loaded.reserve().unwrap();
        assert!(loaded.rooms[0].is_some());
    }

    #[test]
    fn clones_go_their_own_ways() {
        let mut state = State::empty(1);
        for value in 0..5 {
            state.append(0, &rows(value..value + 1, 1)).unwrap();
        }
        let mut clones = [state.clone(), state.clone(), state.detach()];
        for (index, clone) in clones.iter_mut().enumerate() {
            for value in 0..30 {
                let value = 100 * index as u32 + value;
                clone.append(0, &rows(value..value + 1, 1)).unwrap();
            }
        }
        assert_eq!(held(&state), [counting(5)]);
        for (index, clone) in clones.iter().enumerate() {
            let own = (0..30).map(|value| (100 * index + value) as f32);
            let expected: Vec<f32> = counting(5).into_iter().chain(own).collect();
            assert_eq!(held(clone), [expected]);
        }
    }

    /// Appends a row as an operation does that writes into the room.
    fn write_next(state: &mut State, value: u32, sequences: usize) {
        let row = rows(value..value + 1, sequences);
        let mut places = state.next_rows(&[0], (sequences, 2), &row).unwrap();
        let place = places.pop().unwrap();
        let len = place.past.as_ref().map_or(0, |past| past.dim(1).unwrap());
        if let Some(past) = place.past.as_ref().filter(|_| place.moves) {
            let past = past.broadcast_as((sequences, len, 2)).unwrap();
            place.room().slice_set(&past.contiguous().unwrap(), 1, 0).unwrap();
        }
        place.room().slice_set(&row, 1, len).unwrap();
        state.grow(0, place).unwrap();
    }

    #[test]
    fn rows_are_written_in_place_by_others() {
        let mut state = State::empty(1);
        for value in 0..20 {
            match value % 3 {
                0 => state.append(0, &rows(value..value + 1, 1)).unwrap(),
                _ => write_next(&mut state, value, 1),
            }
            assert_eq!(held(&state), [counting(value + 1)]);
        }
        let mut clones = [state.clone(), state.detach(), state.clone()];
        for (index, clone) in clones.iter_mut().enumerate() {
            for value in 0..30 {
                write_next(clone, 100 * index as u32 + value, 1);
            }
        }
        assert_eq!(held(&state), [counting(20)]);
        for (index, clone) in clones.iter().enumerate() {
            let own = (0..30).map(|value| (100 * index + value) as f32);
            let expected: Vec<f32> = counting(20).into_iter().chain(own).collect();
            assert_eq!(held(clone), [expected]);
        }
        write_next(&mut state, 20, 3);
        assert_eq!(held(&state), vec![counting(21); 3]);
    }

    #[test]
    fn rows_of_several_slots_get_memory_of_their_own() {
        let mut state = State::empty(2);
        let row = rows(0..1, 1);
        for len in 0..30 {
            let places = state.next_rows(&[0, 1], (1, 2), &row).unwrap();
            for (slot, place) in places.into_iter().enumerate() {
                if let Some(past) = place.past.as_ref().filter(|_| place.moves) {
                    place.room().slice_set(past, 1, 0).unwrap();
                }
                let value = len as u32 + 50 * slot as u32;
                place.room().slice_set(&rows(value..value + 1, 1), 1, len).unwrap();
                state.grow(slot, place).unwrap();
            }
        }
        let other = state.get(1).unwrap().narrow(2, 0, 1).unwrap().flatten_all().unwrap();
        assert_eq!(held(&state), [counting(30)]);
        assert_eq!(other.to_vec1::<f32>().unwrap(), counting(80)[50..]);
    }

    #[test]
    fn a_row_that_all_share_is_not_changed_by_one_that_goes_on() {
        let mut start = State::empty(1);
        start.append(0, &rows(0..1, 1)).unwrap();
        let mut state = start.clone();
        state.append(0, &rows(1..2, 3)).unwrap();
        assert_eq!(held(&state), vec![counting(2); 3]);
        assert_eq!(held(&start), [counting(1)]);
    }

    #[test]
    fn states_are_stacked_and_taken_apart() {
        let mut states = [State::at(3, 2), State::at(3, 2)];
        for (index, state) in states.iter_mut().enumerate() {
            let value = index as u32;
            state.set(0, rows(value..value + 1, 1));
        }
        let stacked = State::stack(&[&states[0], &states[1], &states[0]]).unwrap();
        assert_eq!(stacked.position(), 3);
        assert!(stacked.get(1).is_none());
        assert_eq!(held(&stacked), [[0.0], [1.0], [0.0]]);
        assert_eq!(held(&stacked.sequence(1).unwrap()), [[1.0]]);
        let shared = State::stack(&[&states[0], &states[0].clone()]).unwrap();
        assert_eq!(held(&shared), [[0.0]]);
        assert!(State::stack(&[&states[0], &State::at(4, 2)]).is_err());
    }
}
