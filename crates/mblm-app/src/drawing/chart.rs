//! The figure of one or more runs: losses above, learning rates below, over the same horizontal
//! axis.
//!
//! Training losses are drawn in a light color with their smoothed curve over them, losses on
//! held-out data as circles, the loss on test data as a cross at the end. A single run has one
//! color for each kind of loss; of several runs, each has one color.

use anyhow::Result;
use plotters::chart::SeriesLabelPosition;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::axis::{Axis, number};
use super::curves::{Across, Curves, Point, Unit, sample, thin};
use super::image::Draw;
use super::pen::{COLOURS, Chart, GRID, Pen};

/// The most points of a curve of single batches.
const MAX_POINTS: usize = 2000;

/// The most points of a smooth curve.
const SMOOTH_POINTS: usize = 400;

/// The share of training losses at each end that may lie outside the figure, so that one jump does
/// not flatten the rest.
const OUTLIERS: f64 = 0.005;

/// The most characters of a run's name in the legend.
const NAME_LENGTH: usize = 48;

/// The contents of a figure.
pub(crate) struct Figure<'a> {
    pub(crate) runs: &'a [Curves],
    pub(crate) across: Across,
    pub(crate) unit: Unit,
    /// The unit over which losses are averaged: byte or answer.
    pub(crate) of: &'a str,
    /// Whether the axis of losses is logarithmic.
    pub(crate) logarithmic: bool,
}

/// The colors of a run's curves.
#[derive(Clone, Copy)]
struct Colours {
    training: RGBColor,
    validation: RGBColor,
    test: RGBColor,
}

impl Draw for Figure<'_> {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let pen = Pen { scale };
        area.fill(&WHITE)?;
        let area = area
            .margin(pen.pixels(12.0), 0, 0, 0)
            .titled(&self.title(), pen.text(20.0).into_text_style(area))?;
        let (width, height) = area.dim_in_pixel();
        let (upper, lower) = area.split_vertically((f64::from(height) * 0.68) as i32);
        let (divisor, along) = self.along();
        let x = self.horizontal(divisor, width as f64 / scale);
        let mut losses = pen.chart(&upper, x, self.vertical(), &self.loss_label(), None)?;
        for (index, run) in self.runs.iter().enumerate() {
            self.draw_training(&mut losses, run, self.colours(index).training, pen)?;
        }
        for (index, run) in self.runs.iter().enumerate() {
            self.draw_held_out(&mut losses, run, self.colours(index), pen)?;
        }
        losses
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .margin(pen.pixels(10.0))
            .legend_area_size(pen.pixels(30.0))
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .label_font(pen.text(13.0))
            .draw()?;
        let highest = self
            .runs
            .iter()
            .flat_map(|run| &run.rate)
            .fold(0.0, |high: f64, (_, rate)| high.max(*rate));
        let y = Axis::new(0.0, highest * 1.08, false, 4);
        let mut rates = pen.chart(&lower, x, y, "learning rate", Some(along))?;
        for (index, run) in self.runs.iter().enumerate() {
            let style = pen.stroke(self.colours(index).training.to_rgba(), 1.8);
            rates.draw_series(LineSeries::new(self.placed(&sample(&run.rate, SMOOTH_POINTS)), style))?;
        }
        area.present()?;
        Ok(())
    }
}

