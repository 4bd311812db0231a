//! Problems of a split: an image that is missing, truncated or damaged, an unknown answer, a sample
//! that is too long. Opening the data set finds those that show without decoding images; [`check`]
//! finds all.

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

/// One problem of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file with the problem.
    pub file: PathBuf,
    /// The first affected question, from 0.
    pub question: usize,
    /// What was expected, what was found, and what to try.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)
    }
}

/// The sample with the most ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Longest {
    /// The number of its question, from 0.
    pub question: usize,
    /// The number of its ids without padding.
    pub ids: usize,
    /// The ids of each part: question, image, question and answer.
    pub parts: [usize; 4],
}

/// The content and the problems of a split.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file of questions.
    pub file: PathBuf,
    /// The number of questions.
    pub questions: usize,
    /// The number of images that the questions name.
    pub images: usize,
    /// The number of questions of each type; `None` is an unknown type.
    pub types: Vec<(Option<QuestionType>, usize)>,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// The number of all problems.
    pub problem_count: usize,
    /// The longest sample among those with readable images.
    pub longest: Option<Longest>,
    /// The limit on the ids of a sample: `input_seq_len`.
    pub input_seq_len: usize,
}

/// Reads all data that training on the split would read: every question, every image, decoded and
/// prepared, and the length of every sample. Returns `None` if there is no such split. All problems
/// are counted, at most `limit` are kept.
///
/// # Errors
/// Invalid options, or a file of questions that cannot be read.
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

/// A split with its questions, and the known facts about its images.
pub(super) struct Survey<'a> {
    pub(super) file: &'a Path,
    pub(super) questions: &'a [Question],
    pub(super) images: &'a Images,
    /// The length of each prepared image in bytes, if known, or its problem.
    pub(super) lens: &'a [Result<Option<usize>>],
    pub(super) layout: &'a Layout,
    pub(super) categorical: bool,
}

impl Survey<'_> {
    /// Returns the report; the first `limit` problems are in full.
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
                // each image is reported once
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

    /// Returns the length of a question's answer in bytes, or its problem.
    fn answer_len(&self, question: &Question) -> Result<usize, String> {
        match &*question.answer {
            "" => Err("the answer is empty".into()),
            answer if self.categorical && class_of(answer).is_none() => Err(format!(
                "answer_categorical allows only the 28 answers of CLEVR, found `{answer}`; set it to false to learn \
                 answers as text"
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
