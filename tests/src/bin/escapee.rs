//! A guest that has broken out of its runtime: native code in the very box an agent puts a wasm executor into.
//!
//! An agent under test starts its executors and compilers from this program. It passes everything on to `tepui`, until a
//! file, named by the variable `ESCAPE`, says whom to attack: from then on an executor shuts itself in as ours does, tries
//! all it can think of, and writes down in its sandbox how each attempt went.
#![allow(clippy::unwrap_used, reason = "all of this is test code")]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Error, Read, Result, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tepui_wall::Plan;

fn main() {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let attack = std::env::var_os("ESCAPE").map(PathBuf::from);
    let attack =
        attack.filter(|file| file.exists() && words.iter().any(|word| word == "executor-wasm"));
    let Some(file) = attack else {
        let tepui = std::env::current_exe().unwrap().with_file_name("tepui");
        panic!("{}", Command::new(tepui).args(words).exec());
    };
    let targets: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let sandbox = PathBuf::from(std::env::var_os("MESOS_SANDBOX").unwrap());
    let plan = Plan::from_env().unwrap().expect("the agent gave a plan");
    // The process that runs commands of checks has a wider box; it is tried as well.
    // SAFETY: there is one thread.
    match unsafe { libc_fork() } {
        0 => {
            let plan = Plan {
                runs_programs: true,
                ..plan
            };
            plan.enter().unwrap();
            report(&sandbox, "runner.json", &attempts(&targets, &sandbox, true));
        }
        _ => {
            plan.enter().unwrap();
            report(
                &sandbox,
                "executor.json",
                &attempts(&targets, &sandbox, false),
            );
            // With the executor everything of it is ended.
            while !sandbox.join("runner.json").exists() {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
}

unsafe fn libc_fork() -> i32 {
    // SAFETY: the caller's promise.
    unsafe { nix::libc::fork() }
}

fn report(sandbox: &Path, name: &str, attempts: &Value) {
    let unfinished = sandbox.join(format!(".{name}"));
    let mut file = File::create(&unfinished).unwrap();
    file.write_all(attempts.to_string().as_bytes()).unwrap();
    std::fs::rename(unfinished, sandbox.join(name)).unwrap();
}

/// A system call that gives -1 when it is refused.
fn call(number: i64, arguments: [usize; 5]) -> Result<i64> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: every pointer among the arguments is to something that lives until the call is over, or null.
    let got = unsafe { nix::libc::syscall(number, a, b, c, d, e) };
    if got < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(got)
    }
}

fn connect_to(path: &str) -> Result<()> {
    UnixStream::connect(path).map(drop)
}

/// Whether a server gave away what it has.
fn ask(address: &str, request: &str) -> Result<()> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 202") {
        true => Ok(()),
        false => Err(Error::other(
            answer.lines().next().unwrap_or_default().to_owned(),
        )),
    }
}

