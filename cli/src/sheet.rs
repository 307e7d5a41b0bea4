//! Sheets with a key, or a share of one, to be printed: one HTML file without script and without anything from elsewhere,
//! which fits one page of A4 in black and white. The key is there as words, which a person can type, and as a QR code.

use crate::config::hostname;
use crate::context::Context;
use crate::exit::Failure;
use chunkstore::keys::{KeyBytes, Share};
use engine::{Repository, shown};
use qrcode::types::Color;
use qrcode::{EcLevel, QrCode};
use std::fmt::Write as _;
use zeroize::Zeroizing;

/// Light around a QR code, in modules: as the standard demands.
const QUIET: usize = 4;

/// Page, colours and type. `color-scheme` keeps browsers from turning black on white round.
const STYLE: &str = "
:root { color-scheme: light only; }
@page { size: A4 portrait; margin: 14mm; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 182mm; background: #fff; color: #000; font: 10.5pt/1.35 sans-serif; }
h1 { font-size: 17pt; margin: 0 0 2mm; }
h2 { font-size: 12pt; margin: 4mm 0 1.5mm; }
p { margin: 0 0 2mm; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: bold; width: 28mm; vertical-align: top; padding: 0.6mm 0; }
td { overflow-wrap: anywhere; padding: 0.6mm 0; }
code { font: 9.5pt monospace; overflow-wrap: anywhere; }
ol { margin: 0; padding-left: 6mm; }
li { margin-bottom: 1mm; }
.beside { display: flex; gap: 6mm; align-items: flex-start; }
.beside > div { flex: 1; min-width: 0; }
svg { width: 54mm; height: 54mm; flex: none; }
.words { display: grid; grid-template-columns: 1fr 1fr; column-gap: 8mm; list-style: none; padding: 0; }
.words li { margin: 0; padding: 0.8mm 0; border-bottom: 0.2mm solid #000; font: 11pt/1.25 monospace; }
.words b { display: inline-block; width: 9mm; }
";

/// What a sheet says of its repository.
pub(crate) struct Sheet<'a> {
    repository: String,
    place: String,
    made: String,
    label: &'a str,
}

/// What it takes to open the repository.
#[derive(Clone, Copy)]
pub(crate) enum Opens<'a> {
    /// This sheet.
    Alone,
    /// This share, with others.
    With(&'a Share),
}

impl<'a> Sheet<'a> {
    pub(crate) fn of(repo: &Repository, context: &Context, label: &'a str) -> Self {
        Self {
            repository: repo.store().config().repository_id.to_string(),
            place: repo.store().storage().place(),
            made: format!("{}, on {}", context.now().strftime("%Y-%m-%d"), hostname()),
            label,
        }
    }

    /// The whole file.
    pub(crate) fn html(&self, key: &KeyBytes, opens: Opens<'_>) -> Result<Zeroizing<String>, Failure> {
        // Long enough that it does not move while it grows.
        let mut page = Zeroizing::new(String::with_capacity(64 << 10));
        let (title, what, option) = match opens {
            Opens::Alone => (
                "Recovery sheet of an esker repository".to_owned(),
                "This sheet opens the backup repository that is named below, without any password. Whoever has it can read \
                 and change everything in there. Keep it like a key to the house, away from the machines that are backed \
                 up."
                    .to_owned(),
                "--key-file",
            ),
            Opens::With(share) => {
                let (threshold, count) = share.of();
                (
                    format!("Share {} of {count} of the key of an esker repository", share.number()),
                    format!(
                        "There are {count} sheets like this one, each with another person. Any {threshold} of them together \
                         open the backup repository that is named below; fewer say nothing about it. Keep yours where \
                         nobody else sees it."
                    ),
                    "--share",
                )
            }
        };
        page.push_str("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        // A browser loads nothing, whatever the texts of others below contain.
        page.push_str(
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
        );
        let _ = writeln!(
            *page,
            "<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>"
        );
        let _ = writeln!(*page, "<p>{what}</p>\n<table>");
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(*page, "<tr><th>{name}</th><td>{}</td></tr>", escaped(value));
        };
        row("Repository", &self.repository);
        row("Place", &self.place);
        row("Made", &self.made);
        if !self.label.is_empty() {
            row("Label", self.label);
        }
        if let Opens::With(share) = opens {
            row("Split", &share.split());
        }
        page.push_str("</table>\n<h2>How to use it</h2>\n<div class=\"beside\">\n<div>\n<ol>\n");
        let place = escaped(&quoted(&self.place));
        for step in self.steps(opens, option, &place) {
            let _ = writeln!(*page, "<li>{step}</li>");
        }
        page.push_str("</ol>\n</div>\n");
        draw(&key.line(), &mut page)?;
        page.push_str("</div>\n<h2>The key in words</h2>\n<ol class=\"words\">\n");
        for (number, group) in (1..).zip(key.words()) {
            let _ = write!(*page, "<li><b>{number}.</b>");
            for word in group {
                let _ = write!(*page, " {word}");
            }
            page.push_str("</li>\n");
        }
        page.push_str("</ol>\n</body>\n</html>\n");
        Ok(page)
    }

    /// How to use it, as HTML.
    fn steps(&self, opens: Opens<'_>, option: &str, place: &str) -> Vec<String> {
        let mut steps = vec![
            "Install esker on a machine that reaches the place above.".to_owned(),
            "Scan the QR code and save its text as a file, or type the words below into one, a group on a line. Capital \
             letters, spaces and the numbers do not matter."
                .to_owned(),
        ];
        match opens {
            Opens::Alone => steps.push(format!(
                "Run <code>esker -r {place} {option} FILE snapshots</code>. Without a file, \
                 <code>esker -r {place} --recovery snapshots</code> asks for the words."
            )),
            Opens::With(share) => {
                let shares: Vec<String> =
                    (1..=share.of().0).map(|number| format!("{option} FILE{number}")).collect();
                let shares = shares.join(" ");
                steps.push(format!(
                    "Run <code>esker -r {place} {shares} snapshots</code>, with as many shares. Without files, \
                     <code>esker -r {place} --recovery snapshots</code> asks for the words of each."
                ));
            }
        }
        steps.push(
            "<code>esker restore</code> with the same options gets the data back, and <code>esker key add</code> makes a new \
             password. Delete the file afterwards."
                .to_owned(),
        );
        steps.push(
            "If this sheet is lost, or somebody has seen it: <code>esker key list</code> names its key slot, <code>esker key \
             remove</code> takes it away, <code>esker key rotate</code> changes the key of what is written from then on."
                .to_owned(),
        );
        steps
    }
}

/// Draws a QR code as SVG, a run of dark modules as one rectangle.
fn draw(text: &str, page: &mut String) -> Result<(), Failure> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M);
    let code = code.map_err(|error| Failure::new(format!("no QR code can be made: {error}")))?;
    let width = code.width();
    let colors =
        Zeroizing::new(code.to_colors().into_iter().map(|color| color == Color::Dark).collect::<Vec<bool>>());
    let side = width + 2 * QUIET;
    let _ = write!(
        page,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\" role=\"img\" \
         aria-label=\"QR code with the key\"><rect width=\"{side}\" height=\"{side}\" fill=\"#fff\"/><path d=\""
    );
    for (row, modules) in colors.chunks(width).enumerate() {
        let mut column = 0;
        for run in modules.chunk_by(|one, next| one == next) {
            if run.first() == Some(&true) {
                let _ = write!(page, "M{} {}h{}v1h-{}z", column + QUIET, row + QUIET, run.len(), run.len());
            }
            column += run.len();
        }
    }
    page.push_str("\" fill=\"#000\"/></svg>\n");
    Ok(())
}

/// A text of others, in HTML.
pub(crate) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for letter in shown::line(text).chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            letter => html.push(letter),
        }
    }
    html
}

/// A word for a shell, in quotes where it needs them.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/:.-_@+=,".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
