//! Asks questions: reads many samples of the same length up to the answer, then generates the
//! answers id by id.
//!
//! All threads prepare the questions of a window, which are sorted by length and cut into batches.
//! A batch is one prefill ([`Generator`]): all but the last patch of a prompt passes through the
//! first stage alone. Both kinds of answers continue from the same state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use candle_core::DType;
use rayon::prelude::*;
use serde::Serialize;

use super::answers::Answers;
use crate::clevr::{Clevr, QuestionType, answer_of};
use mblm::data::Dataset;
use mblm::generate::{Generator, GeneratorState};
use mblm::model::Mblm;
use mblm::{Error, Result};

/// The approximate number of prompt ids per window. A larger window gives fuller batches, above all
/// if JPEG files give every image its own length, and takes more memory.
const WINDOW: usize = 1 << 22;

/// A question and the model's answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answered {
    /// The index of the sample.
    pub index: usize,
    /// Its number in the file of questions, from 0.
    pub question_index: usize,
    /// The image's file name.
    pub image: String,
    /// The question.
    pub question: String,
    /// Its type.
    pub question_type: Option<QuestionType>,
    /// The number of its template.
    pub question_family_index: Option<u32>,
    /// The right answer.
    pub answer: String,
    /// The model's answer among the possible ones.
    pub constrained: String,
    /// The model's unconstrained answer; invalid UTF-8 becomes U+FFFD, ids above 255 are skipped.
    pub free: String,
    /// Whether `constrained` is right.
    pub constrained_right: bool,
    /// Whether `free` is right and ends correctly.
    pub free_right: bool,
}

impl Answered {
    /// Returns the answer of a classifier, which only chooses among answers: both kinds are the
    /// same.
    ///
    /// # Errors
    /// An index beyond the last sample.
    pub fn chosen(data: &Clevr, index: usize, given: &str) -> Result<Self> {
        let question = data.question(index)?;
        let right = given == &*question.answer;
        Ok(Self {
            index,
            question_index: data.number(index),
            image: data.image_name(question).to_string(),
            question: question.text.to_string(),
            question_type: question.kind,
            question_family_index: question.family,
            answer: question.answer.to_string(),
            constrained: given.to_string(),
            free: given.to_string(),
            constrained_right: right,
            free_right: right,
        })
    }
}

/// A question to ask.
struct Asked {
    index: usize,
    prompt: Vec<u32>,
}

/// An iterator over batches of a model's answers to the questions of a split. Within a window,
/// questions are grouped by length; [`Answered::index`] has their order.
pub struct Asking<'a> {
    generator: Generator,
    data: &'a Clevr,
    answers: Answers,
    /// The id that ends an answer, if there is one.
    end: Option<u32>,
    pad: u32,
    batch_size: usize,
    questions: usize,
    next: usize,
    batches: VecDeque<Vec<Asked>>,
    /// The number of ids for which the model has positions.
    room: usize,
}

impl<'a> Asking<'a> {
    /// Asks the first `limit` questions, `batch_size` at once.
    ///
    /// # Errors
    /// A batch size of 0, or a model that cannot be prepared.
    pub fn new(model: &Arc<Mblm>, data: &'a Clevr, batch_size: usize, limit: Option<usize>) -> Result<Self> {
        if batch_size == 0 {
            return Err(Error::input("0 questions at once: expected at least 1"));
        }
        let (end, pad) = (data.options().eom_token_id, model.config().pad_token_id);
        let answers = data
            .answers()
            .into_iter()
            .map(|answer| (answer, data.answer_bytes(answer)));
        Ok(Self {
            generator: Generator::new(model.clone())?,
            data,
            answers: Answers::new(answers, end.unwrap_or(pad)),
            end,
            pad,
            batch_size,
            questions: data.len(0).min(limit.unwrap_or(usize::MAX)),
            next: 0,
            batches: VecDeque::new(),
            room: model.config().longest_input().unwrap_or(usize::MAX),
        })
    }

    /// Returns the number of questions.
    pub fn questions(&self) -> usize {
        self.questions
    }

    /// Prepares the next window.
    fn fill(&mut self) -> Result<()> {
        let mut by_length: BTreeMap<usize, Vec<Asked>> = BTreeMap::new();
        let mut ids = 0;
        while ids < WINDOW && self.next < self.questions {
            let piece = self.next..self.questions.min(self.next.saturating_add(self.batch_size));
            self.next = piece.end;
            let asked: Vec<Result<Asked>> = piece
                .into_par_iter()
                .map(|index| {
                    let prompt = self.data.prompt(index)?;
                    Ok(Asked { index, prompt })
                })
                .collect();
            for asked in asked {
                let asked = asked?;
                ids += asked.prompt.len();
                by_length.entry(asked.prompt.len()).or_default().push(asked);
            }
        }
        for group in by_length.into_values() {
            let mut group = group.into_iter().peekable();
            while group.peek().is_some() {
                self.batches.push_back(group.by_ref().take(self.batch_size).collect());
            }
        }
        Ok(())
    }

