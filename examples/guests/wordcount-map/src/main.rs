//! Counts the words of one shard: `wordcount-map SHARD` writes `counts.tsv`, a word and its count a line.
//!
//! A word is a maximal run of ASCII letters, in lower case.

use std::collections::HashMap;
use std::io::Write;

fn main() -> std::io::Result<()> {
    let Some(shard) = std::env::args().nth(1) else {
        eprintln!("usage: wordcount-map SHARD");
        std::process::exit(2);
    };
    let mut text = std::fs::read(&shard)?;
    text.make_ascii_lowercase();
    let mut counts: HashMap<&[u8], u64> = HashMap::new();
    let mut words = 0u64;
    for word in text
        .split(|byte| !byte.is_ascii_lowercase())
        .filter(|word| !word.is_empty())
    {
        *counts.entry(word).or_default() += 1;
        words += 1;
    }
    let mut out = std::io::BufWriter::new(std::fs::File::create("counts.tsv")?);
    for (word, count) in &counts {
        out.write_all(word)?;
        writeln!(out, "\t{count}")?;
    }
    out.flush()?;
    println!(
        "{shard}: {} bytes, {words} words, {} distinct",
        text.len(),
        counts.len()
    );
    Ok(())
}
