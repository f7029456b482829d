//! The site as one picture: a row of pages for each number of clicks from the first, and lines for the links.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::site::{Page, Site};

const WIDTH: usize = 240;
const HEIGHT: usize = 180;
const GAP: usize = 40;
const ROW_GAP: usize = 90;

/// An SVG document with the pages' pictures inside.
pub(crate) fn draw(site: &Site) -> String {
    let mut rows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, page) in site.pages().iter().enumerate() {
        rows.entry(page.depth).or_default().push(number);
    }
    let widest = rows.values().map(Vec::len).max().unwrap_or(1);
    let (width, height) = (
        GAP + widest * (WIDTH + GAP),
        GAP + rows.len() * (HEIGHT + ROW_GAP),
    );
    let mut places = vec![(0, 0); site.pages().len()];
    for (row, (_, pages)) in rows.iter().enumerate() {
        let left = (width - pages.len() * (WIDTH + GAP) + GAP) / 2;
        for (column, page) in pages.iter().enumerate() {
            places[*page] = (
                left + column * (WIDTH + GAP),
                GAP + row * (HEIGHT + ROW_GAP),
            );
        }
    }
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f4f4f2\"/>\n"
    );
    for (from, page) in site.pages().iter().enumerate() {
        for to in page.links.iter().filter(|to| **to != from) {
            line(&mut svg, places[from], places[*to]);
        }
    }
    for (page, place) in site.pages().iter().zip(&places) {
        thumbnail(&mut svg, page, *place);
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(svg: &mut String, from: (usize, usize), to: (usize, usize)) {
    let middle = |(x, y): (usize, usize)| (x + WIDTH / 2, y + HEIGHT / 2);
    let ((x1, y1), (x2, y2)) = (middle(from), middle(to));
    let _ = writeln!(
        svg,
        "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"#8894a8\" stroke-width=\"2\"/>"
    );
}

fn thumbnail(svg: &mut String, page: &Page, (x, y): (usize, usize)) {
    let place = format!("x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"");
    let _ = match &page.picture {
        Some(picture) => writeln!(
            svg,
            "<image {place} href=\"data:image/png;base64,{}\"/>\n<rect {place} fill=\"none\" stroke=\"#404652\"/>",
            STANDARD.encode(picture)
        ),
        None => writeln!(
            svg,
            "<rect {place} fill=\"#f0dcdc\" stroke=\"#a04040\"/>\n\
             <text x=\"{}\" y=\"{}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#a04040\">no picture</text>",
            x + 10,
            y + 20
        ),
    };
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#202020\">{}</text>",
        y + HEIGHT + 14,
        escaped(&page.url)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
