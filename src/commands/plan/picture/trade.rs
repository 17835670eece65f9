//! The trade: time that replays add against graphs, a line for each law with a parameter, a point for each other policy.

use gridpoint_plan::traffic::exponential_sizes;
use gridpoint_plan::{Ratio, Sizing};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::super::compare::shortened;
use super::super::judged::{Judged, Row};
use super::labels::Labels;
use super::{
    Area, Axis, BLUE, FAINT, GREEN, INK, LEFT, LEGEND, Legend, MARGIN_LEFT, MARGIN_RIGHT, ORANGE, TITLE, anchored,
    decade_label, decades, draw, text, text_width, undrawn, write_titles,
};
use crate::args::plan::{Choice, Comparison};
use crate::commands::Failure;

const HEIGHT: u32 = 620;
const BOTTOM: u32 = 48;
/// What the labels of the time take.
const LABELS: u32 = LEFT as u32 - MARGIN_LEFT;
/// More steps than this share without a graph are said beside the policy's name.
const NOTED: f64 = 0.0005;
/// Overheads below it, in per cent, stand at it.
const LEAST_PERCENT: f64 = 0.01;
const LABEL: u32 = 14;

/// What the lines run over, beside the parameters that are compared.
const RATIOS: [f64; 8] = [2.0, 1.7, 1.41, 1.3, 1.19, 1.13, 1.09, 1.06];
const EXTRA_SIZES: [usize; 9] = [0, 2, 5, 10, 16, 24, 36, 52, 76];

/// A law with a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    Geometric,
    Fit,
}

/// The picture of a comparison.
pub(in super::super) fn svg(judged: &Judged<'_>, policies: &Comparison, rows: &[Row]) -> Result<String, Failure> {
    let lines: Vec<(Family, Vec<Row>)> = [Family::Geometric, Family::Fit]
        .into_iter()
        .filter(|&family| policies.0.iter().any(|choice| family_of(choice) == Some(family)))
        .map(|family| (family, line(judged, policies, rows, family)))
        .collect();
    draw(HEIGHT, |area| {
        write_title(area, judged, &lines)?;
        let (_, area) = area.split_vertically(TITLE);
        draw_trade(&area, policies, rows, &lines)
    })
}

fn family_of(choice: &Choice) -> Option<Family> {
    match choice {
        Choice::Sizing(Sizing::Geometric { decode, prefill }) if decode == prefill => Some(Family::Geometric),
        Choice::Fit(_) => Some(Family::Fit),
        _ => None,
    }
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Geometric => "geometric:R",
            Self::Fit => "fit:K",
        }
    }

    fn color(self) -> RGBColor {
        match self {
            Self::Geometric => ORANGE,
            Self::Fit => BLUE,
        }
    }

    fn members(self, judged: &Judged<'_>) -> Vec<Choice> {
        match self {
            Self::Geometric => {
                let ratios = RATIOS.into_iter().filter_map(|ratio| Ratio::new(ratio).ok());
                ratios.map(|ratio| Choice::Sizing(Sizing::Geometric { decode: ratio, prefill: ratio })).collect()
            }
            Self::Fit => {
                let policy = judged.base_policy();
                let backbone = exponential_sizes(judged.limits, &policy).map_or(0, |sizes| sizes.len());
                EXTRA_SIZES.into_iter().map(|extra| Choice::Fit(backbone.max(1) + extra)).collect()
            }
        }
    }
}

/// The family's members that make a plan, those that are compared among them, by their number of graphs.
fn line(judged: &Judged<'_>, policies: &Comparison, rows: &[Row], family: Family) -> Vec<Row> {
    let compared = policies.0.iter().zip(rows).filter(|(choice, _)| family_of(choice) == Some(family));
    let mut line: Vec<Row> = compared.map(|(_, row)| row.clone()).collect();
    // A member that these limits do not allow is no part of the line; whoever asked for it by name was told so.
    line.extend(family.members(judged).iter().filter_map(|choice| judged.row(choice).ok()));
    line.sort_by(|a, b| a.graphs.cmp(&b.graphs).then(b.time_overhead.total_cmp(&a.time_overhead)));
    line.dedup_by(|a, b| a.graphs == b.graphs && a.time_overhead == b.time_overhead);
    line
}

fn write_title(area: &Area<'_>, judged: &Judged<'_>, lines: &[(Family, Vec<Row>)]) -> Result<(), Failure> {
    let size = judged.traffic.size;
    let requests = size.requests.map_or(String::new(), |requests| format!("{requests} requests, "));
    let halves = match size.requests {
        Some(_) => ": fits saw the first half, the numbers are of the second",
        None => ", which fits saw too",
    };
    let second = format!("{requests}{} steps{halves}", size.steps);
    write_titles(area, "Time that replays add, against graphs captured", &second)?;
    let mut legend = Legend { area, x: LEFT, y: LEGEND };
    for (family, _) in lines {
        legend.add(family.name(), 14, |(x, y)| {
            let stroke = family.color().stroke_width(3);
            area.draw(&PathElement::new([(x - 14, y), (x + 14, y)], stroke)).map_err(undrawn)?;
            draw_member(area, (x, y), *family, 5)
        })?;
    }
    legend.add("one policy", 6, |at| draw_policy(area, at, false))?;
    legend.add("some steps without a graph", 6, |at| draw_policy(area, at, true))
}

