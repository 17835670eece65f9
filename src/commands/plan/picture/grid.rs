//! The grid: T and P on logarithmic axes, decode-only points apart, and under them where the steps of the traffic lie.

use gridpoint_plan::traffic::StepHistogram;
use gridpoint_plan::{GridPoint, PointKind};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::super::Printed;
use super::{
    Area, Axis, BLUE, FAINT, GREEN, INK, LEFT, LEGEND, Legend, MARGIN_LEFT, MARGIN_RIGHT, ORANGE, PAPER, TITLE, WIDTH,
    anchored, draw, octave_label, octaves, text, undrawn, write_titles,
};
use crate::commands::Failure;

const GRID: u32 = 400;
const STRIP: u32 = 74;
const DENSITY: u32 = 170;
const AXIS: u32 = 48;
/// What the labels of P take.
const LABELS: u32 = LEFT as u32 - MARGIN_LEFT;
/// Bars of the density for each doubling of T.
const BARS: f64 = 6.0;
/// More points than this are drawn smaller.
const MANY: usize = 400;
/// The radius of points whose outlines would hide their neighbours.
const CROWDED: i32 = 3;

/// The picture of a plan.
pub(in super::super) fn svg(printed: &Printed<'_>) -> Result<String, Failure> {
    let steps = printed.traffic.as_ref().map(|(traffic, _)| &traffic.all);
    let density = if steps.is_some() { DENSITY } else { 0 };
    let height = TITLE as u32 + GRID + STRIP + density + AXIS;
    draw(height, |area| {
        write_title(area, printed)?;
        let (_, rest) = area.split_vertically(TITLE);
        let (grid, rest) = rest.split_vertically(GRID);
        let (strip, rest) = rest.split_vertically(STRIP + if steps.is_some() { 0 } else { AXIS });
        let points = printed.made.reduced.plan.points();
        let axes = Axes::new(points, printed.limits.max_requests, steps);
        draw_grid(&grid, points, &axes)?;
        draw_strip(&strip, points, &axes, steps.is_none())?;
        match steps {
            Some(steps) => draw_density(&rest, steps, &axes),
            None => Ok(()),
        }
    })
}

/// The ends of the axes, as binary logarithms.
struct Axes {
    most_tokens: u32,
    most_prefills: u32,
}

impl Axes {
    fn new(points: &[GridPoint], max_requests: u32, steps: Option<&StepHistogram>) -> Self {
        let captured = points.iter().map(|point| point.tokens);
        let real = steps.into_iter().flat_map(|steps| steps.iter().map(|(step, _)| step.tokens));
        let most_prefills = points.iter().map(|point| point.prefills).max().unwrap_or(0);
        Self {
            most_tokens: captured.chain(real).max().unwrap_or(1).max(2),
            most_prefills: most_prefills.max(max_requests.min(2)).max(2),
        }
    }

    fn tokens(&self) -> Axis {
        Axis::new(-0.25..log2(self.most_tokens) + 0.25, octaves(self.most_tokens, 16), octave_label)
    }

    fn prefills(&self) -> Axis {
        Axis::new(-0.4..log2(self.most_prefills) + 0.4, octaves(self.most_prefills, 14), octave_label)
    }
}

fn log2(count: u32) -> f64 {
    f64::from(count.max(1)).log2()
}

