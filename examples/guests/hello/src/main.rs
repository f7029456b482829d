//! Says hello, shows its arguments and its task, and exits with the code given as `--exit N`.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!("hello from wasm {}", arguments.join(" "));
    if let Some(task) = tepui_sdk_guest::Task::current() {
        println!("task {} in role {}", task.id, task.role);
    }
    if let Ok(greeting) = std::env::var("GREETING") {
        println!("GREETING={greeting}");
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--sleep") {
        let milliseconds = arguments
            .get(at + 1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(1000);
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        println!("slept {milliseconds} ms");
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--exit") {
        let code = arguments
            .get(at + 1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(1);
        eprintln!("exiting with {code} as asked");
        std::process::exit(code);
    }
}
