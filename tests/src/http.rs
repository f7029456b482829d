//! A small HTTP/1.1 client over one socket a request: enough to say anything, right or wrong, to a server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Sends a request; its answer is still to come.
fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    (&socket).write_all(head.as_bytes())?;
    (&socket).write_all(body)?;
    Ok(socket)
}

/// The answer to what was sent, as far as its head has come.
fn answer(socket: TcpStream) -> std::io::Result<Stream> {
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_default();
    let mut answered = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        answered.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let response = Response {
        status,
        headers: answered,
        body: Vec::new(),
    };
    let chunked = response.header("transfer-encoding") == Some("chunked");
    let left = response
        .header("content-length")
        .and_then(|length| length.parse().ok());
    Ok(Stream {
        response,
        reader,
        chunked,
        left,
        pending: Vec::new(),
    })
}

/// One request, its whole answer.
///
/// # Errors
/// When the server cannot be reached or closes early.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Response> {
    let mut headers = headers.to_vec();
    headers.push(("Connection", "close"));
    let mut stream = answer(send(address, method, path, &headers, body)?)?;
    if method != "HEAD" {
        stream.read_to_end()?;
    }
    Ok(stream.response)
}

/// A call whose answer may take a while; it has been sent when this comes back.
///
/// # Errors
/// When the server cannot be reached; the thread panics when it closes early.
pub fn call_ahead(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<JoinHandle<Response>> {
    let socket = send(address, "POST", path, headers, body)?;
    Ok(std::thread::spawn(move || {
        let mut stream = answer(socket).unwrap();
        stream.read_to_end().unwrap();
        stream.response
    }))
}

/// An answer that goes on.
#[derive(Debug)]
pub struct Stream {
    pub response: Response,
    reader: BufReader<TcpStream>,
    chunked: bool,
    left: Option<usize>,
    pending: Vec<u8>,
}

impl Stream {
    /// Opens a stream; its answer's head has been read, whatever its status.
    ///
    /// # Errors
    /// When the server cannot be reached or closes early.
    pub fn open(
        address: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Self> {
        answer(send(address, "POST", path, headers, body)?)
    }

    fn read_to_end(&mut self) -> std::io::Result<()> {
        while let Some(piece) = self.piece()? {
            self.response.body.extend(piece);
        }
        Ok(())
    }

    /// Lets the stream be silent for as long as it likes.
    pub fn patient(self) -> Self {
        // Without a limit of its own, a socket that works has nothing to complain about.
        let _ = self.reader.get_ref().set_read_timeout(None);
        self
    }

    /// The next HTTP chunk, or whatever is left of a body without chunks; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or stays silent for 30 s.
    pub fn piece(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if self.chunked {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let length =
                usize::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16);
            let length =
                length.map_err(|_| std::io::Error::other(format!("no chunk length: {line:?}")))?;
            let mut piece = vec![0; length + 2];
            self.reader.read_exact(&mut piece)?;
            piece.truncate(length);
            return Ok((length > 0).then_some(piece));
        }
        let mut piece = Vec::new();
        match self.left.take() {
            Some(length) => {
                piece.resize(length, 0);
                self.reader.read_exact(&mut piece)?;
            }
            None => {
                self.reader.read_to_end(&mut piece)?;
            }
        }
        self.left = Some(0);
        Ok((!piece.is_empty()).then_some(piece))
    }

    /// The next RecordIO record as JSON; `None` at the end.
    ///
    /// # Errors
    /// When the stream breaks, is silent for 30 s or is not RecordIO.
    pub fn record(&mut self) -> std::io::Result<Option<Value>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let length = std::str::from_utf8(&self.pending[..end])
                    .ok()
                    .and_then(|digits| digits.parse::<usize>().ok());
                let length = length
                    .ok_or_else(|| std::io::Error::other("a record begins with its length"))?;
                if self.pending.len() > end + length {
                    let record = self.pending[end + 1..end + 1 + length].to_vec();
                    self.pending.drain(..end + 1 + length);
                    return serde_json::from_slice(&record)
                        .map(Some)
                        .map_err(std::io::Error::other);
                }
            }
            match self.piece()? {
                Some(piece) => self.pending.extend(piece),
                None => return Ok(None),
            }
        }
    }
}
