//! Adds up the counts of all shards: `wordcount-reduce FILE...` writes `totals.tsv`, sorted by word, and prints the sum.

use std::collections::BTreeMap;
use std::io::Write;

fn main() -> std::io::Result<()> {
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    for file in std::env::args().skip(1) {
        for line in std::fs::read_to_string(&file)?.lines() {
            let Some((word, count)) = line.split_once('\t') else {
                eprintln!("{file}: not a word and its count: {line}");
                std::process::exit(3);
            };
            let Ok(count) = count.parse::<u64>() else {
                eprintln!("{file}: not a count: {line}");
                std::process::exit(3);
            };
            *totals.entry(word.to_owned()).or_default() += count;
        }
    }
    let mut out = std::io::BufWriter::new(std::fs::File::create("totals.tsv")?);
    for (word, count) in &totals {
        writeln!(out, "{word}\t{count}")?;
    }
    out.flush()?;
    println!(
        "words {} distinct {}",
        totals.values().sum::<u64>(),
        totals.len()
    );
    let mut top: Vec<_> = totals.iter().collect();
    top.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (word, count) in top.into_iter().take(8) {
        println!("{count:>10} {word}");
    }
    Ok(())
}
