//! Plots as SVG: lines over one another, or charts one above the other with the same axis.

use std::path::Path;

use anyhow::Context;
use plotters::prelude::*;

/// A line with its name.
#[derive(Debug, Clone)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// One pair of axes.
#[derive(Debug, Clone)]
pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    /// The upper end of the vertical axis; what the lines reach if unset.
    pub top: Option<f64>,
    pub lines: Vec<Line>,
}

/// Distinguishable also by who does not tell red from green.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 130, 90),
    RGBColor(180, 110, 0),
    RGBColor(120, 60, 160),
    RGBColor(90, 90, 90),
];
const WIDTH: u32 = 860;
const HEIGHT: u32 = 300;

/// Writes the charts below one another.
pub fn draw(path: &Path, charts: &[Chart]) -> anyhow::Result<()> {
    let height = HEIGHT * u32::try_from(charts.len()).unwrap_or(1).max(1);
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    draw_on(&root, charts)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .and_then(|()| root.present().map_err(|error| anyhow::anyhow!("{error}")))
        .with_context(|| format!("cannot write the plot {}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_on(root: &Area<'_>, charts: &[Chart]) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    for (area, chart) in root
        .split_evenly((charts.len().max(1), 1))
        .iter()
        .zip(charts)
    {
        draw_one(area, chart)?;
    }
    Ok(())
}

fn draw_one(area: &Area<'_>, chart: &Chart) -> Result<(), Box<dyn std::error::Error>> {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let left = points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min);
    let right = points().map(|(x, _)| *x).fold(f64::NEG_INFINITY, f64::max);
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
    if !left.is_finite() {
        return Ok(());
    }
    let top = chart.top.unwrap_or(highest * 1.05).max(1e-9);
    let mut context = ChartBuilder::on(area)
        .caption(&chart.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(left..right.max(left + 1e-9), 0.0..top)?;
    context
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(&chart.x)
        .y_desc(&chart.y)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (number, line) in chart.lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        context
            .draw_series(LineSeries::new(
                line.points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    context
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}
