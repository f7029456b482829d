"""What the client scripts share: their surroundings, and a place where a client's callbacks leave what they heard."""
import os
import sys
import threading
import time

MASTER = os.environ["TEPUI_TEST_MASTER"]
AGENT = os.environ["TEPUI_TEST_AGENT"]
WASM_URL = os.environ["TEPUI_TEST_WASM"]
PATIENCE = 60


class Heard:
    """Callbacks of any thread add to it, the script waits on it."""

    def __init__(self):
        self._changed = threading.Condition()
        self._all = []

    def add(self, kind, *what):
        with self._changed:
            self._all.append((kind, *what))
            self._changed.notify_all()

    @staticmethod
    def pause():
        time.sleep(0.05)

    def wait(self, what, kind, fits=lambda *_: True):
        """Takes the first of the kind that fits; ends the script when none comes."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                for entry in self._all:
                    if entry[0] == kind and fits(*entry[1:]):
                        self._all.remove(entry)
                        return entry[1:]
                left = deadline - time.monotonic()
                if left <= 0:
                    fail("waited in vain for %s; heard: %s" % (what, self._all))
                self._changed.wait(left)


def step(words):
    print(words, flush=True)


def fail(words):
    print("FAILED: " + words, file=sys.stderr, flush=True)
    os._exit(1)


def check(holds, words):
    if not holds:
        fail(words)


def ask_the_test(words):
    """Asks the test for something only it can do (it reads our lines) and waits until it says that it did it."""
    step("PLEASE " + words)
    check(sys.stdin.readline().strip() == "done", "the test did not " + words)


def command_task(task_id, agent_id, value, uris=(), cpus=0.1, mem=32):
    return {
        "name": task_id,
        "task_id": {"value": task_id},
        "agent_id": {"value": agent_id},
        "command": {"value": value, "uris": list(uris)},
        "resources": resources(cpus, mem),
    }


def resources(cpus, mem):
    return [
        {"name": "cpus", "type": "SCALAR", "scalar": {"value": cpus}},
        {"name": "mem", "type": "SCALAR", "scalar": {"value": mem}},
    ]
