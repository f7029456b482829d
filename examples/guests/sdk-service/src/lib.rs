//! An HTTP service that asks its cluster: `/who` tells its task, `/visit` counts in the store of its job, `/find?NAME` says
//! where others answer, `/next` waits for a message of its scheduler, `/say?TEXT` sends one, `/sick?WHY` and `/well` report
//! health.

use std::fmt::Write as _;
use std::time::Duration;

use tepui_sdk_guest::{Error, Task, messages, report, services, store};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wasip2::http::proxy::export!(Service);

struct Service;

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let (status, text) = match visit(path, query) {
            Ok(Some(text)) => (200, text),
            Ok(None) => (404, "there is nothing here\n".to_owned()),
            Err(error) => (503, format!("{:?}: {error}\n", error.code)),
        };
        answer(out, status, &text);
    }
}

fn visit(path: &str, query: &str) -> Result<Option<String>, Error> {
    Ok(Some(match path {
        "/who" => {
            let task = Task::details()?;
            format!("{} {}", task.id, task.attempt)
        }
        "/visit" => {
            let number = |value: &[u8]| String::from_utf8_lossy(value).parse().unwrap_or(0_u64);
            let entry = store::update("visits", |visits| {
                (visits.map_or(0, number) + 1).to_string().into_bytes()
            })?;
            String::from_utf8_lossy(&entry.value).into_owned()
        }
        "/find" => {
            let mut text = String::new();
            for endpoint in services::find(query)? {
                let _ = writeln!(text, "{}:{} {:?}", endpoint.host, endpoint.port, endpoint.healthy);
            }
            text
        }
        "/next" => match messages::receive(Duration::from_secs(30))? {
            Some(message) => String::from_utf8_lossy(&message).into_owned(),
            None => "nothing".to_owned(),
        },
        "/say" => {
            messages::send(query.as_bytes())?;
            "said".to_owned()
        }
        "/sick" => {
            report::health(false, query)?;
            "sick".to_owned()
        }
        "/well" => {
            report::health(true, "well again")?;
            "well".to_owned()
        }
        _ => return Ok(None),
    }))
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
