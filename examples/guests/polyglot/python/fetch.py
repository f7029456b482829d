"""Data by HTTP. Python's own sockets do not reach out of a component; wasi:http does."""

from urllib.parse import urlsplit

from componentize_py_types import Err, Ok
from wit_world.imports import outgoing_handler
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.wasi_http_types import Fields, OutgoingRequest, Scheme_Http

PIECE = 1 << 16


class Unreadable(Exception):
    """Data that is not there."""


def get(url: str) -> bytes:
    """The body of what a URL names; anything but 200 is an error."""
    parts = urlsplit(url)
    request = OutgoingRequest(Fields())
    try:
        request.set_scheme(Scheme_Http())
        request.set_authority(parts.netloc)
        request.set_path_with_query((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        coming = outgoing_handler.handle(request, None)
    except Err as error:
        raise Unreadable(f"{url}: {error.value}") from error
    coming.subscribe().block()
    answer = coming.get()
    # Two results in one: whether it was taken before, and whether there is an answer.
    if not isinstance(answer, Ok) or not isinstance(answer.value, Ok):
        raise Unreadable(f"{url}: {answer}")
    response = answer.value.value
    if response.status() != 200:
        raise Unreadable(f"{url}: the server answered {response.status()}")
    content = bytearray()
    with response.consume() as body, body.stream() as stream:
        while True:
            try:
                content += stream.blocking_read(PIECE)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return bytes(content)
                raise Unreadable(f"{url}: {error.value}") from error
