//! A file server on loopback that counts what it is asked and misbehaves as the test says: late, held back, cut off,
//! stalled in the middle, slow, with another status, or lying about the length.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cluster::wait_until;

/// The sha256 of bytes, in hex.
pub fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// How a path is answered. A path nobody told the server about is answered with 404.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    send_only: Option<usize>,
    stall: bool,
    held: bool,
    claimed: Option<usize>,
    drip: Option<(usize, Duration)>,
    ranges: bool,
    failing: usize,
}

impl Reply {
    pub fn body(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: Vec::new(),
            body: bytes.into(),
            delay: Duration::ZERO,
            send_only: None,
            stall: false,
            held: false,
            claimed: None,
            drip: None,
            ranges: false,
            failing: 0,
        }
    }

    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::body("")
        }
    }

    /// 302 to another path or URL.
    pub fn redirect(location: &str) -> Self {
        let location = ("Location".to_owned(), location.to_owned());
        Self {
            headers: vec![location],
            ..Self::status(302)
        }
    }

    /// Nothing is said for so long.
    pub fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Nothing is said before [`FileServer::release`].
    pub fn held(self) -> Self {
        Self { held: true, ..self }
    }

    /// So many bytes are promised, however many there are.
    pub fn claiming(self, bytes: usize) -> Self {
        Self {
            claimed: Some(bytes),
            ..self
        }
    }

    /// So many bytes at a time, with a pause after each.
    pub fn dripping(self, bytes: usize, pause: Duration) -> Self {
        Self {
            drip: Some((bytes, pause)),
            ..self
        }
    }

    /// Ranges are given, of a version that has a tag.
    pub fn ranged(self) -> Self {
        Self {
            ranges: true,
            ..self
        }
    }

    /// 503 to the first so many requests.
    pub fn failing_first(self, requests: usize) -> Self {
        Self {
            failing: requests,
            ..self
        }
    }

    /// With a header besides.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What is answered to a request that names a range.
    fn from(self, range: Option<&str>) -> Self {
        let total = self.body.len();
        if !self.ranges {
            return self;
        }
        let tagged = self.with_header("ETag", "\"version\"");
        let begin = range.and_then(|range| {
            let range = range.trim().strip_prefix("bytes=")?;
            range.strip_suffix('-')?.parse::<usize>().ok()
        });
        match begin {
            None => tagged,
            Some(begin) if begin >= total => Self {
                status: 416,
                body: Vec::new(),
                ..tagged.with_header("Content-Range", &format!("bytes */{total}"))
            },
            Some(begin) => {
                let range = format!("bytes {begin}-{}/{total}", total - 1);
                let tagged = tagged.with_header("Content-Range", &range);
                Self {
                    status: 206,
                    body: tagged.body[begin..].to_vec(),
                    ..tagged
                }
            }
        }
    }

    /// The whole length is promised and the connection closed after so many bytes.
    pub fn truncated_to(self, bytes: usize) -> Self {
        Self {
            send_only: Some(bytes),
            ..self
        }
    }

    /// The whole length is promised, and after so many bytes nothing comes any more.
    pub fn stalling_after(self, bytes: usize) -> Self {
        Self {
            send_only: Some(bytes),
            stall: true,
            ..self
        }
    }
}

