//! Data by HTTP, which only a component can ask for.

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

/// The body of what `http://` and this name; anything but 200 is an error.
pub fn get(rest: &str) -> Result<Vec<u8>, String> {
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let request = OutgoingRequest::new(Fields::new());
    request
        .set_scheme(Some(&Scheme::Http))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| "it is no URL")?;
    let coming = handle(request, None).map_err(|error| error.to_string())?;
    coming.subscribe().block();
    let response = coming
        .get()
        .ok_or("there is no answer")?
        .map_err(|()| "the answer was taken already")?
        .map_err(|error| error.to_string())?;
    if response.status() != 200 {
        return Err(format!("the server answered {}", response.status()));
    }
    let body = response.consume().map_err(|()| "it has no body")?;
    let stream = body.stream().map_err(|()| "its body has no stream")?;
    let mut content = Vec::new();
    loop {
        match stream.blocking_read(1 << 16) {
            Ok(piece) => content.extend(piece),
            Err(StreamError::Closed) => return Ok(content),
            Err(error) => return Err(error.to_string()),
        }
    }
}