/// A policy without a parameter; hollow where steps find no graph, for whose padding is then only part of the story.
fn draw_policy(area: &Area<'_>, (x, y): (i32, i32), misses: bool) -> Result<(), Failure> {
    let corners = [(x - 6, y - 6), (x + 6, y + 6)];
    let style = if misses { GREEN.stroke_width(2) } else { GREEN.filled() };
    area.draw(&Rectangle::new(corners, style)).map_err(undrawn)
}

/// A member that is compared: a disc or a triangle, so that families differ in grey too.
fn draw_member(area: &Area<'_>, at: (i32, i32), family: Family, radius: i32) -> Result<(), Failure> {
    let filled = family.color().filled();
    match family {
        Family::Geometric => area.draw(&TriangleMarker::new(at, radius + 2, filled)).map_err(undrawn),
        Family::Fit => area.draw(&Circle::new(at, radius, filled)).map_err(undrawn),
    }
}

fn percent(row: &Row) -> f64 {
    (row.time_overhead * 100.0).max(LEAST_PERCENT)
}

/// What stands at the least may be less.
fn percent_label(exponent: f64) -> String {
    let label = decade_label(exponent);
    if (exponent - LEAST_PERCENT.log10()).abs() < 1e-9 { format!("<= {label}") } else { label }
}

fn draw_trade(
    area: &Area<'_>,
    policies: &Comparison,
    rows: &[Row],
    lines: &[(Family, Vec<Row>)],
) -> Result<(), Failure> {
    let all: Vec<&Row> = rows.iter().chain(lines.iter().flat_map(|(_, line)| line)).collect();
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
    };
    let graphs = ends(&mut all.iter().map(|row| row.graphs.max(1) as f64));
    let percents = ends(&mut all.iter().map(|row| percent(row)));
    let (left, right) = (graphs.0 / 1.25, graphs.1 * 1.4);
    let (low, high) = (percents.0 / 1.5, percents.1 * 1.5);
    let mut chart = ChartBuilder::on(area)
        .margin_left(MARGIN_LEFT)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .set_label_area_size(LabelAreaPosition::Bottom, BOTTOM)
        .margin_right(MARGIN_RIGHT)
        .margin_top(6)
        .build_cartesian_2d(
            Axis::new(left.log10()..right.log10(), decades(left, right), decade_label),
            Axis::new(low.log10()..high.log10(), decades(low, high), percent_label),
        )
        .map_err(undrawn)?;
    chart
        .configure_mesh()
        .axis_style(INK.stroke_width(1))
        .light_line_style(FAINT)
        .bold_line_style(FAINT)
        .x_desc("graphs")
        .y_desc("time added, %")
        .label_style(text(14))
        .axis_desc_style(text(16))
        .draw()
        .map_err(undrawn)?;
    let plotting = chart.plotting_area();
    let base = area.get_base_pixel();
    let at = |row: &Row| {
        let (x, y) = plotting.map_coordinate(&((row.graphs.max(1) as f64).log10(), percent(row).log10()));
        (x - base.0, y - base.1)
    };
    let (x, y) = plotting.get_pixel_range();
    let mut labels = Labels::new([x.start - base.0, y.start - base.1, x.end - base.0, y.end - base.1]);
    for (family, line) in lines {
        let pixels: Vec<(i32, i32)> = line.iter().map(at).collect();
        for pair in pixels.windows(2) {
            labels.keep_clear_of_line(pair[0], pair[1]);
        }
        for &pixel in &pixels {
            area.draw(&Circle::new(pixel, 3, family.color().filled())).map_err(undrawn)?;
        }
        area.draw(&PathElement::new(pixels, family.color().stroke_width(3))).map_err(undrawn)?;
    }
    for (choice, row) in policies.0.iter().zip(rows) {
        let pixel = at(row);
        match family_of(choice) {
            Some(family) => draw_member(area, pixel, family, 6)?,
            None => draw_policy(area, pixel, row.miss_rate > NOTED)?,
        }
        labels.keep_clear(pixel, 7);
    }
    label_all(area, policies, rows, lines, &mut labels, at)
}

/// Names what is compared, and the ends of the lines.
fn label_all(
    area: &Area<'_>,
    policies: &Comparison,
    rows: &[Row],
    lines: &[(Family, Vec<Row>)],
    labels: &mut Labels,
    at: impl Fn(&Row) -> (i32, i32),
) -> Result<(), Failure> {
    let ends = lines.iter().flat_map(|(_, line)| line.first().into_iter().chain(line.last()));
    let ends = ends.filter(|end| !rows.iter().any(|row| row.policy == end.policy));
    let name = |choice: &Choice, row: &Row| match row.miss_rate > NOTED {
        true => format!("{} ({:.1} % eager)", shortened(&choice.short()), row.miss_rate * 100.0),
        false => shortened(&choice.short()),
    };
    let named = policies.0.iter().zip(rows).map(|(choice, row)| (name(choice, row), row));
    for (name, row) in named.chain(ends.map(|end| (end.policy.clone(), end))) {
        let width = text_width(&name, LABEL) + 6;
        let place = labels.place(at(row), width, LABEL as i32 + 4);
        area.draw_text(&name, &anchored(LABEL, HPos::Left, VPos::Center), place).map_err(undrawn)?;
    }
    Ok(())
}