    fn ask(&self, batch: &[Asked]) -> Result<Vec<Answered>> {
        let prompts: Vec<&[u32]> = batch.iter().map(|asked| asked.prompt.as_slice()).collect();
        let mut state = self.generator.begin(batch.len());
        let logits = rows(&self.generator.prefill(&mut state, &prompts)?)?;
        let constrained = self.write(state.clone(), &logits, &Choice::Constrained)?;
        let free = self.write(state, &logits, &Choice::Free)?;
        let answers = constrained.iter().zip(&free);
        batch
            .iter()
            .zip(answers)
            .map(|(asked, (constrained, free))| self.judge(asked.index, constrained, free))
            .collect()
    }

    /// Generates the answers of a batch from the logits (b, V) of their first ids.
    fn write(&self, mut state: GeneratorState, logits: &[Vec<f32>], choice: &Choice) -> Result<Vec<Vec<u32>>> {
        let mut written: Vec<Vec<u32>> = vec![Vec::new(); logits.len()];
        let mut running = vec![true; logits.len()];
        let mut logits = logits.to_vec();
        loop {
            for ((ids, logits), running) in written.iter_mut().zip(&logits).zip(&mut running) {
                if *running {
                    let next = self.choose(ids, logits, choice);
                    ids.extend(next);
                    *running = next.is_some() && !self.ends(ids, choice);
                }
            }
            if !running.contains(&true) || state.position() >= self.room {
                return Ok(written);
            }
            // the ids after a finished answer do not matter
            let last: Vec<u32> = written
                .iter()
                .map(|ids| ids.last().copied().unwrap_or(self.pad))
                .collect();
            logits = rows(&self.generator.step(&mut state, &last)?)?;
        }
    }

    /// Returns the best id after `ids`; `None` if there is no choice.
    fn choose(&self, ids: &[u32], logits: &[f32], choice: &Choice) -> Option<u32> {
        match choice {
            Choice::Constrained => best(self.answers.following(ids), logits),
            Choice::Free => best(0..logits.len() as u32, logits),
        }
    }

    /// Returns whether an answer is complete.
    fn ends(&self, ids: &[u32], choice: &Choice) -> bool {
        match choice {
            Choice::Constrained => self.answers.decided(ids),
            Choice::Free => {
                let last = ids.last().copied();
                last == Some(self.pad) || last.is_some() && last == self.end || ids.len() >= self.answers.longest()
            }
        }
    }

    fn judge(&self, index: usize, constrained: &[u32], free: &[u32]) -> Result<Answered> {
        let question = self.data.question(index)?;
        let constrained = self.answers.text(constrained).unwrap_or_default();
        let right: Vec<u32> = self
            .data
            .answer_bytes(&question.answer)
            .into_iter()
            .map(u32::from)
            .collect();
        let free_right = match self.end {
            Some(end) => free.strip_suffix(&[end]).is_some_and(|ids| ids == right),
            // without an end, as many ids count as the right answer has
            None => free.starts_with(&right),
        };
        Ok(Answered {
            index,
            question_index: self.data.number(index),
            image: self.data.image_name(question).to_string(),
            question: question.text.to_string(),
            question_type: question.kind,
            question_family_index: question.family,
            answer: question.answer.to_string(),
            constrained: constrained.to_string(),
            free: self.text(free),
            constrained_right: constrained == &*question.answer,
            free_right,
        })
    }

    /// Returns ids as text; a categorical answer as its meaning.
    fn text(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .filter(|id| **id != self.pad && Some(**id) != self.end)
            .filter_map(|id| u8::try_from(*id).ok())
            .collect();
        match bytes[..] {
            [class] if self.data.options().answer_categorical => answer_of(class).map(str::to_string),
            _ => None,
        }
        .unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The choice of an answer's ids.
enum Choice {
    /// The best id that leads to a possible answer.
    Constrained,
    /// The best of all ids.
    Free,
}

impl Iterator for Asking<'_> {
    type Item = Result<Vec<Answered>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.batches.is_empty() && self.next < self.questions {
            if let Err(error) = self.fill() {
                self.next = self.questions;
                return Some(Err(error));
            }
        }
        let batch = self.batches.pop_front()?;
        let answered = self.ask(&batch);
        if answered.is_err() {
            self.next = self.questions;
            self.batches.clear();
        }
        Some(answered)
    }
}

/// Returns the id with the highest logit; the first of equals.
fn best(ids: impl Iterator<Item = u32>, logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for id in ids {
        let Some(&logit) = logits.get(id as usize) else {
            continue;
        };
        if best.is_none_or(|(_, highest)| logit > highest) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id)
}

/// Returns logits (b, V) as one list per stream.
fn rows(logits: &candle_core::Tensor) -> Result<Vec<Vec<f32>>> {
    Ok(logits.to_dtype(DType::F32)?.to_vec2()?)
}
