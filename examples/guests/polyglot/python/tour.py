"""What a task may ask of its cluster, in Python: says who it is, counts its visits in the store of its job, logs, reports, and
sends back what its scheduler says until that is "bye". The same in C is sdk-guest/c/tour.c."""

import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import log, messages, report, store, task
from wit_world.imports.tepui_guest_types import Code

VISITS = "visits/python"
WAIT_MS = 60_000


def who() -> None:
    details = task.current()
    print(f"task {details.id}, attempt {details.attempt}")
    for key, value in details.labels:
        print(f"label {key} = {value}")


def count() -> int:
    """One more, whoever else counts at the same time."""
    while True:
        entry = store.get(VISITS)
        visits = int(entry.value) + 1 if entry else 1
        try:
            # A version of 0 asks for a key that does not exist.
            store.put(VISITS, str(visits).encode(), entry.version if entry else 0)
            return visits
        except Err as error:
            if error.value.code != Code.CONFLICT:
                raise


def echo() -> None:
    messages.send(b"ready")
    while (message := messages.receive(WAIT_MS)) is not None:
        messages.send(b"echo " + message)
        if message == b"bye":
            return


class Run(exports.Run):
    def run(self) -> None:
        try:
            who()
            log.write(log.Level.INFO, "the tour begins", [("language", "python")])
            report.progress(None, "counting")
            print(f"visit {count()}", flush=True)
            report.health(True, "it can count")
            report.progress(0.5, "listening")
            echo()
            report.progress(1.0, "done")
        except Err as error:
            print(f"tour: {error.value.code.name}: {error.value.message}", file=sys.stderr, flush=True)
            sys.exit(1)
