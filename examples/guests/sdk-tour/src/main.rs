//! What a guest may ask of its cluster, one stop after the other, or those that are named as arguments: `who`, `log`,
//! `progress`, `health`, `count`, `find=NAME`, `echo`, `flood`.

use std::time::Duration;

use tepui_sdk_guest::store::If;
use tepui_sdk_guest::{Code, Error, Task, log, messages, report, services, store};

fn main() {
    let stops: Vec<String> = std::env::args().skip(1).collect();
    let all = ["who", "log", "progress", "health", "count", "find=web"];
    let stops: Vec<&str> = match stops.is_empty() {
        true => all.to_vec(),
        false => stops.iter().map(String::as_str).collect(),
    };
    for stop in stops {
        let (stop, word) = stop.split_once('=').unwrap_or((stop, ""));
        let visited = match stop {
            "who" => who(),
            "log" => log_lines(),
            "progress" => progress(),
            "health" => health(),
            "count" => count(),
            "find" => find(word),
            "echo" => echo(),
            "flood" => flood(),
            _ => {
                eprintln!("there is no stop {stop}");
                std::process::exit(2);
            }
        };
        if let Err(error) = visited {
            println!("{stop}: {:?}: {error}", error.code);
        }
    }
}

fn who() -> Result<(), Error> {
    let task = Task::details()?;
    println!("task {} ({}) of {}", task.id, task.name, task.framework_id);
    println!("role {}, agent {}", task.role, task.agent_id);
    println!("attempt {}, job {:?}", task.attempt, task.job);
    println!("colour {:?}", task.label("colour"));
    Ok(())
}

fn log_lines() -> Result<(), Error> {
    log::info("the tour goes on", &[("stop", "log"), ("day", "a \"fine\" one")])?;
    log::warn("it looks like rain", &[])
}

fn progress() -> Result<(), Error> {
    for step in 0..=10 {
        report::progress(f64::from(step) / 10.0, &format!("step {step} of 10"))?;
        std::thread::sleep(Duration::from_millis(150));
    }
    Ok(())
}

fn health() -> Result<(), Error> {
    report::health(false, "the feet hurt")?;
    std::thread::sleep(Duration::from_millis(1_500));
    report::health(true, "a rest has helped")
}

/// Counts its visits, whoever else does so at the same time.
fn count() -> Result<(), Error> {
    let number = |value: &[u8]| String::from_utf8_lossy(value).parse().unwrap_or(0_u64);
    let entry = store::update("visits/tour", |visits| {
        (visits.map_or(0, number) + 1).to_string().into_bytes()
    })?;
    println!("visit {}", number(&entry.value));
    match store::put_if("visits/tour", b"1", If::Absent) {
        Err(error) if error.code == Code::Conflict => {
            println!("it is there: {:?}", error.version == Some(entry.version));
        }
        other => println!("it should be there: {other:?}"),
    }
    println!("keys {:?}", store::keys("visits/")?);
    store::put("passing", b"x")?;
    store::delete("passing", If::Always)?;
    println!("gone: {}", store::get("passing")?.is_none());
    Ok(())
}

fn find(name: &str) -> Result<(), Error> {
    for endpoint in services::find(name)? {
        println!(
            "{name} answers at {}:{} ({})",
            endpoint.host, endpoint.port, endpoint.task_id
        );
    }
    Ok(())
}

/// Says that it is there, and then sends back whatever comes, until that is `bye`.
fn echo() -> Result<(), Error> {
    messages::send(b"ready")?;
    while let Some(message) = messages::receive(Duration::from_secs(60))? {
        messages::send(&[b"echo ", &message[..]].concat())?;
        if message == b"bye" {
            return Ok(());
        }
    }
    println!("nobody said bye");
    Ok(())
}

/// More of everything than anybody can want.
fn flood() -> Result<(), Error> {
    for step in 0..100_000 {
        report::progress(f64::from(step) / 1e5, "flood")?;
    }
    let mut refused = 0;
    for _ in 0..10_000 {
        match messages::send(&[0xff; 1_000]) {
            Err(error) if error.code == Code::Full => refused += 1,
            other => other?,
        }
    }
    println!("refused as many as were dropped: {}", refused == messages::dropped());
    report::progress(1.0, "flooded")
}
