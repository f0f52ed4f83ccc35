//! Writing SVG: elements of which the picture is made, and what text needs to be safe in it.

use std::fmt::Write;

/// Width of a character of the monospaced font, as a part of its size. Fonts differ a little; boxes have room for that.
const ASPECT: f64 = 0.61;

/// A picture that is being made.
#[derive(Default)]
pub struct Paint {
    body: String,
}

/// How text is set.
#[derive(Clone, Copy)]
pub struct Font {
    /// Size in pixels.
    pub size: f64,
    /// Class of the style sheet.
    pub class: &'static str,
}

/// Text of names.
pub const NAME: Font = Font { size: 12.0, class: "n" };
/// Names that matter less.
pub const DIM: Font = Font { size: 11.0, class: "d" };
/// Names that matter more.
pub const BOLD: Font = Font { size: 12.0, class: "b" };
/// Headings.
pub const HEAD: Font = Font { size: 11.0, class: "h" };
/// The title.
pub const TITLE: Font = Font { size: 20.0, class: "t" };

const STYLE: &str = "\
text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f2933;white-space:pre}\
.n{font-size:12px}.d{font-size:11px;fill:#7b8794}.b{font-size:12px;font-weight:700}\
.h{font-size:11px;font-weight:700;fill:#52606d;letter-spacing:.5px}.t{font-size:20px;font-weight:700}\
.h,.t{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}";

/// Text that is valid and without meaning in XML: control characters are replaced.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // What XML 1.0 has no place for, and what turns the direction of text.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
                out.push('\u{fffd}')
            }
            _ if char.is_control() => out.push('\u{fffd}'),
            _ => out.push(char),
        }
    }
    out
}

/// Text cut to `width` pixels.
pub fn fit(text: &str, font: Font, width: f64) -> String {
    let room = (width / (font.size * ASPECT)).max(1.0) as usize;
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
}

/// The width of text in pixels.
pub fn width(text: &str, font: Font) -> f64 {
    text.chars().count() as f64 * font.size * ASPECT
}

impl Paint {
    /// A rectangle with round corners; `title` is told when the mouse is over it.
    pub fn rect(&mut self, at: (f64, f64), size: (f64, f64), fill: &str, stroke: &str, title: &str) {
        let ((x, y), (w, h)) = (at, size);
        let head = format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"5\" fill=\"{fill}\" stroke=\"{stroke}\""
        );
        let _ = match title {
            "" => writeln!(self.body, "{head}/>"),
            title => writeln!(self.body, "{head}><title>{}</title></rect>", escape(title)),
        };
    }

    /// Text whose base line begins at `at`.
    pub fn text(&mut self, at: (f64, f64), font: Font, text: &str) {
        let _ = writeln!(
            self.body,
            "<text class=\"{}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            font.class,
            at.0,
            at.1,
            escape(text)
        );
    }

    /// As [`Paint::text`] in a colour of its own.
    pub fn coloured(&mut self, at: (f64, f64), font: Font, colour: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<text class=\"{}\" x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{colour}\">{}</text>",
            font.class,
            at.0,
            at.1,
            escape(text)
        );
    }

    /// A line of a tree: down from `from` and to the right to `to`.
    pub fn branch(&mut self, from: (f64, f64), to: (f64, f64)) {
        let ((x, y), (tx, ty)) = (from, to);
        let _ = writeln!(
            self.body,
            "<path d=\"M{x:.1} {y:.1}V{:.1}Q{x:.1} {ty:.1} {:.1} {ty:.1}H{tx:.1}\" fill=\"none\" stroke=\"#b8c2cc\"/>",
            ty - 5.0,
            x + 5.0
        );
    }

    /// The whole picture.
    pub fn finish(self, size: (f64, f64), title: &str) -> String {
        let (w, h) = size;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w:.0} {h:.0}\" width=\"{w:.0}\" height=\"{h:.0}\" \
             role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
             <rect width=\"{w:.0}\" height=\"{h:.0}\" rx=\"12\" fill=\"#f5f7fa\"/>\n{}</svg>\n",
            escape(title),
            self.body
        )
    }
}
