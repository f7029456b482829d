//! `census DATA LIMIT`: see the README of this directory's parent for what is counted.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use census::{Census, parse_limit, top_wanted};

#[cfg(target_env = "p2")]
mod fetch;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = match arguments.as_slice() {
        [data, limit] => parse_limit(limit).map(|limit| (data, limit)),
        _ => None,
    };
    let (Some((data, limit)), Some(top)) = (wanted, top_wanted()) else {
        eprintln!("usage: census DATA LIMIT (2 to 5000000; CENSUS_TOP: 0 to 100)");
        return ExitCode::from(2);
    };
    match take(data).and_then(|census| write(&census.report(top, limit).to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("census: {data}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn take(data: &str) -> io::Result<Census> {
    #[cfg(target_env = "p2")]
    if let Some(rest) = data.strip_prefix("http://") {
        let mut census = Census::default();
        census.add(&fetch::get(rest).map_err(io::Error::other)?);
        return Ok(census);
    }
    Census::of(Path::new(data))
}

fn write(report: &str) -> io::Result<()> {
    let file = std::env::var("CENSUS_OUT").unwrap_or_else(|_| "census.txt".to_owned());
    std::fs::write(file, report)?;
    print!("{report}");
    Ok(())
}
