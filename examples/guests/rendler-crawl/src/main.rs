//! Finds the links of one page: `rendler-crawl PAGE URL` writes `links.txt`, an absolute URL a line, in their order on
//! the page and each once.
//!
//! The page is a file: whoever launches the task has it fetched into the sandbox, so the guest needs no network.

use std::collections::BTreeSet;
use std::fmt::Write;

use html5gum::{DefaultEmitter, Token, Tokenizer};
use url::Url;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [page, url] = arguments.as_slice() else {
        eprintln!("usage: rendler-crawl PAGE URL");
        std::process::exit(2);
    };
    let html = String::from_utf8_lossy(&std::fs::read(page)?).into_owned();
    let links = links(&html, Url::parse(url)?);
    let mut lines = String::new();
    for link in &links {
        writeln!(lines, "{link}")?;
    }
    std::fs::write("links.txt", lines)?;
    println!("{url}: {} bytes, {} links", html.len(), links.len());
    Ok(())
}

/// Where the page's links lead, resolved against its address or its `<base>`, without their fragments.
fn links(html: &str, mut base: Url) -> Vec<Url> {
    let mut seen = BTreeSet::new();
    let mut links = Vec::new();
    let mut emitter = DefaultEmitter::default();
    // What is in a script or a title is text, whatever it looks like.
    emitter.naively_switch_states(true);
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        let Token::StartTag(tag) = token else {
            continue;
        };
        let Some(href) = tag.attributes.get(&b"href"[..]) else {
            continue;
        };
        let Ok(mut target) = base.join(&String::from_utf8_lossy(href)) else {
            continue;
        };
        target.set_fragment(None);
        match tag.name.as_slice() {
            b"base" => base = target,
            b"a" if matches!(target.scheme(), "http" | "https") && seen.insert(target.clone()) => {
                links.push(target);
            }
            _ => {}
        }
    }
    links
}