fn write_title(area: &Area<'_>, printed: &Printed<'_>) -> Result<(), Failure> {
    let plan = &printed.made.reduced.plan;
    let title = format!("{}: {} graphs, {} of them different", printed.made.name, plan.len(), plan.distinct());
    let mut second = format!("{} requests, {} tokens a step", printed.limits.max_requests, printed.limits.max_tokens);
    if let Some((_, found)) = &printed.traffic {
        second += &format!(
            "; on this traffic replays add {:.1} % tokens and {:.1} % time, {:.1} % of the steps run eagerly",
            found.token_padding * 100.0,
            found.time_overhead * 100.0,
            found.miss_rate * 100.0
        );
    }
    write_titles(area, &title, &second)?;
    let counts = plan.counts();
    let mut legend = Legend { area, x: LEFT, y: LEGEND };
    for (kind, count) in [
        (PointKind::Mixed, counts.mixed),
        (PointKind::PrefillOnly, counts.prefill_only),
        (PointKind::DecodeOnly, counts.decode_only),
    ] {
        if count > 0 {
            legend.add(&format!("{count} {kind}"), 6, |at| draw_marker(area, at, kind, 5))?;
        }
    }
    Ok(())
}

/// A point: a disc, a diamond or a square, of which the kinds also differ in grey.
fn draw_marker(area: &Area<'_>, (x, y): (i32, i32), kind: PointKind, radius: i32) -> Result<(), Failure> {
    match kind {
        PointKind::Mixed => area.draw(&Circle::new((x, y), radius, BLUE.filled())).map_err(undrawn),
        PointKind::PrefillOnly => {
            let reach = radius + 2;
            let diamond = vec![(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)];
            area.draw(&Polygon::new(diamond.clone(), ORANGE.filled())).map_err(undrawn)?;
            if radius <= CROWDED {
                return Ok(());
            }
            let outline = [diamond.as_slice(), &diamond[..1]].concat();
            area.draw(&PathElement::new(outline, INK.stroke_width(1))).map_err(undrawn)
        }
        PointKind::DecodeOnly => {
            let corners = [(x - radius, y - radius), (x + radius, y + radius)];
            area.draw(&Rectangle::new(corners, GREEN.filled())).map_err(undrawn)
        }
    }
}

fn draw_grid(area: &Area<'_>, points: &[GridPoint], axes: &Axes) -> Result<(), Failure> {
    let mut chart = ChartBuilder::on(area)
        .margin_left(MARGIN_LEFT)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .margin_right(MARGIN_RIGHT)
        .margin_top(6)
        .build_cartesian_2d(axes.tokens(), axes.prefills())
        .map_err(undrawn)?;
    chart
        .configure_mesh()
        .axis_style(INK.stroke_width(1))
        .light_line_style(FAINT)
        .bold_line_style(FAINT)
        .y_desc("prefill slots P")
        .label_style(text(14))
        .axis_desc_style(text(16))
        .draw()
        .map_err(undrawn)?;
    let plotting = chart.plotting_area();
    let radius = match points.len() {
        0..100 => 5,
        100..MANY => 4,
        _ => CROWDED,
    };
    // Prefill-only points last: each stands on the mixed point of the same T and P, where there is one.
    for kind in [PointKind::Mixed, PointKind::PrefillOnly] {
        for point in points.iter().filter(|point| point.kind() == kind) {
            let at = plotting.map_coordinate(&(log2(point.tokens), log2(point.prefills)));
            let base = area.get_base_pixel();
            draw_marker(area, (at.0 - base.0, at.1 - base.1), kind, radius)?;
        }
    }
    if points.iter().all(|point| point.prefills == 0) {
        let words =
            if points.is_empty() { "no points: every step runs eagerly" } else { "no points for steps with prefills" };
        let middle = ((WIDTH as i32 + LEFT - MARGIN_RIGHT as i32) / 2, GRID as i32 / 2);
        area.draw_text(words, &anchored(18, HPos::Center, VPos::Center), middle).map_err(undrawn)?;
    }
    Ok(())
}

