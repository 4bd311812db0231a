//! The data set: each sample is a question about an image and its answer.
//!
//! Worker w of W owns the w-th of W equal ranges of questions; the remainder is dropped. All epochs
//! have the same samples.

use std::path::PathBuf;
use std::sync::Arc;

use super::answers::{ANSWERS, class_of};
use super::check::Survey;
use super::layout::Layout;
use super::options::ClevrOptions;
use super::paths::split_paths;
use super::questions::{Question, Questions};
use crate::image::Image;
use crate::image::cache::{Cache, Damaged};
use crate::image::images::Images;
use mblm::data::{Dataset, DatasetArgs, Sample};
use mblm::{Error, Result};

/// A split of CLEVR for one worker.
pub struct Clevr {
    file: PathBuf,
    questions: Vec<Question>,
    images: Images,
    layout: Layout,
    options: ClevrOptions,
    /// The first question of this worker, and the number of its questions.
    first: usize,
    len: usize,
    description: String,
}

impl Clevr {
    /// Opens the split that `args` ask for; `None` for the test split. Checks every question, the
    /// beginning and end of every image file, and the length of every sample where it is known
    /// without decoding. With `cache_dir` images that are not yet prepared are prepared here.
    ///
    /// # Errors
    /// Invalid options, or the first problem with the files.
    pub fn open(args: &DatasetArgs) -> Result<Option<Self>> {
        let options: ClevrOptions = args.parse_options()?;
        options.validate(args)?;
        let Some((file, folder)) = split_paths(args) else {
            return Ok(None);
        };
        let questions = Questions::read(&file, args.on_opening.clone())?;
        let mut images = Images::new(folder, questions.images, options.preparation()?);
        let mut lens: Vec<Result<Option<usize>>> = images
            .inspect()?
            .into_iter()
            .map(|size| Ok(images.preparation().len(size?)))
            .collect();
        if let Some(folder) = options.cache_dir.as_deref().filter(|_| lens.iter().all(Result::is_ok)) {
            let cache = Cache::open(folder, images.listing(), Damaged::Refused, args.on_opening.as_ref())?;
            lens = (0..lens.len()).map(|image| Ok(Some(cache.len(image)))).collect();
            images.set_cache(cache);
        }
        let layout = Layout::new(&options, args);
        let survey = Survey {
            file: &file,
            questions: &questions.list,
            images: &images,
            lens: &lens,
            layout: &layout,
            categorical: options.answer_categorical,
        };
        let report = survey.report(1);
        if let Some(problem) = report.problems.into_iter().next() {
            let more = match report.problem_count {
                1 => String::new(),
                count => format!("; {} more problems, which `mblm data check` lists", count - 1),
            };
            return Err(Error::file(problem.file, format!("{}{more}", problem.message)));
        }
        if lens.iter().any(|len| matches!(len, Ok(None))) {
            tracing::warn!(
                "{}: a sample's length is known only after its image is compressed; `mblm data check` checks all \
                 samples, and with io.dataset_args.cache_dir a run checks them when it starts",
                file.display()
            );
        }
        let total = questions.list.len();
        let len = total / args.workers;
        if len == 0 {
            let workers = args.workers;
            return Err(Error::file(
                &file,
                format!("{total} questions are too few for {workers} workers; expected one for each"),
            ));
        }
        let description = format!(
            "clevr ({} split of {}): {total} questions about {} images, worker {} of {} reads {len} samples of {} ids",
            args.split,
            args.dir.display(),
            images.names().len(),
            args.worker,
            args.workers,
            args.sample_len
        );
        Ok(Some(Self {
            file,
            questions: questions.list,
            images,
            layout,
            options,
            first: args.worker * len,
            len,
            description,
        }))
    }

    /// Returns the options of the data set.
    pub fn options(&self) -> &ClevrOptions {
        &self.options
    }

    /// Returns the file of questions.
    pub fn questions_file(&self) -> &std::path::Path {
        &self.file
    }

    /// Returns the number of sample `index` in the file of questions.
    pub fn number(&self, index: usize) -> usize {
        self.first + index
    }

    /// Returns the question of sample `index`.
    ///
    /// # Errors
    /// An index beyond the last sample.
    pub fn question(&self, index: usize) -> Result<&Question> {
        if index >= self.len {
            return Err(Error::input(format!(
                "{}: sample {index} of {}: samples are numbered from 0",
                self.description, self.len
            )));
        }
        Ok(&self.questions[self.first + index])
    }

    /// Returns the questions of this worker.
    pub fn questions(&self) -> impl Iterator<Item = &Question> {
        self.questions[self.first..self.first + self.len].iter()
    }

    /// Returns the image of sample `index` as in the sample: pixels, channel after channel, or a
    /// JPEG file.
    ///
    /// # Errors
    /// An index beyond the last sample, or an image that cannot be read.
    pub fn image_bytes(&self, index: usize) -> Result<Arc<[u8]>> {
        self.image(index, self.question(index)?)
    }

    /// Returns the file name of a question's image.
    pub fn image_name(&self, question: &Question) -> &str {
        &self.images.names()[question.image]
    }

    /// Returns a question's image unprepared.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn original(&self, question: &Question) -> Result<Image> {
        self.images.original(question.image)
    }

    /// Returns the ids of sample `index` before its answer.
    ///
    /// # Errors
    /// An index beyond the last sample, or an image that cannot be read.
    pub fn prompt(&self, index: usize) -> Result<Vec<u32>> {
        let question = self.question(index)?;
        Ok(self
            .layout
            .prompt(question.text.as_bytes(), &self.image(index, question)?))
    }

    /// Returns the bytes of an answer in a sample; none for an unknown categorical answer.
    pub fn answer_bytes(&self, answer: &str) -> Vec<u8> {
        match self.options.answer_categorical {
            true => class_of(answer).into_iter().collect(),
            false => answer.as_bytes().to_vec(),
        }
    }

    /// Returns all possible answers: CLEVR's, and further ones in this split.
    pub fn answers(&self) -> Vec<&str> {
        let mut answers: Vec<&str> = self.questions.iter().map(|question| &*question.answer).collect();
        answers.extend(ANSWERS);
        answers.sort_unstable();
        answers.dedup();
        answers
    }

    fn image(&self, index: usize, question: &Question) -> Result<Arc<[u8]>> {
        self.images.bytes(question.image).map_err(|error| match error {
            Error::File { path, message } => {
                Error::file(path, format!("{message} (question {} names it)", self.number(index)))
            }
            other => other,
        })
    }
}

impl Dataset for Clevr {
    fn len(&self, _: usize) -> usize {
        self.len
    }

    fn sample(&self, index: usize, _: usize) -> Result<Sample> {
        let question = self.question(index)?;
        let image = self.image(index, question)?;
        let answer = self.answer_bytes(&question.answer);
        let text = question.text.as_bytes();
        if let Some(message) = self
            .layout
            .misfit(self.layout.lens(text.len(), image.len(), answer.len()))
        {
            let (number, name) = (self.number(index), self.image_name(question));
            return Err(Error::file(
                &self.file,
                format!("question {number} ({name}): {message}"),
            ));
        }
        Ok(self.layout.sample(text, &image, &answer))
    }

    fn bytes(&self) -> u64 {
        self.questions.len() as u64 * self.layout.sample_len as u64
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn is_costly(&self) -> bool {
        true
    }
}
