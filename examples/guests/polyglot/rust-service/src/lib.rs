//! The census as an HTTP service: `GET /census?limit=N` counts the data in `CENSUS_DATA` (`/data`).

use std::path::Path;

use census::{Census, parse_limit, top_wanted};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wasip2::http::proxy::export!(Service);

struct Service;

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (status, text) = answer(&path);
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
}

fn answer(path: &str) -> (u16, String) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if path != "/census" {
        return (404, "there is only /census?limit=N\n".to_owned());
    }
    let limit = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("limit="));
    let (Some(limit), Some(top)) = (limit.and_then(parse_limit), top_wanted()) else {
        return (400, "limit must be 2 to 5000000\n".to_owned());
    };
    let data = std::env::var("CENSUS_DATA").unwrap_or_else(|_| "/data".to_owned());
    match Census::of(Path::new(&data)) {
        Ok(census) => (200, census.report(top, limit).to_string()),
        Err(error) => (500, format!("{data}: {error}\n")),
    }
}
