//! Tries one thing a guest may or may not be allowed to do, and says how it went: `probe read PATH`,
//! `probe write PATH TEXT`, `probe list PATH`, `probe rename PATH PATH`, `probe remove PATH`, `probe count PATH`,
//! `probe open COUNT PATH`, `probe say BYTES`, `probe connect HOST:PORT`, `probe recurse`, `probe fail`, `probe env NAME`.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match attempt(&words) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn attempt(words: &[&str]) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{}: {error}", words.join(" "));
    match words {
        ["read", path] => std::fs::read_to_string(path).map_err(told),
        ["write", path, text] => {
            std::fs::write(path, text).map_err(told)?;
            Ok(format!("written to {path}"))
        }
        ["list", path] => {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path).map_err(told)? {
                names.push(
                    entry
                        .map_err(told)?
                        .file_name()
                        .to_string_lossy()
                        .into_owned(),
                );
            }
            names.sort();
            Ok(names.join(" "))
        }
        ["rename", from, to] => {
            std::fs::rename(from, to).map_err(told)?;
            Ok(format!("{from} is {to} now"))
        }
        ["remove", path] => {
            std::fs::remove_file(path).map_err(told)?;
            Ok(format!("{path} is removed"))
        }
        ["count", path] => {
            let mut file = std::fs::File::open(path).map_err(told)?;
            let mut buffer = vec![0; 1 << 16];
            let mut bytes = 0_u64;
            loop {
                match file.read(&mut buffer).map_err(told)? {
                    0 => return Ok(format!("{bytes} bytes")),
                    some => bytes += some as u64,
                }
            }
        }
        ["open", count, path] => {
            let mut open = Vec::new();
            for _ in 0..number(count)? {
                open.push(std::fs::File::open(path).map_err(told)?);
            }
            Ok(format!("{} files are open", open.len()))
        }
        ["say", bytes] => {
            let line = [b'x'; 1024];
            let mut left = number(bytes)?;
            while left > 0 {
                let some = left.min(line.len());
                std::io::stdout().write_all(&line[..some]).map_err(told)?;
                left -= some;
            }
            Ok(String::new())
        }
        ["connect", address] => connect(address).map_err(told),
        ["recurse"] => Ok(recurse(1).to_string()),
        ["fail"] => panic!("this guest fails as asked"),
        ["env", name] => std::env::var(name).map_err(|error| error.to_string()),
        _ => Err("nothing that can be tried was named".to_owned()),
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

/// Asks a server there for its first page and gives back the first line of the answer.
fn connect(address: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn recurse(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 64]);
    if here[0] == u64::MAX {
        return 0;
    }
    let below = recurse(std::hint::black_box(here[7] + 1));
    std::hint::black_box(here[8]) + below
}
