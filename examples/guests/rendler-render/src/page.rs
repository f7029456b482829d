//! From tokens to lines of words, and from those to the canvas.

use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_8X13_BOLD, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyleBuilder};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};
use html5gum::{EndTag, StartTag, Token};

use crate::canvas::{Canvas, HEIGHT, WIDTH};

const MARGIN: i32 = 8;
const TITLE_BAR: i32 = 16;
const LINK: Rgb888 = Rgb888::new(0x1a, 0x4f, 0xc4);
const TITLE_GROUND: Rgb888 = Rgb888::new(0x30, 0x34, 0x3c);
const FRAME: Rgb888 = Rgb888::new(0x90, 0x90, 0x90);

/// What is to be drawn, in order.
enum Piece {
    Word {
        text: String,
        font: &'static MonoFont<'static>,
        link: bool,
    },
    Break,
    Paragraph,
    Rule,
    Picture {
        label: String,
    },
}

pub struct Page {
    pub background: Rgb888,
    pieces: Vec<Piece>,
    title: String,
    font: &'static MonoFont<'static>,
    in_link: bool,
    in_title: bool,
    /// Inside a script or a style sheet, whose text is not for readers.
    unread: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            background: Rgb888::WHITE,
            pieces: Vec::new(),
            title: String::new(),
            font: &FONT_6X10,
            in_link: false,
            in_title: false,
            unread: false,
        }
    }
}

impl Page {
    pub fn title(&self) -> &str {
        self.title.trim()
    }

    pub fn read(&mut self, token: Token) {
        match token {
            Token::StartTag(tag) => self.open(&tag),
            Token::EndTag(tag) => self.close(&tag),
            Token::String(text) => self.text(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }

    fn open(&mut self, tag: &StartTag<()>) {
        let attribute = |name: &[u8]| {
            let value = tag.attributes.get(name);
            value.map(|value| String::from_utf8_lossy(value).into_owned())
        };
        match tag.name.as_slice() {
            b"body" => {
                if let Some(color) = attribute(b"bgcolor").and_then(|value| color(&value)) {
                    self.background = color;
                }
            }
            b"title" => self.in_title = true,
            b"script" | b"style" => self.unread = true,
            b"a" => self.in_link = true,
            b"h1" => self.heading(&FONT_10X20),
            b"h2" | b"h3" | b"h4" => self.heading(&FONT_8X13_BOLD),
            b"p" | b"div" | b"ul" | b"ol" | b"table" => self.pieces.push(Piece::Paragraph),
            b"br" | b"tr" => self.pieces.push(Piece::Break),
            b"li" => {
                self.pieces.push(Piece::Break);
                self.text("*");
            }
            b"hr" => self.pieces.push(Piece::Rule),
            b"img" => {
                let label = attribute(b"alt").unwrap_or_default();
                self.pieces.push(Piece::Picture { label });
            }
            _ => {}
        }
    }

    fn close(&mut self, tag: &EndTag<()>) {
        match tag.name.as_slice() {
            b"title" => self.in_title = false,
            b"script" | b"style" => self.unread = false,
            b"a" => self.in_link = false,
            b"h1" | b"h2" | b"h3" | b"h4" => self.heading(&FONT_6X10),
            b"p" | b"ul" | b"ol" | b"table" => self.pieces.push(Piece::Paragraph),
            _ => {}
        }
    }

    fn heading(&mut self, font: &'static MonoFont<'static>) {
        self.pieces.push(Piece::Paragraph);
        self.font = font;
    }

    fn text(&mut self, text: &str) {
        if self.in_title {
            self.title.push_str(text);
        } else if !self.unread {
            let (font, link) = (self.font, self.in_link);
            let words = text.split_whitespace();
            self.pieces.extend(words.map(|word| Piece::Word {
                text: word.to_owned(),
                font,
                link,
            }));
        }
    }

    pub fn draw(&self, canvas: &mut Canvas) {
        let mut pen = Pen {
            canvas,
            at: Point::new(MARGIN, TITLE_BAR + MARGIN),
            line_height: 0,
            ink: ink_on(self.background),
        };
        for piece in &self.pieces {
            if pen.at.y >= HEIGHT as i32 {
                break;
            }
            match piece {
                Piece::Word { text, font, link } => pen.word(text, font, *link),
                Piece::Break => pen.next_line(0),
                Piece::Paragraph => pen.next_line(4),
                Piece::Rule => pen.rule(),
                Piece::Picture { label } => pen.picture(label),
            }
        }
        // Last, so that it lies over whatever is above the page.
        let bar = Rectangle::new(Point::zero(), Size::new(WIDTH, TITLE_BAR as u32));
        let Ok(()) = bar
            .into_styled(PrimitiveStyle::with_fill(TITLE_GROUND))
            .draw(pen.canvas);
        let style = MonoTextStyleBuilder::new()
            .font(&FONT_6X10)
            .text_color(Rgb888::WHITE)
            .build();
        let title = Text::with_baseline(self.title(), Point::new(MARGIN, 3), style, Baseline::Top);
        let Ok(_) = title.draw(pen.canvas);
    }
}

struct Pen<'a> {
    canvas: &'a mut Canvas,
    at: Point,
    /// Of the line begun; 0 while nothing is on it.
    line_height: i32,
    ink: Rgb888,
}

impl Pen<'_> {
    fn word(&mut self, text: &str, font: &'static MonoFont<'static>, link: bool) {
        let advance = font.character_size.width as i32;
        let length = text.chars().count() as i32;
        if self.line_height > 0 && self.at.x + length * advance > WIDTH as i32 - MARGIN {
            self.next_line(0);
        }
        let style = MonoTextStyleBuilder::new().font(font);
        let style = if link {
            style.text_color(LINK).underline()
        } else {
            style.text_color(self.ink)
        };
        let Ok(_) =
            Text::with_baseline(text, self.at, style.build(), Baseline::Top).draw(self.canvas);
        self.at.x += (length + 1) * advance;
        self.line_height = self.line_height.max(font.character_size.height as i32 + 2);
    }

