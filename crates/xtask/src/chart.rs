//! The README's chart: bars of training speed and peak memory, from `benchmarks/figure.csv`, as an
//! SVG.
//!
//! Speed and memory each have a column of bars, with a group for each model and a bar for each
//! program. Colors follow the reader's light or dark theme.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The file with the measured numbers.
const NUMBERS: &str = "benchmarks/figure.csv";
/// The file of the chart.
const CHART: &str = "docs/figures/speed-and-memory.svg";
const WIDTH: f64 = 760.0;
const BAR: f64 = 16.0;
const GAP: f64 = 4.0;
/// The left ends of the two columns of bars, and the length of the longest bar.
const COLUMNS: [f64; 2] = [130.0, 470.0];
const LONGEST: f64 = 200.0;

struct Row {
    model: String,
    program: String,
    /// kB/s and GiB.
    values: [f64; 2],
}

/// Writes the chart; with `check` only reports whether the file matches the numbers.
pub(crate) fn run(root: &Path, check: bool) -> Result<usize> {
    let text = std::fs::read_to_string(root.join(NUMBERS)).context(NUMBERS)?;
    let chart = draw(&rows(&text)?);
    let path = root.join(CHART);
    match check {
        true if std::fs::read_to_string(&path).is_ok_and(|there| there == chart) => Ok(0),
        true => {
            println!("{CHART} is not the chart of {NUMBERS}: run `cargo xtask chart`");
            Ok(1)
        }
        false => {
            std::fs::write(&path, chart).context(CHART)?;
            println!("wrote {CHART}");
            Ok(0)
        }
    }
}

fn rows(text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| row(line).with_context(|| format!("{NUMBERS}: {line}")))
        .collect()
}

/// Parses a line: `"model",program,kB/s,GiB`.
fn row(line: &str) -> Result<Row> {
    let Some((model, rest)) = line.strip_prefix('"').and_then(|line| line.split_once("\",")) else {
        bail!("expected a model in quotation marks first");
    };
    let fields: Vec<&str> = rest.split(',').collect();
    let [program, speed, memory] = fields[..] else {
        bail!("expected program, kB/s and GiB behind the model");
    };
    let values = [speed.parse()?, memory.parse()?];
    ensure!(values.iter().all(|value| *value > 0.0), "expected numbers above 0");
    Ok(Row {
        model: model.into(),
        program: program.into(),
        values,
    })
}

fn draw(rows: &[Row]) -> String {
    let most = |column: usize| rows.iter().map(|row| row.values[column]).fold(0.0, f64::max);
    let scale = [most(0), most(1)].map(|most| LONGEST / most);
    let (mut bars, mut y) = (String::new(), 44.0);
    let mut model = "";
    for row in rows {
        if row.model != model {
            y += 26.0;
            let _ = writeln!(
                bars,
                r#"<text class="model" x="8" y="{:.0}">{}</text>"#,
                y - 6.0,
                row.model
            );
            model = &row.model;
        }
        let class = if row.program == "mblm" { "ours" } else { "other" };
        let middle = y + 0.75 * BAR;
        let _ = writeln!(
            bars,
            r#"<text x="120" y="{middle:.0}" text-anchor="end">{}</text>"#,
            row.program
        );
        for (column, unit) in ["kB/s", "GiB"].into_iter().enumerate() {
            let (x, length) = (COLUMNS[column], row.values[column] * scale[column]);
            let _ = writeln!(
                bars,
                r#"<rect class="{class}" x="{x}" y="{y:.0}" width="{length:.1}" height="{BAR}" rx="2"/>"#
            );
            let _ = writeln!(
                bars,
                r#"<text class="{class}" x="{:.1}" y="{middle:.0}">{} {unit}</text>"#,
                x + length + 6.0,
                row.values[column]
            );
        }
        y += BAR + GAP;
    }
    let height = y + 12.0;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img">
<title>Training speed and peak memory on one H200</title>
<style>
text {{ font: 12px system-ui, sans-serif; fill: #24292f; }}
.head, .model {{ font-weight: 600; }}
rect.ours {{ fill: #c2410c; }}
rect.other {{ fill: #8c959f; }}
text.ours {{ font-weight: 600; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3; }} rect.ours {{ fill: #fb923c; }} rect.other {{ fill: #6e7681; }} }}
</style>
<text class="head" x="{}" y="20">training speed (more is better)</text>
<text class="head" x="{}" y="20">peak GPU memory (less is better)</text>
{bars}</svg>
"#,
        COLUMNS[0], COLUMNS[1]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_in_the_repository_is_that_of_the_numbers() {
        assert_eq!(run(crate::root().unwrap(), true).unwrap(), 0);
    }

    #[test]
    fn bars_are_as_long_as_their_numbers() {
        let chart = draw(&rows("\"a, b\",mblm,200,10\n\"a, b\",other,100,20\n").unwrap());
        for part in ["width=\"200.0\"", "width=\"100.0\"", ">a, b<", "200 kB/s", "20 GiB"] {
            assert!(chart.contains(part), "{part}: {chart}");
        }
        assert_eq!(chart.matches("class=\"model\"").count(), 1);
    }

    #[test]
    fn wrong_lines_are_named() {
        for line in ["mblm,1,2", "\"a\",mblm,1", "\"a\",mblm,x,2", "\"a\",mblm,0,2"] {
            let error = format!("{:#}", rows(line).err().unwrap());
            assert!(error.contains(line), "{error}");
        }
    }
}
