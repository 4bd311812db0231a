//! Questions and images as a data set. A sample is the question's word numbers, the image's values,
//! channel after channel, and the number of the answer.

use std::sync::Arc;

use super::words::Words;
use crate::clevr::{ANSWERS, Clevr};
use mblm::data::{Dataset, Sample};
use mblm::{Error, Result};

/// A split of CLEVR for a classifier.
pub struct ImageQuestions {
    clevr: Arc<Clevr>,
    words: Words,
    values: usize,
}

impl ImageQuestions {
    /// Wraps the questions of `clevr`, whose images have `values` values each.
    ///
    /// # Errors
    /// Images of another size, or an answer that is not CLEVR's.
    pub fn new(clevr: Arc<Clevr>, words: Words, values: usize) -> Result<Self> {
        let set = Self { clevr, words, values };
        for index in 0..set.clevr.len(0) {
            set.answer(index)?;
        }
        Ok(set)
    }

    /// Returns the questions and images.
    pub fn clevr(&self) -> &Clevr {
        &self.clevr
    }

    fn answer(&self, index: usize) -> Result<u32> {
        let answer = &self.clevr.question(index)?.answer;
        match ANSWERS.iter().position(|known| **known == **answer) {
            Some(number) => Ok(number as u32),
            None => Err(Error::file(
                self.clevr.questions_file(),
                format!(
                    "question {}: the answer {answer:?} is not one of CLEVR's {}",
                    self.clevr.number(index),
                    ANSWERS.len()
                ),
            )),
        }
    }
}

impl Dataset for ImageQuestions {
    fn len(&self, epoch: usize) -> usize {
        self.clevr.len(epoch)
    }

    fn sample(&self, index: usize, _: usize) -> Result<Sample> {
        let question = self.clevr.question(index)?;
        let image = self.clevr.image_bytes(index)?;
        if image.len() != self.values {
            return Err(Error::file(
                self.clevr.questions_file(),
                format!(
                    "question {}: its image has {} values, but other images have {}; a classifier needs images of one \
                     size: set resize_to_w and resize_to_h in io.dataset_args",
                    self.clevr.number(index),
                    image.len(),
                    self.values
                ),
            ));
        }
        let mut ids = self.words.numbers(&question.text);
        ids.extend(image.iter().copied().map(u32::from));
        ids.push(self.answer(index)?);
        Ok(Sample {
            ids,
            ..Sample::default()
        })
    }

    fn bytes(&self) -> u64 {
        self.clevr.bytes()
    }

    fn describe(&self) -> String {
        self.clevr.describe()
    }

    fn is_costly(&self) -> bool {
        true
    }
}