#[derive(Debug, Default)]
struct State {
    replies: BTreeMap<String, Reply>,
    /// Method and path, in the order in which they came.
    requests: Vec<(String, String)>,
    /// Of those for a path, in the same order, the range each named.
    ranges: BTreeMap<String, Vec<Option<String>>>,
    released: Vec<String>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The server; it ends with the test.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FileServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::default(),
        };
        let shared = server.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.state.lock().unwrap().closed {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        server
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on the path is answered so.
    pub fn serve(&self, path: &str, reply: Reply) -> String {
        let mut state = self.shared.state.lock().unwrap();
        state.replies.insert(path.to_owned(), reply);
        self.url(path)
    }

    /// How often the path was asked for, with whatever method.
    pub fn count(&self, path: &str) -> usize {
        let state = self.shared.state.lock().unwrap();
        let asked = state.requests.iter().filter(|(_, asked)| asked == path);
        asked.count()
    }

    /// Every request so far: method and path.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// The range each request for the path named, in the order in which they came.
    pub fn ranges(&self, path: &str) -> Vec<Option<String>> {
        let state = self.shared.state.lock().unwrap();
        state.ranges.get(path).cloned().unwrap_or_default()
    }

    /// Until somebody has asked for the path.
    pub fn wait_for(&self, path: &str) {
        wait_until(&format!("a request for {path}"), || {
            (self.count(path) > 0).then_some(())
        });
    }

    /// Lets held answers of the path go, those of requests to come too.
    pub fn release(&self, path: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state.released.push(path.to_owned());
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().closed = true;
        self.shared.changed.notify_all();
        // The listener wakes up and sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let mut header = String::new();
        let mut range = None;
        while reader.read_line(&mut header).is_ok_and(|count| count > 2) {
            let field = header.split_once(':');
            let field = field.filter(|(name, _)| name.eq_ignore_ascii_case("range"));
            range = range.or(field.map(|(_, value)| value.trim().to_owned()));
            header.clear();
        }
        let reply = {
            let mut state = self.state.lock().unwrap();
            state.requests.push((method.clone(), path.clone()));
            let ranges = state.ranges.entry(path.clone()).or_default();
            ranges.push(range.clone());
            let asked = ranges.len();
            state
                .replies
                .get(&path)
                .cloned()
                .map(|reply| match reply.failing {
                    failing if asked <= failing => Reply::status(503),
                    _ => reply,
                })
        };
        let reply = reply.unwrap_or_else(|| Reply::status(404));
        let reply = reply.from(range.as_deref());
        std::thread::sleep(reply.delay);
        if reply.held {
            let state = self.state.lock().unwrap();
            let held = |state: &mut State| !state.closed && !state.released.contains(&path);
            drop(self.changed.wait_while(state, held));
        }
        // A client that has gone away is what some tests are about.
        let _ = self.answer(reader.get_mut(), &method, &reply);
    }

    fn answer(&self, stream: &mut TcpStream, method: &str, reply: &Reply) -> std::io::Result<()> {
        let (status, length) = (reply.status, reply.claimed.unwrap_or(reply.body.len()));
        let mut head =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n");
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" {
            let length = reply.body.len();
            let sent = &reply.body[..reply.send_only.unwrap_or(length).min(length)];
            match reply.drip {
                None => stream.write_all(sent)?,
                Some((bytes, pause)) => {
                    for piece in sent.chunks(bytes) {
                        stream.write_all(piece)?;
                        std::thread::sleep(pause);
                    }
                }
            }
            stream.flush()?;
        }
        if reply.stall {
            let state = self.state.lock().unwrap();
            drop(self.changed.wait_while(state, |state| !state.closed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request;

    #[test]
    fn a_path_is_answered_as_told_and_counted() {
        let server = FileServer::start();
        let get = |path: &str| request(&server.address(), "GET", path, &[], b"");
        server.serve("/file", Reply::body("text"));
        assert_eq!(get("/file").unwrap().text(), "text");
        assert_eq!(get("/other").unwrap().status, 404);
        server.serve("/file", Reply::body("text").truncated_to(2));
        assert!(get("/file").is_err(), "the body ends early");
        assert_eq!((server.count("/file"), server.requests().len()), (2, 3));
    }

    #[test]
    fn ranges_failures_and_lies_are_given_as_told() {
        let server = FileServer::start();
        let get = |path: &str, range: &str| {
            request(&server.address(), "GET", path, &[("Range", range)], b"")
        };
        server.serve("/file", Reply::body("012345").ranged().failing_first(1));
        assert_eq!(get("/file", "bytes=2-").unwrap().status, 503);
        let part = get("/file", "bytes=2-").unwrap();
        assert_eq!((part.status, part.text().as_str()), (206, "2345"));
        assert_eq!(part.header("content-range"), Some("bytes 2-5/6"));
        assert_eq!(get("/file", "bytes=6-").unwrap().status, 416);
        assert_eq!(server.ranges("/file")[1].as_deref(), Some("bytes=2-"));
        server.serve("/lie", Reply::body("text").claiming(9));
        assert!(get("/lie", "").is_err(), "the body ends early");
        server.serve(
            "/slow",
            Reply::body("text").dripping(1, Duration::from_millis(1)),
        );
        assert_eq!(get("/slow", "").unwrap().text(), "text");
    }

    #[test]
    fn a_held_answer_waits_to_be_released() {
        let server = FileServer::start();
        server.serve("/held", Reply::body("late").held());
        let address = server.address();
        let asking = std::thread::spawn(move || request(&address, "GET", "/held", &[], b""));
        server.wait_for("/held");
        assert!(!asking.is_finished());
        server.release("/held");
        assert_eq!(asking.join().unwrap().unwrap().text(), "late");
    }
}
