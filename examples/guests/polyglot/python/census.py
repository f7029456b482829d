"""The census itself: what is counted and how it is written down, whoever asks for it."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# Whatever is imported, is when the component is made: its files are not there when it runs.
from fetch import get

# The squares of all primes below this add up to less than 2^64, which other languages need.
LIMIT_MAX = 5_000_000
TOP_MAX = 100
TOP = 5

WORD = re.compile(rb"[A-Za-z]+")


@dataclass
class Census:
    files: int = 0
    bytes: int = 0
    lines: int = 0
    words: Counter[bytes] = field(default_factory=Counter)

    @classmethod
    def of(cls, data: str) -> Census:
        """Of a URL, of a file, or of the files directly in a directory."""
        census = cls()
        path = Path(data)
        if data.startswith("http://"):
            census.add(get(data))
        elif path.is_dir():
            for entry in path.iterdir():
                if entry.is_file():
                    census.add(entry.read_bytes())
        else:
            census.add(path.read_bytes())
        return census

    def add(self, content: bytes) -> None:
        """Counts one more file. A word is a run of ASCII letters, whatever their case."""
        self.files += 1
        self.bytes += len(content)
        self.lines += content.count(b"\n")
        self.words.update(WORD.findall(content.lower()))

    def report(self, top: int, limit: int) -> str:
        frequent = sorted(self.words.items(), key=lambda item: (-item[1], item[0]))
        primes = primes_below(limit)
        lines = [
            f"files {self.files}",
            f"bytes {self.bytes}",
            f"lines {self.lines}",
            f"words {self.words.total()}",
            f"distinct {len(self.words)}",
            *(f"top {word.decode()} {count}" for word, count in frequent[:top]),
            f"primes {len(primes)}",
            f"squares {sum(prime * prime for prime in primes)}",
        ]
        return "\n".join(lines) + "\n"


def primes_below(limit: int) -> list[int]:
    prime = bytearray([1]) * limit
    prime[:2] = bytes(2)
    for number in range(2, int(limit**0.5) + 1):
        if prime[number]:
            multiples = range(number * number, limit, number)
            prime[number * number :: number] = bytes(len(multiples))
    return [number for number in range(limit) if prime[number]]


def number(text: str, least: int, most: int) -> int | None:
    """A whole number between two bounds."""
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text)
    return value if least <= value <= most else None


def top_wanted() -> int | None:
    """How many words to tell, out of the environment."""
    return number(os.environ.get("CENSUS_TOP", str(TOP)), 0, TOP_MAX)
