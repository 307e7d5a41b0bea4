//! The forecast as one HTML page: no scripts, nothing loaded, readable in light and dark.

use super::prices::Tier;
use crate::exit::Failure;
use crate::output::bytes;
use crate::units::duration;
use engine::plan::{Measured, Point};
use plotters::prelude::*;
use std::fmt::Write as _;

/// Drawn in this colour, then replaced by the page's own: black in light, white in dark.
const INK: RGBColor = RGBColor(1, 2, 3);
const BLUE: RGBColor = RGBColor(58, 134, 200);

const STYLE: &str = "\
:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
padding: 0 1rem; color: light-dark(#111, #eee); background: light-dark(#fff, #16181c) }
svg { width: 100%; height: auto } svg text { fill: currentColor } table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid light-dark(#ddd, #444) }
td:first-child, th:first-child { text-align: left } div.table { overflow-x: auto } li { overflow-wrap: anywhere }
@media (max-width: 40rem) { td, th { padding: .25rem .4rem; font-size: .8rem; white-space: nowrap }
table.forecast :is(td, th):is(:nth-child(2), :nth-child(5), :nth-child(6), :nth-child(7)) { display: none } } h2 { margin-top: 2.5rem } p.note { opacity: .75 }";

/// Units of a plot of sizes, and their bytes.
const UNITS: &[(&str, u64)] =
    &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("PiB", 1 << 50)];

/// Units of a plot of times, and their seconds.
const TIMES: &[(&str, f64)] =
    &[("milliseconds", 1e-3), ("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0)];

/// Most points of a line in a plot: no screen shows more.
const MOST_DRAWN: usize = 400;

/// Most rows of the table.
const MOST_ROWS: usize = 40;

/// Writes the page.
pub(crate) fn page(
    basis: &[String],
    measured: &Measured,
    points: &[Point],
    tiers: &[Tier],
) -> Result<String, Failure> {
    let mut html = String::new();
    let _ = write!(
        html,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>esker plan</title><style>{STYLE}</style><h1>esker plan</h1><ul>"
    );
    for line in basis {
        let _ = write!(html, "<li>{}</li>", escape(line));
    }
    html += "</ul>";
    let drawn: Vec<Point> = spread(points, MOST_DRAWN).into_iter().copied().collect();
    let days = |point: &Point| point.day;
    let most = points.iter().map(|point| point.bytes_high).max().unwrap_or_default();
    let (unit, size) = UNITS.iter().rfind(|(_, size)| most >= *size).unwrap_or(&UNITS[0]);
    let of = |bytes: u64| bytes as f64 / *size as f64;
    let _ = write!(html, "<h2>Repository</h2>");
    html += &plot(
        unit,
        &drawn.iter().map(|point| (days(point), of(point.bytes))).collect::<Vec<_>>(),
        Some(&drawn.iter().map(|p| (days(p), of(p.bytes_low), of(p.bytes_high))).collect::<Vec<_>>()),
    )?;
    let _ = write!(
        html,
        "<p class=\"note\">The band is the error of the forecast.</p><h2>Times</h2>\
         <p class=\"note\">Reading and decoding the latest snapshot on this machine; writing it comes on top.</p>"
    );
    let longest = drawn.iter().map(|point| point.restore_seconds).fold(0.0, f64::max);
    let (unit, size) = TIMES.iter().rfind(|(_, size)| longest >= *size).unwrap_or(&TIMES[0]);
    html += &plot(
        &format!("{unit} to restore (RTO)"),
        &drawn.iter().map(|point| (days(point), point.restore_seconds / size)).collect::<Vec<_>>(),
        None,
    )?;
    let _ = write!(html, "<h2>Measured</h2>{}", measured_table(measured));
    let _ = write!(html, "<h2>Forecast</h2>{}", forecast_table(points));
    let _ = write!(html, "<h2>Money</h2>");
    if let Some(tier) = tiers.iter().max_by(|a, b| a.gb_month.total_cmp(&b.gb_month)) {
        let money = |point: &Point| point.bytes as f64 / 1e9 * tier.gb_month;
        let label = format!("US dollars a month in {}", tier.name);
        html += &plot(&label, &drawn.iter().map(|p| (days(p), money(p))).collect::<Vec<_>>(), None)?;
    }
    let _ = write!(html, "{}</html>", money_table(points, tiers));
    Ok(html)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A row of cells.
fn row(html: &mut String, tag: &str, cells: &[String]) {
    *html += "<tr>";
    for cell in cells {
        let _ = write!(html, "<{tag}>{}</{tag}>", escape(cell));
    }
    *html += "</tr>";
}

fn headings(class: &str, names: &[&str]) -> String {
    let mut html = format!("<div class=\"table\"><table class=\"{class}\">");
    row(&mut html, "th", &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    html
}

fn measured_table(measured: &Measured) -> String {
    let mut html = headings("measured", &["version", "source", "stored", "objects", "backup"]);
    for (number, night) in measured.nights.iter().enumerate() {
        row(
            &mut html,
            "td",
            &[
                (number + 1).to_string(),
                bytes(night.source_bytes),
                bytes(night.stored_bytes),
                night.objects.to_string(),
                duration(night.seconds),
            ],
        );
    }
    html + "</table></div>"
}

/// The first backups, then the ends of months, of which no more than [`MOST_ROWS`].
pub(crate) fn milestones(points: &[Point]) -> Vec<&Point> {
    let (mut first, mut months): (Vec<&Point>, Vec<&Point>) = (vec![], vec![]);
    for (number, point) in points.iter().enumerate() {
        let next = points.get(number + 1);
        let month_ends = next.is_none_or(|next| (point.day / 30.0).floor() < (next.day / 30.0).floor());
        if [1, 2, 7, 14].contains(&point.backup) {
            first.push(point);
        } else if month_ends {
            months.push(point);
        }
    }
    first.extend(spread(&months, MOST_ROWS - 4).into_iter().copied());
    first
}

/// At most `most` of `all`, spread evenly, with the first and the last.
pub(crate) fn spread<T>(all: &[T], most: usize) -> Vec<&T> {
    if all.len() <= most {
        return all.iter().collect();
    }
    let (last, most) = (all.len() - 1, most - 1);
    (0..=most).filter_map(|number| all.get(number * last / most)).collect()
}

fn forecast_table(points: &[Point]) -> String {
    let mut html = headings(
        "forecast",
        &["day", "backups", "snapshots kept", "repository", "from", "to", "objects", "backup", "restore"],
    );
    for point in milestones(points) {
        row(
            &mut html,
            "td",
            &[
                format!("{:.0}", point.day),
                point.backup.to_string(),
                point.snapshots.to_string(),
                bytes(point.bytes),
                bytes(point.bytes_low),
                bytes(point.bytes_high),
                point.objects.to_string(),
                duration(point.backup_seconds),
                duration(point.restore_seconds),
            ],
        );
    }
    html + "</table></div>"
}

fn money_table(points: &[Point], tiers: &[Tier]) -> String {
    let Some(last) = points.last() else { return String::new() };
    let mut html =
        headings("money", &["tier", "$ for a GB and month", "$ in the last month", "$ for all of it"]);
    for tier in tiers {
        let (month, total) = super::money(points, last, tier);
        row(
            &mut html,
            "td",
            &[
                tier.name.clone(),
                format!("{:.5}", tier.gb_month),
                format!("{month:.2}"),
                format!("{total:.2}"),
            ],
        );
    }
    html + "</table></div><p class=\"note\">Storage and writes; neither retrieval nor transfer.</p>"
}

/// A line over days, with a band around it.
fn plot(label: &str, line: &[(f64, f64)], band: Option<&[(f64, f64, f64)]>) -> Result<String, Failure> {
    let most_x = line.iter().map(|(x, _)| *x).fold(1.0, f64::max);
    let most_y = line
        .iter()
        .map(|(_, y)| *y)
        .chain(band.into_iter().flatten().map(|(_, _, high)| *high))
        .fold(0.0, f64::max)
        .max(1e-6)
        * 1.05;
    let mut svg = String::new();
    draw(&mut svg, label, line, band, most_x, most_y)
        .map_err(|error| Failure::new(format!("cannot draw: {error}")))?;
    Ok(svg.replace("#010203", "currentColor"))
}

fn draw(
    svg: &mut String,
    label: &str,
    line: &[(f64, f64)],
    band: Option<&[(f64, f64, f64)]>,
    most_x: f64,
    most_y: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, (900, 320)).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..most_x, 0.0..most_y)?;
    chart
        .configure_mesh()
        .axis_style(INK.mix(0.6))
        .bold_line_style(INK.mix(0.15))
        .light_line_style(INK.mix(0.0))
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .x_desc("days")
        .y_desc(label)
        .draw()?;
    if let Some(band) = band {
        let low = band.iter().rev().map(|(x, low, _)| (*x, *low));
        let outline: Vec<(f64, f64)> = band.iter().map(|(x, _, high)| (*x, *high)).chain(low).collect();
        chart.draw_series(std::iter::once(Polygon::new(outline, BLUE.mix(0.25))))?;
    }
    chart.draw_series(LineSeries::new(line.iter().copied(), BLUE.stroke_width(2)))?;
    area.present()?;
    Ok(())
}