impl Figure<'_> {
    fn title(&self) -> String {
        match self.runs {
            [run] => short(&run.name),
            runs => format!("{} runs: training smoothed, held-out data as circles", runs.len()),
        }
    }

    fn loss_label(&self) -> String {
        match self.unit {
            Unit::Bits => format!("loss (bits per {})", self.of),
            Unit::Nats => format!("loss (nats per {})", self.of),
        }
    }

    fn colours(&self, index: usize) -> Colours {
        let [training, validation, test] = match self.runs {
            [_] => [COLOURS[0], COLOURS[1], COLOURS[2]],
            _ => [COLOURS[index % COLOURS.len()]; 3],
        };
        Colours {
            training,
            validation,
            test,
        }
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.runs
            .iter()
            .flat_map(|run| run.training.iter().chain(&run.validation).chain(&run.rate))
    }

    /// The unit of the horizontal axis: a divisor of the points' positions, and a label.
    fn along(&self) -> (f64, &'static str) {
        let end = self.points().fold(0.0, |end: f64, (x, _)| end.max(*x));
        match self.across {
            Across::Batches => (1.0, "batch"),
            Across::Elements => (1.0, "elements seen"),
            Across::Time if end < 180.0 => (1.0, "time (seconds)"),
            Across::Time if end < 3.0 * 3600.0 => (60.0, "time (minutes)"),
            Across::Time => (3600.0, "time (hours)"),
        }
    }

    fn horizontal(&self, divisor: f64, width: f64) -> Axis {
        let places = self.points().map(|(x, _)| x / divisor);
        let (low, high) = places.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        Axis::new(low.min(high), high, false, (width / 110.0) as usize)
    }

    /// The axis of losses. It covers all smoothed, held-out and test losses, and all but a few
    /// training losses.
    fn vertical(&self) -> Axis {
        let mut values = Vec::new();
        for run in self.runs {
            let sure = run.smoothed.iter().chain(&run.validation).chain(&run.test);
            values.extend(sure.map(|(_, loss)| *loss));
            let mut training: Vec<f64> = run.training.iter().map(|(_, loss)| *loss).collect();
            training.sort_by(f64::total_cmp);
            let outside = (training.len() as f64 * OUTLIERS) as usize;
            values.extend(training.get(outside));
            values.extend(training.iter().rev().nth(outside));
        }
        let drawable = values.into_iter().filter(|loss| !self.logarithmic || *loss > 0.0);
        let (low, high) = drawable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), loss| {
            (low.min(loss), high.max(loss))
        });
        match low <= high {
            true => Axis::with_margin(low, high, self.logarithmic, 7),
            false => Axis::new(1.0, 10.0, self.logarithmic, 7),
        }
    }

    /// Draws the training losses: a light line through the batches, a strong one through the
    /// smoothed losses.
    fn draw_training<'a, DB: DrawingBackend + 'a>(
        &self,
        chart: &mut Chart<'a, DB>,
        run: &Curves,
        colour: RGBColor,
        pen: Pen,
    ) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let alone = self.runs.len() == 1;
        let smooth = run.smoothed != run.training;
        if smooth {
            // one pixel at any scale: wider lines get long spikes where they turn sharply
            let light = ShapeStyle {
                stroke_width: 1,
                ..pen.stroke(colour.mix(if alone { 0.45 } else { 0.2 }), 1.0)
            };
            let points = self.within(chart, &thin(&run.training, MAX_POINTS));
            let series = chart.draw_series(LineSeries::new(points, light))?;
            if alone {
                series
                    .label("training, batch by batch")
                    .legend(move |at| PathElement::new(pen.swatch(at), light));
            }
        }
        let (name, circled) = match alone {
            true if smooth => ("training, smoothed".to_string(), false),
            true => ("training".to_string(), false),
            false => (short(&run.name), !run.validation.is_empty()),
        };
        let smoothed = match smooth {
            true => sample(&run.smoothed, SMOOTH_POINTS),
            false => thin(&run.training, SMOOTH_POINTS),
        };
        let strong = pen.stroke(colour.to_rgba(), 2.0);
        let (radius, circle) = (
            if circled { pen.radius() } else { 0 },
            pen.stroke(colour.to_rgba(), 1.6),
        );
        chart
            .draw_series(LineSeries::new(self.within(chart, &smoothed), strong))?
            .label(name)
            .legend(move |at| {
                let middle = pen.middle((0, 0));
                EmptyElement::at(at)
                    + PathElement::new(pen.swatch((0, 0)), strong)
                    + Circle::new(middle, radius, WHITE.filled())
                    + Circle::new(middle, radius, circle)
            });
        Ok(())
    }

    /// Draws the losses on held-out data, and the loss on test data at the end of the run.
    fn draw_held_out<'a, DB: DrawingBackend + 'a>(
        &self,
        chart: &mut Chart<'a, DB>,
        run: &Curves,
        colours: Colours,
        pen: Pen,
    ) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let alone = self.runs.len() == 1;
        let radius = pen.radius();
        let circle = pen.stroke(colours.validation.to_rgba(), 1.6);
        let points = self.within(chart, &run.validation);
        if alone {
            let thread = pen.stroke(colours.validation.mix(0.5), 1.0);
            chart.draw_series(LineSeries::new(points.clone(), thread))?;
        }
        chart.draw_series(points.iter().map(|at| Circle::new(*at, radius, WHITE.filled())))?;
        let circles = chart.draw_series(points.iter().map(|at| Circle::new(*at, radius, circle)))?;
        if alone && !points.is_empty() {
            let best = run
                .validation
                .iter()
                .fold(f64::INFINITY, |best, (_, loss)| best.min(*loss));
            circles
                .label(format!("held-out data, lowest {}", number(best)))
                .legend(move |at| Circle::new(pen.middle(at), radius, circle));
        }
        let cross = pen.stroke(colours.test.to_rgba(), 2.0);
        let test = self.within(chart, run.test.as_slice());
        let crosses = chart.draw_series(test.iter().map(|at| Cross::new(*at, radius, cross)))?;
        if let (true, Some((_, loss))) = (alone, run.test) {
            crosses
                .label(format!("test data {}", number(loss)))
                .legend(move |at| Cross::new(pen.middle(at), radius, cross));
        }
        Ok(())
    }

    /// The points of a curve as they are drawn: points outside the chart are moved to its edge.
    fn within<DB: DrawingBackend>(&self, chart: &Chart<'_, DB>, points: &[Point]) -> Vec<Point> {
        let axis = chart.as_coord_spec().y_spec();
        let clamped = |(x, loss)| (x, axis.clamp(loss));
        self.placed(points).into_iter().map(clamped).collect()
    }

    /// The points of a curve in the unit of the horizontal axis.
    fn placed(&self, points: &[Point]) -> Vec<Point> {
        let (divisor, _) = self.along();
        points.iter().map(|(x, value)| (x / divisor, *value)).collect()
    }
}

/// Shortens a name to its end, where the names of runs differ.
fn short(name: &str) -> String {
    let length = name.chars().count();
    match length > NAME_LENGTH {
        true => format!("…{}", name.chars().skip(length - NAME_LENGTH + 1).collect::<String>()),
        false => name.to_string(),
    }
}
