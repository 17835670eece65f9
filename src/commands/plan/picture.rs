//! Pictures of plans, as SVG: what they have in common.

pub(super) mod grid;
pub(super) mod labels;
pub(super) mod trade;

use std::fmt::Display;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::TextStyle;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::commands::Failure;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 960;
/// Where titles, legends and plots begin.
const LEFT: i32 = 92;
/// The height of titles and legend.
const TITLE: i32 = 92;
/// Where the legend stands.
const LEGEND: i32 = 74;
const MARGIN_LEFT: u32 = 12;
const MARGIN_RIGHT: u32 = 28;

/// Neither white nor black, so that the picture stands on both.
const PAPER: RGBColor = RGBColor(250, 250, 248);
const INK: RGBColor = RGBColor(38, 38, 38);
const FAINT: RGBColor = RGBColor(218, 218, 214);
/// Dark, light and between, so that they differ in grey.
const BLUE: RGBColor = RGBColor(0, 72, 135);
const ORANGE: RGBColor = RGBColor(232, 150, 30);
const GREEN: RGBColor = RGBColor(40, 150, 110);

/// A picture that cannot be drawn: a defect, never of an input.
fn undrawn(error: impl Display) -> Failure {
    Failure::Failed(format!("the picture cannot be drawn: {error}").into())
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn anchored(size: u32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    text(size).pos(Pos::new(horizontal, vertical))
}

/// An axis with its own ticks and labels, and lines at no others.
struct Axis {
    ends: Range<f64>,
    ticks: Vec<f64>,
    label: fn(f64) -> String,
}

impl Axis {
    fn new(ends: Range<f64>, ticks: Vec<f64>, label: fn(f64) -> String) -> Self {
        Self { ends, ticks, label }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.ends.start) / (self.ends.end - self.ends.start);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.ends.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        (self.label)(*value)
    }
}

/// A picture of this height on its paper.
fn draw(height: u32, content: impl FnOnce(&Area<'_>) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&PAPER).map_err(undrawn)?;
        content(&area)?;
        area.present().map_err(undrawn)?;
    }
    if !svg.ends_with('\n') {
        svg.push('\n');
    }
    Ok(svg)
}

/// Powers of two from 1 up and the most, as exponents; as many as there is room for.
fn octaves(most: u32, room: usize) -> Vec<f64> {
    let end = f64::from(most.max(2)).log2();
    let stride = (end.floor() as usize + 1).div_ceil(room).max(1);
    let powers = (0..).step_by(stride).map(|exponent| exponent as f64);
    let mut ticks: Vec<f64> = powers.take_while(|&tick| tick < end - 0.45 * stride as f64).collect();
    ticks.push(end);
    ticks
}

/// A row of entries, each a mark and words, from left to right.
struct Legend<'a, 'b> {
    area: &'a Area<'b>,
    x: i32,
    y: i32,
}

impl Legend<'_, '_> {
    /// Adds an entry. `mark` draws around the place that it is given, `reach` pixels to either side.
    fn add(
        &mut self,
        words: &str,
        reach: i32,
        mark: impl FnOnce((i32, i32)) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        mark((self.x + reach, self.y))?;
        let left = self.x + 2 * reach + 7;
        self.area.draw_text(words, &anchored(15, HPos::Left, VPos::Center), (left, self.y)).map_err(undrawn)?;
        self.x = left + text_width(words, 15) + 26;
        Ok(())
    }
}

/// About how wide words are, in pixels: fonts differ.
fn text_width(words: &str, size: u32) -> i32 {
    (words.chars().count() as f64 * f64::from(size) * 0.47).ceil() as i32
}

/// The title, and a line under it.
fn write_titles(area: &Area<'_>, title: &str, second: &str) -> Result<(), Failure> {
    area.draw_text(title, &anchored(22, HPos::Left, VPos::Top), (LEFT, 12)).map_err(undrawn)?;
    area.draw_text(second, &anchored(15, HPos::Left, VPos::Top), (LEFT, 40)).map_err(undrawn)
}

/// 2^exponent as a label.
fn octave_label(exponent: f64) -> String {
    format!("{:.0}", exponent.exp2())
}

/// 1, 2 and 5 times the powers of ten within the range, as decimal logarithms.
fn decades(least: f64, most: f64) -> Vec<f64> {
    let (first, last) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let ticks = (first..=last).flat_map(|power| [1.0, 2.0, 5.0].map(|digit: f64| digit.log10() + f64::from(power)));
    ticks.filter(|tick| (least.log10() - 1e-9..=most.log10() + 1e-9).contains(tick)).collect()
}

/// 10^exponent with as many decimals as it has.
fn decade_label(exponent: f64) -> String {
    let value = 10_f64.powf(exponent);
    let decimals = if value >= 0.999 { 0 } else { (-exponent.floor()).clamp(0.0, 9.0) as usize };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let labels = |ticks: Vec<f64>| ticks.into_iter().map(decade_label).collect::<Vec<_>>();
        assert_eq!(labels(decades(0.3, 60.0)), ["0.5", "1", "2", "5", "10", "20", "50"]);
        assert_eq!(labels(decades(0.01, 0.1)), ["0.01", "0.02", "0.05", "0.1"]);
        assert_eq!(octaves(16384, 16).last().map(|&tick| octave_label(tick)), Some("16384".to_owned()));
        let labels = |ticks: Vec<f64>| ticks.into_iter().map(octave_label).collect::<Vec<_>>();
        assert_eq!(labels(octaves(396, 16)), ["1", "2", "4", "8", "16", "32", "64", "128", "256", "396"]);
        assert_eq!(labels(octaves(300, 16)), ["1", "2", "4", "8", "16", "32", "64", "128", "300"]);
        assert!(octaves(u32::MAX, 16).len() <= 17);
        assert_eq!(octaves(0, 16), [0.0, 1.0]);
    }
}