    /// Begins a line unless one has just begun.
    fn next_line(&mut self, gap: i32) {
        if self.line_height > 0 {
            self.at = Point::new(MARGIN, self.at.y + self.line_height + gap);
            self.line_height = 0;
        }
    }

    fn rule(&mut self) {
        self.next_line(0);
        let (from, to) = (
            self.at + Point::new(0, 3),
            Point::new(WIDTH as i32 - MARGIN, self.at.y + 3),
        );
        let line = Line::new(from, to).into_styled(PrimitiveStyle::with_stroke(FRAME, 1));
        let Ok(()) = line.draw(self.canvas);
        self.at.y += 8;
    }

    fn picture(&mut self, label: &str) {
        self.next_line(2);
        let frame = Rectangle::new(self.at, Size::new(120, 48));
        let Ok(()) = frame
            .into_styled(PrimitiveStyle::with_stroke(FRAME, 1))
            .draw(self.canvas);
        let below = self.at.y + 52;
        self.at += Point::new(6, 18);
        self.word(label, &FONT_6X10, false);
        self.at = Point::new(MARGIN, below);
        self.line_height = 0;
    }
}

/// `#rrggbb`
fn color(text: &str) -> Option<Rgb888> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    let [_, red, green, blue] = number.to_be_bytes();
    Some(Rgb888::new(red, green, blue))
}

/// Black on light, white on dark.
fn ink_on(ground: Rgb888) -> Rgb888 {
    let brightness = 3 * u32::from(ground.r()) + 6 * u32::from(ground.g()) + u32::from(ground.b());
    if brightness > 1275 {
        Rgb888::BLACK
    } else {
        Rgb888::WHITE
    }
}
