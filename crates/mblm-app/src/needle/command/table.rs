//! The table of `mblm needle`: a row for each length, a column for each depth. It is filled cell by
//! cell, then printed or written as JSON.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use mblm::config::ModelConfig;
use mblm::data::Split;
use mblm::generate::Generator;
use mblm::model::Mblm;
use serde_json::{Value, json};

use super::args::NeedleArgs;
use crate::needle::{Found, ModelReader, NeedleTest};
use crate::progress::SlowWork;
use crate::signals::Signals;
use crate::usage::Usage;
use crate::{output, progress};

/// The test and its results so far: a row for each length, a column for each depth.
pub(super) struct Table<'a> {
    pub(super) args: &'a NeedleArgs,
    pub(super) text: (PathBuf, Option<Split>),
    pub(super) test: NeedleTest,
    pub(super) lengths: Vec<usize>,
    pub(super) cells: Vec<Vec<Found>>,
    /// Samples of each cell.
    pub(super) samples: u64,
    pub(super) stopped: bool,
}

impl Table<'_> {
    /// Fails for lengths that no sample can have, and warns about lengths whose queries the model
    /// cannot answer.
    pub(super) fn check(&self, model: &ModelConfig) -> Result<()> {
        let patch = model.patch_bytes(0);
        for length in &self.lengths {
            self.test
                .check(*length)
                .map_err(|error| Usage(format!("a length of {length} bytes: {error}")))?;
            if !self.test.task().answerable(*length, patch) {
                tracing::warn!(
                    "samples of {length} bytes: the value asked for begins in the same patch of {patch} bytes that its key ends \
                     in, where a model of several stages cannot know it; use --option align={patch}, or a query_format with more \
                     text between key and value"
                );
            }
        }
        Ok(())
    }

    /// Tests all samples, until the end or a signal.
    pub(super) fn fill(&mut self, model: &Arc<Mblm>, signals: &Signals, quiet: bool) -> Result<()> {
        let generator = Generator::new(model.clone())?;
        let (depths, batch) = (self.args.depths.clone(), self.args.batch_size);
        let of_a_length = self.samples.saturating_mul(depths.len() as u64);
        let bytes = self
            .lengths
            .iter()
            .fold(0u64, |sum, len| sum.saturating_add(*len as u64));
        let flops: f64 = self.lengths.iter().map(|len| generator.prefill_flops(0, *len)).sum();
        let bar = progress::byte_bar(Some(bytes.saturating_mul(of_a_length)), quiet);
        let mut slow = SlowWork::new(
            slow_reason(&self.lengths, of_a_length, generator.prefill_is_quadratic()),
            "fewer --samples and shorter --lengths take less; Ctrl-C ends within a second and shows what was found",
            quiet,
        );
        let mut done = 0.0;
        for (row, length) in self.lengths.iter().enumerate() {
            for (column, depth) in depths.iter().enumerate() {
                let mut first = 0;
                while first < self.samples {
                    let last = (first + batch).min(self.samples);
                    let (at, streams) = (bar.position(), last - first);
                    let mut reader = ModelReader::watched(&generator, |read| {
                        bar.set_position(at + read as u64 * streams);
                        let now = done + generator.prefill_flops(0, read) * streams as f64;
                        slow.update(now / (flops * of_a_length as f64));
                        match signals.stopped() {
                            true => ControlFlow::Break(()),
                            false => ControlFlow::Continue(()),
                        }
                    });
                    let found = self.test.read(&mut reader, *length, depth / 100.0, first..last)?;
                    drop(reader);
                    if let Some(found) = found {
                        self.cells[row][column].add(found);
                    }
                    if found.is_none() || signals.stopped() {
                        self.stopped = true;
                        bar.finish_and_clear();
                        return Ok(());
                    }
                    done += generator.prefill_flops(0, *length) * streams as f64;
                    bar.set_position(at + streams * *length as u64);
                    first = last;
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The sum of all cells.
    fn all(&self) -> Found {
        self.cells.iter().flatten().fold(Found::default(), |mut all, cell| {
            all.add(*cell);
            all
        })
    }

    pub(super) fn print(&self) -> Result<()> {
        let percent = |share: f64| format!("{:.1}", share * 100.0);
        let title = format!("values found, % of {} samples", self.samples);
        self.print_table(&title, |cell| percent(cell.accuracy()))?;
        self.print_table("\nbytes of the values right, %", |cell| percent(cell.byte_accuracy()))?;
        self.print_table("\nloss of the values, bits per byte", |cell| {
            format!("{:.3}", cell.value.bits_per_byte())
        })?;
        let all = self.all();
        let stopped = if self.stopped { " (stopped)" } else { "" };
        let share = percent(all.accuracy());
        output::line(&format!(
            "\n{} of {} values found, {share} %{stopped}",
            all.hits, all.samples
        ))?;
        if let Some(path) = &self.args.plot {
            output::line(&format!("{}: the values found as a heat map", path.display()))?;
        }
        Ok(())
    }

    /// Prints one number for each cell: a row for each length, a column for each depth.
    fn print_table(&self, title: &str, number: impl Fn(&Found) -> String) -> Result<()> {
        output::line(title)?;
        let depths = self.args.depths.iter().map(|depth| format!("{depth} %"));
        let columns: String = depths.map(|depth| format!(" {depth:>9}")).collect();
        output::line(&format!("{:>14}{columns}", "bytes \\ depth"))?;
        for (length, row) in self.lengths.iter().zip(&self.cells) {
            let numbers = row.iter().map(|cell| match cell.samples {
                0 => "-".to_string(),
                _ => number(cell),
            });
            let columns: String = numbers.map(|number| format!(" {number:>9}")).collect();
            output::line(&format!("{length:>14}{columns}"))?;
        }
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        let all = self.all();
        let mut cells = Vec::new();
        for (length, row) in self.lengths.iter().zip(&self.cells) {
            for (depth, cell) in self.args.depths.iter().zip(row) {
                let mut object = json!({ "length_bytes": length, "depth_percent": depth });
                for (key, value) in numbers(cell) {
                    object[key] = value;
                }
                cells.push(object);
            }
        }
        let mut object = json!({
            "data": self.text.0, "split": self.text.1.map(Split::name), "seed": self.args.seed,
            "options": self.test.task().options(), "plot": self.args.plot, "stopped": self.stopped, "cells": cells,
        });
        for (key, value) in numbers(&all) {
            object[key] = value;
        }
        object
    }
}

/// The results of a cell, for JSON.
fn numbers(found: &Found) -> [(&'static str, Value); 5] {
    [
        ("samples", found.samples.into()),
        ("hits", found.hits.into()),
        ("accuracy", found.accuracy().into()),
        ("byte_accuracy", found.byte_accuracy().into()),
        ("bits_per_byte", found.value.bits_per_byte().into()),
    ]
}

/// Describes the measurement, and why it takes long if it does.
fn slow_reason(lengths: &[usize], of_a_length: u64, quadratic: bool) -> String {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let reason = match quadratic {
        true => {
            ", where the first stage attends to all that was read before, so that the time grows with the square of the length"
        }
        false => "",
    };
    format!(
        "{} samples of each length up to {} bytes{reason}",
        output::grouped(of_a_length),
        output::grouped(longest as u64)
    )
}
