//! What can be wrong with a split: an image that is missing, truncated or damaged, an answer that is none, a sample that is too
//! long. Found when the data set is opened, as far as it shows without decoding images, and wholly by [`check`].

use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::answers::class_of;
use super::kinds::QuestionType;
use super::layout::Layout;
use super::options::ClevrOptions;
use super::paths::split_paths;
use super::questions::{Question, Questions};
use crate::image::images::{Images, REPORT_EVERY};
use mblm::data::{DatasetArgs, Opening};
use mblm::{Error, Result};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file that it is in.
    pub file: PathBuf,
    /// The first question concerned, from 0.
    pub question: usize,
    /// What was expected, what was found, what to try.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)
    }
}

/// The sample with most ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Longest {
    /// Its question, from 0.
    pub question: usize,
    /// Its ids, padding left out.
    pub ids: usize,
    /// Those of question, image, question and answer.
    pub parts: [usize; 4],
}

/// What a split holds, and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file of questions.
    pub file: PathBuf,
    /// Questions.
    pub questions: usize,
    /// Images that they name.
    pub images: usize,
    /// Questions of each type; `None` are those without a known one.
    pub types: Vec<(Option<QuestionType>, usize)>,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// Problems in all.
    pub problem_count: usize,
    /// The longest sample among those whose image can be read.
    pub longest: Option<Longest>,
    /// Ids that a sample may have: `input_seq_len`.
    pub input_seq_len: usize,
}

/// Looks at everything that training on the split would read: every question, every image, wholly decoded and prepared, and the
/// length of every sample. `None` if there is no such split. At most `limit` problems are kept, all are counted.
///
/// # Errors
/// Options that make no sense, a file of questions that cannot be read.
pub fn check(args: &DatasetArgs, limit: usize) -> Result<Option<Report>> {
    let options: ClevrOptions = args.parse_options()?;
    options.validate(args)?;
    let Some((file, folder)) = split_paths(args) else {
        return Ok(None);
    };
    let questions = Questions::read(&file, args.on_opening.clone())?;
    let images = Images::new(folder, questions.images, options.preparation()?);
    let mut lens = Vec::with_capacity(images.names().len());
    let mut found = images.inspect()?.into_iter();
    let size = |image: usize| images.path(image).metadata().map_or(0, |metadata| metadata.len());
    let total = (0..images.names().len()).into_par_iter().map(size).sum();
    let mut done = 0;
    while lens.len() < images.names().len() {
        let first = lens.len();
        let group: Vec<Result<(usize, usize)>> = found.by_ref().take(REPORT_EVERY).collect();
        let prepared: Vec<Result<Option<usize>>> = group
            .into_par_iter()
            .enumerate()
            .map(|(index, header)| {
                header?;
                let bytes = images.preparation().read(&images.path(first + index))?;
                Ok(Some(bytes.len()))
            })
            .collect();
        lens.extend(prepared);
        done += (first..lens.len()).map(size).sum::<u64>();
        if let Some(report) = &args.on_opening {
            let path = &images.path(lens.len() - 1);
            report(Opening { path, done, total });
        }
    }
    let survey = Survey {
        file: &file,
        questions: &questions.list,
        images: &images,
        lens: &lens,
        layout: &Layout::new(&options, args),
        categorical: options.answer_categorical,
    };
    Ok(Some(survey.report(limit)))
}

/// A split whose questions are read, and what is known of its images.
pub(super) struct Survey<'a> {
    pub(super) file: &'a Path,
    pub(super) questions: &'a [Question],
    pub(super) images: &'a Images,
    /// Bytes of each prepared image, if they are known, or what is wrong with it.
    pub(super) lens: &'a [Result<Option<usize>>],
    pub(super) layout: &'a Layout,
    pub(super) categorical: bool,
}

impl Survey<'_> {
    /// What is wrong; the first `limit` problems in full.
    pub(super) fn report(&self, limit: usize) -> Report {
        let mut report = Report {
            file: self.file.to_path_buf(),
            questions: self.questions.len(),
            images: self.images.names().len(),
            types: self.types(),
            problems: Vec::new(),
            problem_count: 0,
            longest: None,
            input_seq_len: self.layout.sample_len,
        };
        let mut add = |problem: Problem| {
            report.problem_count += 1;
            if report.problems.len() < limit {
                report.problems.push(problem);
            }
        };
        let mut longest: Option<Longest> = None;
        let mut seen = vec![false; self.lens.len()];
        for (number, question) in self.questions.iter().enumerate() {
            let name = &self.images.names()[question.image];
            let in_question = |message: String| Problem {
                file: self.file.to_path_buf(),
                question: number,
                message: format!("question {number} ({name}): {message}"),
            };
            let answer = self.answer_len(question).unwrap_or_else(|message| {
                add(in_question(message));
                1
            });
            match &self.lens[question.image] {
                Ok(None) => {}
                Ok(Some(image)) => {
                    let parts = self.layout.lens(question.text.len(), *image, answer);
                    if let Some(message) = self.layout.misfit(parts) {
                        add(in_question(message));
                    }
                    let ids = parts.iter().sum();
                    if longest.is_none_or(|longest| longest.ids < ids) {
                        longest = Some(Longest {
                            question: number,
                            ids,
                            parts,
                        });
                    }
                }
                // an image is reported once
                Err(error) if !seen[question.image] => add(self.image_problem(error, number)),
                Err(_) => {}
            }
            seen[question.image] = true;
        }
        report.longest = longest;
        report
    }

    fn image_problem(&self, error: &Error, number: usize) -> Problem {
        let questions = self.file.file_name().unwrap_or(self.file.as_os_str()).to_string_lossy();
        let (file, message) = match error {
            Error::File { path, message } => (path.clone(), message.clone()),
            other => (self.images.listing().folder.clone(), other.to_string()),
        };
        Problem {
            file,
            question: number,
            message: format!("{message} (question {number} of {questions} names it)"),
        }
    }

    /// Bytes of a question's answer, or what is wrong with it.
    fn answer_len(&self, question: &Question) -> Result<usize, String> {
        match &*question.answer {
            "" => Err("the answer is empty".into()),
            answer if self.categorical && class_of(answer).is_none() => Err(format!(
                "answer_categorical knows the 28 answers of CLEVR, found `{answer}`; set it to false to learn answers as they are \
                 written"
            )),
            _ if self.categorical => Ok(1),
            answer => Ok(answer.len()),
        }
    }

    fn types(&self) -> Vec<(Option<QuestionType>, usize)> {
        let kinds = QuestionType::ALL.into_iter().map(Some).chain([None]);
        let of = |kind| self.questions.iter().filter(|question| question.kind == kind).count();
        kinds
            .map(|kind| (kind, of(kind)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}
