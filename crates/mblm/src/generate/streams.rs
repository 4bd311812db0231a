//! Streams at different positions: different prompts, advanced together.
//!
//! A step takes one id of each stream. Streams whose open local sequence is at the same position
//! run as one batch, and so do streams that complete a patch of a stage at the same position. Each
//! batch is assembled from the streams' states and split again. A stream does not depend on the
//! others.

use std::collections::BTreeMap;

use candle_core::Tensor;
use mblm_ops::cpu::on_workers;

use super::generator::{Generator, GeneratorState, OpenSequence};
use crate::model::State;
use crate::{Error, Result};

impl Generator {
    /// Reads a prompt for each stream. Returns states of one stream each, and the logits (b, V) of
    /// the next ids. A prompt may be empty.
    ///
    /// # Errors
    /// Those of [`prefill`](Self::prefill).
    pub fn prefill_each(&self, prompts: &[&[u32]]) -> Result<(Vec<GeneratorState>, Tensor)> {
        let mut states = Vec::with_capacity(prompts.len());
        let mut logits = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let mut state = self.begin(1);
            logits.push(match prompt.is_empty() {
                true => self.first_logits(1)?,
                false => self.prefill(&mut state, &[prompt])?,
            });
            states.push(state);
        }
        Ok((states, Tensor::cat(&logits, 0)?))
    }

    /// Consumes one id of each stream, at any positions; returns the logits (b, V) of the next ids.
    ///
    /// # Errors
    /// States of several streams, unequal counts of ids and states, unknown ids, no positions left.
    pub fn step_each(&self, states: &mut [GeneratorState], ids: &[u32]) -> Result<Tensor> {
        if states.len() != ids.len() || states.is_empty() || states.iter().any(|state| state.streams() != 1) {
            return Err(Error::input(format!(
                "step_each: expected states of one stream each, at least one, and an id for each; found {} of {:?} streams and \
                 {} ids",
                states.len(),
                states.iter().map(GeneratorState::streams).collect::<Vec<_>>(),
                ids.len()
            )));
        }
        self.check(&[ids])?;
        on_workers(|| self.step_each_checked(states, ids))
    }

    fn step_each_checked(&self, states: &mut [GeneratorState], ids: &[u32]) -> Result<Tensor> {
        let local = self.model().stage_count() - 1;
        let everyone: Vec<usize> = (0..states.len()).collect();
        let mut rows: Vec<Option<Tensor>> = vec![None; states.len()];
        for (stream, output) in self.run_together(states, local, &everyone, |stream| &ids[stream..=stream])? {
            rows[stream] = Some(output);
        }
        let rows: Vec<Tensor> = rows.into_iter().flatten().collect(); // each (1, 1, D)
        let logits = self
            .model()
            .logits_of(&Tensor::cat(&rows, 0)?, self.compute())?
            .squeeze(1)?; // (b, V)
        let mut completed: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (stream, (state, id)) in states.iter_mut().zip(ids).enumerate() {
            state.position += 1;
            state.patch[0].push(*id);
            if let Some(stage) = self.completed_stage(state) {
                completed.entry(stage).or_default().push(stream);
            }
        }
        for (stage, streams) in completed {
            let bytes = self.model().stage_bytes(stage);
            let patches: Vec<Vec<u32>> = states.iter().map(|state| last(&state.patch[0], bytes)).collect();
            for (stream, output) in self.run_together(states, stage, &streams, |stream| &patches[stream])? {
                self.open(&mut states[stream], stage + 1, &output)?;
            }
        }
        for state in states {
            self.close_patch(state);
        }
        Ok(logits)
    }

    /// Runs the next position of a stage for some streams, given each one's ids; outputs (1, 1, D).
    fn run_together<'i>(
        &self,
        states: &mut [GeneratorState],
        stage: usize,
        streams: &[usize],
        ids: impl Fn(usize) -> &'i [u32],
    ) -> Result<Vec<(usize, Tensor)>> {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &stream in streams {
            let position = states[stream].sequences[stage].positions;
            groups.entry(position).or_default().push(stream);
        }
        let mut outputs = Vec::with_capacity(streams.len());
        for group in groups.into_values() {
            let tokens: Vec<u32> = group.iter().flat_map(|stream| ids(*stream)).copied().collect();
            let members: Vec<&OpenSequence> = group.iter().map(|stream| &states[*stream].sequences[stage]).collect();
            let mut together = OpenSequence::stack(&members)?;
            let y = self.run_open(&mut together, stage, tokens, group.len(), 1)?; // (b, 1, D)
            for (index, stream) in group.into_iter().enumerate() {
                let own = &mut states[stream].sequences[stage];
                own.state = together.state.sequence(index)?;
                own.positions = together.positions;
                outputs.push((stream, y.narrow(0, index, 1)?));
            }
        }
        Ok(outputs)
    }
}

impl OpenSequence {
    /// Joins the open sequences of several streams at the same position.
    fn stack(sequences: &[&Self]) -> Result<Self> {
        let states: Vec<&State> = sequences.iter().map(|sequence| &sequence.state).collect();
        let contexts: Vec<&Tensor> = sequences
            .iter()
            .filter_map(|sequence| sequence.context.as_ref())
            .collect();
        Ok(Self {
            state: State::stack(&states)?,
            context: match contexts.is_empty() {
                true => None,
                false => Some(Tensor::cat(&contexts, 0)?),
            },
            positions: sequences.first().map_or(0, |sequence| sequence.positions),
        })
    }
}

/// The last `count` ids.
fn last(ids: &[u32], count: usize) -> Vec<u32> {
    ids[ids.len().saturating_sub(count)..].to_vec()
}
