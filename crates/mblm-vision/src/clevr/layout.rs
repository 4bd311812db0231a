//! A sample's ids: question, image, question, answer, each between an optional start and an
//! optional end id, then padding.
//!
//! ```text
//! [text] question [end] [image] image [end] [text] question [end] [text] answer [end] pad …
//! ```

use super::options::ClevrOptions;
use mblm::data::{DatasetArgs, Sample};

/// The ids around the parts of a sample, the weight of each part, and the sample's length.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    text: Option<u32>,
    image: Option<u32>,
    end: Option<u32>,
    pad: u32,
    weights: [f32; 4],
    pub(super) sample_len: usize,
}

impl Layout {
    pub(super) fn new(options: &ClevrOptions, args: &DatasetArgs) -> Self {
        Self {
            text: options.som_text_token_id,
            image: options.som_image_token_id,
            end: options.eom_token_id,
            pad: args.pad_token_id,
            weights: options.weights(),
            sample_len: args.sample_len,
        }
    }

    /// Returns the number of ids of each part from its bytes.
    pub(super) fn lens(&self, question: usize, image: usize, answer: usize) -> [usize; 4] {
        let around = |start: Option<u32>| usize::from(start.is_some()) + usize::from(self.end.is_some());
        let (text, pixels) = (around(self.text), around(self.image));
        [question + text, image + pixels, question + text, answer + text]
    }

    /// Returns the problem of a sample with these parts if it is too long.
    pub(super) fn misfit(&self, lens: [usize; 4]) -> Option<String> {
        let total: usize = lens.iter().sum();
        let [question, image, _, answer] = lens;
        (total > self.sample_len).then(|| {
            format!(
                "the sample has {total} ids (twice the question: {question} each, image: {image}, answer: {answer}), but \
                 input_seq_len is {}; raise it or make the image smaller (resize_to_w and resize_to_h, crop_w_perc and \
                 crop_h_perc, or a lower JPEG quality)",
                self.sample_len
            )
        })
    }

    /// Returns the ids before an answer: question, image, question and the answer's start id.
    pub(super) fn prompt(&self, question: &[u8], image: &[u8]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.sample_len);
        self.part(&mut ids, self.text, question);
        self.part(&mut ids, self.image, image);
        self.part(&mut ids, self.text, question);
        ids.extend(self.text);
        ids
    }

    /// Returns the whole sample, which must fit.
    pub(super) fn sample(&self, question: &[u8], image: &[u8], answer: &[u8]) -> Sample {
        let mut ids = self.prompt(question, image);
        ids.extend(answer.iter().copied().map(u32::from));
        ids.extend(self.end);
        ids.resize(self.sample_len, self.pad);
        let lens = self.lens(question.len(), image.len(), answer.len());
        let mut weights = Vec::with_capacity(self.sample_len);
        for (len, weight) in lens.into_iter().zip(self.weights) {
            weights.extend(std::iter::repeat_n(weight, len));
        }
        weights.resize(self.sample_len, 0.0);
        Sample {
            ids,
            loss_weights: Some(weights),
            ..Sample::default()
        }
    }

    fn part(&self, ids: &mut Vec<u32>, start: Option<u32>, bytes: &[u8]) {
        ids.extend(start);
        ids.extend(bytes.iter().copied().map(u32::from));
        ids.extend(self.end);
    }
}