/// The decode-only points, and the axis of T where nothing follows.
fn draw_strip(area: &Area<'_>, points: &[GridPoint], axes: &Axes, last: bool) -> Result<(), Failure> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin_left(MARGIN_LEFT)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .margin_right(MARGIN_RIGHT)
        .margin_top(16);
    if last {
        builder.set_label_area_size(LabelAreaPosition::Bottom, AXIS);
    }
    let mut chart = builder
        .build_cartesian_2d(axes.tokens(), Axis::new(-1.0..1.0, vec![0.0], |_| "P = 0".to_owned()))
        .map_err(undrawn)?;
    let mut mesh = chart.configure_mesh();
    mesh.axis_style(INK.stroke_width(1))
        .light_line_style(FAINT)
        .bold_line_style(FAINT)
        .label_style(text(14))
        .axis_desc_style(text(16));
    if last {
        mesh.x_desc("tokens T");
    }
    mesh.draw().map_err(undrawn)?;
    let plotting = chart.plotting_area();
    let radius = if points.len() > MANY { 2 } else { 4 };
    for point in points.iter().filter(|point| point.prefills == 0) {
        let at = plotting.map_coordinate(&(log2(point.tokens), 0.0));
        let base = area.get_base_pixel();
        draw_marker(area, (at.0 - base.0, at.1 - base.1), PointKind::DecodeOnly, radius)?;
    }
    Ok(())
}

/// The shares of the steps of both kinds by T. Each kind is its own whole, or the rarer one would not be seen.
fn draw_density(area: &Area<'_>, steps: &StepHistogram, axes: &Axes) -> Result<(), Failure> {
    let (mut shares, mut totals) = ([Vec::new(), Vec::new()], [0_u64; 2]);
    for (step, count) in steps.iter() {
        let kind = usize::from(step.prefills > 0);
        let bar = (log2(step.tokens) * BARS).round() as usize;
        let bars: &mut Vec<u64> = &mut shares[kind];
        bars.resize(bars.len().max(bar + 1), 0);
        bars[bar] += count;
        totals[kind] += count;
    }
    let share = |kind: usize, bar: usize| {
        shares[kind].get(bar).map_or(0.0, |&count| count as f64 / totals[kind].max(1) as f64 * 100.0)
    };
    let bars = shares[0].len().max(shares[1].len());
    let most = (0..bars).map(|bar| share(0, bar).max(share(1, bar))).fold(1.0, f64::max) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .margin_left(MARGIN_LEFT)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .set_label_area_size(LabelAreaPosition::Bottom, AXIS)
        .margin_right(MARGIN_RIGHT)
        .margin_top(36)
        .build_cartesian_2d(axes.tokens(), 0.0..most)
        .map_err(undrawn)?;
    chart
        .configure_mesh()
        .axis_style(INK.stroke_width(1))
        .light_line_style(PAPER)
        .bold_line_style(FAINT)
        .y_labels(4)
        .y_label_formatter(&|share| format!("{share:.0} %"))
        .x_desc("tokens T")
        .y_desc("share of its kind")
        .label_style(text(14))
        .axis_desc_style(text(16))
        .draw()
        .map_err(undrawn)?;
    let half = 0.46 / BARS;
    for (kind, color) in [GREEN, BLUE].into_iter().enumerate() {
        // Two bars stand side by side in each place.
        let (from, to) = if kind == 0 { (-half, 0.0) } else { (0.0, half) };
        let bar = |bar: usize| {
            let middle = bar as f64 / BARS;
            Rectangle::new([(middle + from, 0.0), (middle + to, share(kind, bar))], color.filled())
        };
        chart.draw_series((0..bars).filter(|&index| share(kind, index) > 0.0).map(bar)).map_err(undrawn)?;
    }
    let all = (totals[0] + totals[1]).max(1) as f64;
    let mut legend = Legend { area, x: LEFT, y: 18 };
    for (kind, color, words) in [(0, GREEN, "decode-only"), (1, BLUE, "with prefills")] {
        let label = format!("{:.1} % of the steps are {words}", totals[kind] as f64 / all * 100.0);
        legend.add(&label, 5, |(x, y)| {
            let corners = [(x - 5, y - 5), (x + 5, y + 5)];
            area.draw(&Rectangle::new(corners, color.filled())).map_err(undrawn)
        })?;
    }
    Ok(())
}