fn attempts(targets: &Value, sandbox: &Path, runner: bool) -> Value {
    use nix::libc as c;
    let text = |name: &str| targets[name].as_str().unwrap().to_owned();
    let number = |name: &str| usize::try_from(targets[name].as_i64().unwrap()).unwrap();
    let (victim, agent) = (number("victim_pid"), number("agent_pid"));
    let (work_dir, compiled) = (text("work_dir"), text("compiled"));
    let mut got = serde_json::Map::new();
    let mut attempt = |name: &str, outcome: Result<()>| {
        let text = match outcome {
            Ok(()) => "DONE".to_owned(),
            Err(error) => format!("refused: {error}"),
        };
        got.insert(name.to_owned(), json!(text));
    };
    let read = |path: String| std::fs::read(path).map(drop);
    let list = |path: String| std::fs::read_dir(path).map(drop);
    let write = |path: String| {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map(drop)
    };
    let sandbox_of_victim = text("victim_sandbox");
    attempt(
        "read of another tenant",
        read(format!("{sandbox_of_victim}/stdout")),
    );
    attempt("list of another tenant", list(sandbox_of_victim.clone()));
    attempt(
        "write to another tenant",
        write(format!("{sandbox_of_victim}/planted")),
    );
    attempt(
        "volume of another role",
        list(format!("{work_dir}/volumes/roles/victim")),
    );
    attempt("all tenants", list(format!("{work_dir}/slaves")));
    attempt("the work directory", list(work_dir.clone()));
    attempt("checkpoints", list(format!("{work_dir}/meta")));
    attempt("who has which user", read(format!("{work_dir}/users.json")));
    attempt("the agent's log", read(format!("{work_dir}/log")));
    attempt("fetched files", list(format!("{work_dir}/fetch")));
    attempt("/etc/shadow", read("/etc/shadow".to_owned()));
    attempt("/root", list("/root".to_owned()));
    attempt("/", write("/planted".to_owned()));
    attempt(
        "list of compiled code",
        list(format!("{work_dir}/compiled")),
    );
    attempt(
        "new compiled code",
        write(format!("{work_dir}/compiled/planted")),
    );
    attempt(
        "change of compiled code",
        OpenOptions::new().write(true).open(&compiled).map(drop),
    );
    attempt("removal of compiled code", std::fs::remove_file(&compiled));
    attempt(
        "environment of another tenant",
        read(format!("/proc/{victim}/environ")),
    );
    attempt(
        "memory of another tenant",
        read(format!("/proc/{victim}/mem")),
    );
    attempt(
        "environment of the agent",
        read(format!("/proc/{agent}/environ")),
    );
    attempt(
        "the host by way of another process",
        list(format!("/proc/{agent}/root/etc")),
    );
    attempt("raw disk", read("/dev/vda".to_owned()));
    attempt("kernel memory", read("/dev/mem".to_owned()));

    attempt("the agent's own socket", connect_to(&text("agent_socket")));
    let abstract_name = SocketAddr::from_abstract_name(text("abstract")).unwrap();
    attempt(
        "socket of another tenant",
        UnixStream::connect_addr(&abstract_name).map(drop),
    );
    let endpoint = text("agent_endpoint");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    attempt("state of the agent", ask(&endpoint, &get("/state")));
    let body = r#"{"type":"GET_FLAGS"}"#;
    let post = format!(
        "POST /api/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    attempt("a call of operators", ask(&endpoint, &post));
    let socket = |family: i32, kind: i32| {
        call(c::SYS_socket, [family as usize, kind as usize, 0, 0, 0]).map(drop)
    };
    attempt("packet socket", socket(c::AF_PACKET, c::SOCK_RAW));
    attempt("raw socket", socket(c::AF_INET, c::SOCK_RAW));
    if !runner {
        attempt("netlink socket", socket(c::AF_NETLINK, c::SOCK_RAW));
        attempt("vsock", socket(c::AF_VSOCK, c::SOCK_STREAM));
    }

    for (name, pid) in [
        ("another tenant", victim),
        ("the agent", agent),
        ("init", 1),
    ] {
        attempt(
            &format!("signal to {name}"),
            call(c::SYS_kill, [pid, 0, 0, 0, 0]).map(drop),
        );
        attempt(
            &format!("SIGTERM to {name}"),
            call(c::SYS_kill, [pid, 15, 0, 0, 0]).map(drop),
        );
        let by_handle = call(c::SYS_pidfd_open, [pid, 0, 0, 0, 0])
            .and_then(|handle| call(c::SYS_pidfd_send_signal, [handle as usize, 15, 0, 0, 0]));
        attempt(&format!("signal by handle to {name}"), by_handle.map(drop));
        attempt(
            &format!("ptrace of {name}"),
            call(c::SYS_ptrace, [c::PTRACE_SEIZE as usize, pid, 0, 0, 0]).map(drop),
        );
        let mut buffer = [0u8; 8];
        let local = [buffer.as_mut_ptr() as usize, 8];
        let remote = [0x1000usize, 8];
        let by_vm = call(
            c::SYS_process_vm_readv,
            [pid, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1],
        );
        attempt(&format!("reading memory of {name}"), by_vm.map(drop));
    }

    attempt(
        "becoming root",
        call(c::SYS_setresuid, [0, 0, 0, 0, 0]).map(drop),
    );
    attempt(
        "a user namespace",
        call(c::SYS_unshare, [c::CLONE_NEWUSER as usize, 0, 0, 0, 0]).map(drop),
    );
    attempt(
        "a mount namespace",
        call(c::SYS_unshare, [c::CLONE_NEWNS as usize, 0, 0, 0, 0]).map(drop),
    );
    let own = CString::new(sandbox.to_string_lossy().into_owned()).unwrap();
    let kind = c"tmpfs".as_ptr() as usize;
    attempt(
        "mount",
        call(c::SYS_mount, [kind, own.as_ptr() as usize, kind, 0, 0]).map(drop),
    );
    attempt(
        "umount",
        call(
            c::SYS_umount2,
            [own.as_ptr() as usize, c::MNT_DETACH as usize, 0, 0, 0],
        )
        .map(drop),
    );
    attempt(
        "chroot",
        call(c::SYS_chroot, [own.as_ptr() as usize, 0, 0, 0, 0]).map(drop),
    );
    attempt("setns", call(c::SYS_setns, [0, 0, 0, 0, 0]).map(drop));
    let device = CString::new(sandbox.join("device").to_string_lossy().into_owned()).unwrap();
    let place = device.as_ptr() as usize;
    let mode = (c::S_IFCHR | 0o600) as usize;
    attempt(
        "making a device",
        call(
            c::SYS_mknodat,
            [c::AT_FDCWD as usize, place, mode, 0x101, 0],
        )
        .map(drop),
    );
    attempt("bpf", call(c::SYS_bpf, [0, 0, 0, 0, 0]).map(drop));
    attempt(
        "keyctl",
        call(c::SYS_keyctl, [0, -3isize as usize, 0, 0, 0]).map(drop),
    );
    attempt(
        "userfaultfd",
        call(c::SYS_userfaultfd, [1, 0, 0, 0, 0]).map(drop),
    );
    attempt(
        "perf_event_open",
        call(c::SYS_perf_event_open, [0, 0, 0, 0, 0]).map(drop),
    );
    attempt("kexec", call(c::SYS_kexec_load, [0, 0, 0, 0, 0]).map(drop));
    attempt(
        "loading a module",
        call(c::SYS_init_module, [0, 0, 0, 0, 0]).map(drop),
    );
    attempt(
        "io_uring",
        call(c::SYS_io_uring_setup, [1, 0, 0, 0, 0]).map(drop),
    );
    attempt(
        "open_by_handle_at",
        call(c::SYS_open_by_handle_at, [0, 0, 0, 0, 0]).map(drop),
    );
    attempt("reboot", call(c::SYS_reboot, [0, 0, 0, 0, 0]).map(drop));

    let shell = c"/bin/sh".as_ptr() as usize;
    if !runner {
        attempt(
            "fork",
            call(c::SYS_clone, [c::SIGCHLD as usize, 0, 0, 0, 0]).map(end_child),
        );
        #[cfg(target_arch = "x86_64")]
        {
            attempt("plain fork", call(c::SYS_fork, [0; 5]).map(end_child));
            attempt("vfork", call(c::SYS_vfork, [0; 5]).map(end_child));
        }
        let clone3 = [0u64, 0, 0, 0, c::SIGCHLD as u64, 0, 0, 0];
        attempt(
            "clone3",
            call(c::SYS_clone3, [clone3.as_ptr() as usize, 64, 0, 0, 0]).map(end_child),
        );
        let arguments = [shell, 0];
        let list = arguments.as_ptr() as usize;
        attempt(
            "exec",
            call(c::SYS_execve, [shell, list, 0, 0, 0]).map(drop),
        );
        let memory = call(c::SYS_memfd_create, [c"x".as_ptr() as usize, 0, 0, 0, 0]).unwrap();
        let from_memory = [
            memory as usize,
            c"".as_ptr() as usize,
            list,
            0,
            c::AT_EMPTY_PATH as usize,
        ];
        attempt(
            "exec out of memory",
            call(c::SYS_execveat, from_memory).map(drop),
        );
    }

    // What must go on as before, or it proves nothing.
    let mut able = |name: &str, outcome: Result<()>| {
        got.insert(
            format!("able: {name}"),
            json!(outcome.map_or_else(|error| error.to_string(), |()| "yes".to_owned())),
        );
    };
    able(
        "own files",
        write(sandbox.join("own").display().to_string()),
    );
    able("compiled code", read(compiled.clone()));
    able(
        "randomness",
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut [0; 8])),
    );
    able(
        "threads",
        std::thread::Builder::new()
            .spawn(|| ())
            .map(|thread| thread.join().unwrap()),
    );
    able(
        "the executor's socket",
        connect_to(&text("executor_socket")),
    );
    able(
        "own signals",
        call(c::SYS_kill, [std::process::id() as usize, 0, 0, 0, 0]).map(drop),
    );
    if runner {
        able(
            "programs",
            Command::new("/bin/sh")
                .args(["-c", "true"])
                .status()
                .map(drop),
        );
    }
    let file = File::open("/dev/null").unwrap();
    able(
        "the device that is nothing",
        (&file).read(&mut [0]).map(drop),
    );
    let _ = file.as_raw_fd();
    Value::Object(got)
}

/// The child of an attempt that was not refused goes away at once; the parent has its number.
fn end_child(pid: i64) {
    if pid == 0 {
        std::process::exit(0);
    }
}
