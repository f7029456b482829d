"""The census as an HTTP service: GET /census?limit=N counts the data in CENSUS_DATA (/data)."""

import os
from urllib.parse import parse_qs, urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.wasi_http_types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

from census import LIMIT_MAX, Census, number, top_wanted
from fetch import Unreadable

# What a stream takes in one blocking write.
PIECE = 4096


def answer(path: str) -> tuple[int, str]:
    url = urlsplit(path)
    if url.path != "/census":
        return 404, "there is only /census?limit=N\n"
    limit = number(parse_qs(url.query).get("limit", [""])[0], 2, LIMIT_MAX)
    top = top_wanted()
    if limit is None or top is None:
        return 400, f"limit must be 2 to {LIMIT_MAX}\n"
    try:
        census = Census.of(os.environ.get("CENSUS_DATA", "/data"))
    except (OSError, Unreadable) as error:
        return 500, f"{error}\n"
    return 200, census.report(top, limit)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        status, text = answer(request.path_with_query() or "/")
        response = OutgoingResponse(Fields())
        response.set_status_code(status)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        content = text.encode()
        try:
            with body.write() as stream:
                for at in range(0, len(content), PIECE):
                    stream.blocking_write_and_flush(content[at : at + PIECE])
        except Err:
            # Whoever asked has gone.
            return
        OutgoingBody.finish(body, None)
