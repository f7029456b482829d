//! Draws one page: `rendler-render PAGE` writes `page.png`, 360 by 270 pixels.
//!
//! Enough of HTML to recognise a page by: headings, paragraphs, lists, links, rules, frames where pictures would be, and
//! the background the body asks for. No style sheets, no scripts.

mod canvas;
mod page;

use canvas::Canvas;
use html5gum::{DefaultEmitter, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("usage: rendler-render PAGE");
        std::process::exit(2);
    };
    let html = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
    let mut page = page::Page::default();
    let mut emitter = DefaultEmitter::default();
    // What is in a script or a title is text, whatever it looks like.
    emitter.naively_switch_states(true);
    for Ok(token) in Tokenizer::new_with_emitter(&html, emitter) {
        page.read(token);
    }
    let mut canvas = Canvas::new(page.background);
    page.draw(&mut canvas);
    let png = canvas.into_png()?;
    std::fs::write("page.png", &png)?;
    println!("{file}: '{}', {} bytes of picture", page.title(), png.len());
    Ok(())
}
