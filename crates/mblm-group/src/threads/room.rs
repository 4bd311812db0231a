//! The place where the threads of a group meet: a round of contents, one from each rank, and the
//! mail between two ranks.
//!
//! A round goes: each rank puts its content in; the last one makes the round complete; each rank
//! takes all contents; the last one opens the next round.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Result, Tensor, bail};
use parking_lot::{Condvar, Mutex, MutexGuard};

/// What a rank hands over in a round.
#[derive(Clone)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    Tensor(Tensor),
    Color(usize),
    Room(Option<Arc<Room>>),
}

impl Content {
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            _ => bail!("expected bytes of every rank"),
        }
    }

    pub(super) fn tensor(&self) -> Result<Tensor> {
        match self {
            Content::Tensor(tensor) => Ok(tensor.clone()),
            _ => bail!("expected a tensor of every rank"),
        }
    }

    pub(super) fn room(&self) -> Result<Arc<Room>> {
        match self {
            Content::Room(Some(room)) => Ok(Arc::clone(room)),
            _ => bail!("expected a room from the first rank of a color"),
        }
    }
}

/// The meeting place of `size` ranks.
pub(super) struct Room {
    size: usize,
    limit: Option<Duration>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// For each rank, its call and its content in the round that is being filled.
    filling: Vec<Option<(String, Content)>>,
    /// The contents of the complete round, while some rank has yet to take them.
    complete: Option<Arc<Vec<Content>>>,
    /// The ranks that have yet to take the complete round.
    waiting: usize,
    /// The number of complete rounds.
    rounds: u64,
    /// Why no further round can be completed.
    broken: Option<String>,
    /// The ranks that have left.
    left: Vec<bool>,
    /// Tensors on their way, by sender and receiver.
    mail: HashMap<(usize, usize), VecDeque<Tensor>>,
}

impl Room {
    /// A room for `size` ranks; `limit` bounds every wait.
    pub(super) fn new(size: usize, limit: Option<Duration>) -> Self {
        let state = State {
            filling: vec![None; size],
            left: vec![false; size],
            ..State::default()
        };
        Self {
            size,
            limit,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Hands over the content of `rank` for the next round, and returns the contents of all ranks.
    pub(super) fn exchange(&self, rank: usize, call: String, content: Content) -> Result<Arc<Vec<Content>>> {
        let begun = Instant::now();
        let mut state = self.state.lock();
        while state.complete.is_some() {
            self.wait(&mut state, begun, &call)?;
        }
        let round = state.rounds + 1;
        state.filling[rank] = Some((call.clone(), content));
        if state.filling.iter().all(Option::is_some) {
            state.complete_round();
            self.changed.notify_all();
        }
        loop {
            // a complete round counts even if a rank has left after it
            if state.rounds == round
                && let Some(contents) = state.complete.clone()
            {
                state.waiting -= 1;
                if state.waiting == 0 {
                    state.complete = None;
                    self.changed.notify_all();
                }
                return Ok(contents);
            }
            state.check(&call)?;
            self.wait(&mut state, begun, &call)?;
        }
    }

    /// Hands `tensor` over to rank `to`, which may take it later.
    pub(super) fn send(&self, from: usize, to: usize, tensor: Tensor) -> Result<()> {
        let mut state = self.state.lock();
        if state.left[to] {
            bail!("send: rank {to} has left the group");
        }
        state.mail.entry((from, to)).or_default().push_back(tensor);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for the next tensor from rank `from`.
    pub(super) fn receive(&self, from: usize, to: usize) -> Result<Tensor> {
        let begun = Instant::now();
        let mut state = self.state.lock();
        loop {
            if let Some(tensor) = state.mail.entry((from, to)).or_default().pop_front() {
                return Ok(tensor);
            }
            if state.left[from] {
                bail!("receive: rank {from} has left the group");
            }
            self.wait(&mut state, begun, "receive")?;
        }
    }

    /// Notes that `rank` makes no further calls.
    pub(super) fn leave(&self, rank: usize) {
        self.state.lock().left[rank] = true;
        self.changed.notify_all();
    }

    /// Waits for a change, at most until the limit after `begun`.
    fn wait(&self, state: &mut MutexGuard<'_, State>, begun: Instant, call: &str) -> Result<()> {
        let Some(limit) = self.limit else {
            self.changed.wait(state);
            return Ok(());
        };
        if self.changed.wait_until(state, begun + limit).timed_out() {
            bail!("{call}: waited {} s for another rank", limit.as_secs_f64());
        }
        Ok(())
    }
}

impl State {
    /// Turns the filled round into the complete one, if all ranks made the same call.
    fn complete_round(&mut self) {
        let calls = self.filling.iter().flatten().map(|(call, _)| call);
        let expected = calls.clone().next().cloned().unwrap_or_default();
        if let Some((rank, found)) = calls.enumerate().find(|(_, call)| **call != expected) {
            self.broken = Some(format!(
                "expected the same call on all ranks: {expected} on rank 0, found {found} on rank {rank}"
            ));
            return;
        }
        let contents = self.filling.iter_mut().filter_map(Option::take);
        let contents: Vec<Content> = contents.map(|(_, content)| content).collect();
        self.waiting = contents.len();
        self.rounds += 1;
        self.complete = Some(Arc::new(contents));
    }

    /// Whether the round can still become complete.
    fn check(&self, call: &str) -> Result<()> {
        if let Some(reason) = &self.broken {
            bail!("{reason}");
        }
        let missing = (0..self.left.len()).find(|&rank| self.left[rank] && self.filling[rank].is_none());
        match missing {
            Some(rank) => bail!("{call}: rank {rank} has left the group"),
            None => Ok(()),
        }
    }
}
