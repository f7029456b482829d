//! An HTTP service in one component. By path: `/` greets, `/count` tells the requests this instance has seen, `/echo`
//! sends back what it gets as it gets it, `/stream` sends five lines over a while, `/slow` answers late, `/env` tells a
//! variable, `/file` the content of `/data/greeting`, `/fetch?AUTHORITY` what another server says. The others misbehave:
//! `/trap`, `/spin` and `/grow` before they answer, `/early` and `/hold` in the middle of it, `/none` by not answering,
//! and `/endless` by never coming to an end.

use std::cell::{Cell, RefCell};

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
    Scheme,
};
use wasip2::io::streams::StreamError;

wasip2::http::proxy::export!(Service);

struct Service;

thread_local! {
    static SEEN: Cell<u64> = const { Cell::new(0) };
    static HELD: RefCell<Vec<OutgoingBody>> = const { RefCell::new(Vec::new()) };
}

const MILLISECOND: u64 = 1_000_000;

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        SEEN.set(SEEN.get() + 1);
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/" => answer(out, 200, "hello from a component\n"),
            "/count" => answer(out, 200, &SEEN.get().to_string()),
            "/echo" => echo(request, out),
            "/stream" => stream(out),
            "/slow" => {
                wait(query.parse().unwrap_or(500));
                answer(out, 200, "at last\n");
            }
            "/env" => answer(out, 200, &std::env::var(query).unwrap_or_default()),
            "/file" => match std::fs::read_to_string("/data/greeting") {
                Ok(text) => answer(out, 200, &text),
                Err(error) => answer(out, 404, &error.to_string()),
            },
            "/fetch" => match fetch(query) {
                Ok(text) => answer(out, 200, &text),
                Err(error) => answer(out, 502, &error),
            },
            "/early" => {
                let _unfinished = begin(out, b"part");
                wait(300);
                panic!("this answer fails as asked");
            }
            "/hold" => {
                let unfinished = begin(out, b"part");
                wait(300);
                HELD.with_borrow_mut(|held| held.push(unfinished));
            }
            "/endless" => {
                let body = begin(out, b"");
                let stream = body.write().expect("nobody has");
                while stream.blocking_write_and_flush(&[b'x'; 4096]).is_ok() {}
            }
            "/none" => {}
            "/trap" => panic!("this request fails as asked"),
            "/spin" => loop {
                std::hint::black_box(());
            },
            "/grow" => {
                let mut held = Vec::new();
                loop {
                    held.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&held);
                }
            }
            _ => answer(out, 404, "there is nothing here\n"),
        }
    }
}

fn wait(milliseconds: u64) {
    subscribe_duration(milliseconds * MILLISECOND).block();
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("it is a status");
    let body = response.body().expect("it is new");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("it is new");
    for piece in text.as_bytes().chunks(4096) {
        // Whoever asked may have gone.
        if stream.blocking_write_and_flush(piece).is_err() {
            return;
        }
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// An answer that begins with this. Of an empty piece nothing is written, and the stream is still to be had.
fn begin(out: ResponseOutparam, piece: &[u8]) -> OutgoingBody {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("it is new");
    ResponseOutparam::set(out, Ok(response));
    if !piece.is_empty() {
        let stream = body.write().expect("it is new");
        let _ = stream.blocking_write_and_flush(piece);
    }
    body
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let to = response.body().expect("it is new");
    ResponseOutparam::set(out, Ok(response));
    let from = request.consume().expect("nobody has");
    let (source, sink) = (
        from.stream().expect("nobody has"),
        to.write().expect("it is new"),
    );
    loop {
        match sink.blocking_splice(&source, 1 << 16) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(_)) => return,
        }
    }
    drop((source, sink));
    let _ = OutgoingBody::finish(to, None);
}

fn stream(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("it is new");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("it is new");
    for number in 0..5 {
        if stream
            .blocking_write_and_flush(format!("line {number}\n").as_bytes())
            .is_err()
        {
            return;
        }
        wait(100);
    }
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn fetch(authority: &str) -> Result<String, String> {
    let request = OutgoingRequest::new(Fields::new());
    request
        .set_scheme(Some(&Scheme::Http))
        .map_err(|()| "no scheme")?;
    request
        .set_authority(Some(authority))
        .map_err(|()| "no authority")?;
    request
        .set_path_with_query(Some("/"))
        .map_err(|()| "no path")?;
    let coming = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    coming.subscribe().block();
    let response = coming
        .get()
        .ok_or("it is not there")?
        .map_err(|()| "it was taken already")?
        .map_err(|error| format!("{error:?}"))?;
    let body = response.consume().map_err(|()| "it has no body")?;
    let stream = body.stream().map_err(|()| "it has no stream")?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(1 << 16) {
            Ok(some) => bytes.extend(some),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    Ok(format!(
        "{} {}",
        response.status(),
        String::from_utf8_lossy(&bytes)
    ))
}
