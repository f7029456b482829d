"""census DATA LIMIT, as a job: see the README of this directory's parent for what is counted."""

import os
import sys

from wit_world import exports
from wit_world.imports import exit as process

from census import LIMIT_MAX, TOP_MAX, Census, number, top_wanted
from fetch import Unreadable

USAGE = 2


def main(arguments: list[str]) -> int:
    limit = number(arguments[1], 2, LIMIT_MAX) if len(arguments) == 2 else None
    top = top_wanted()
    if limit is None or top is None:
        usage = f"usage: census DATA LIMIT (2 to {LIMIT_MAX}; CENSUS_TOP: 0 to {TOP_MAX})"
        print(usage, file=sys.stderr)
        return USAGE
    try:
        report = Census.of(arguments[0]).report(top, limit)
        with open(os.environ.get("CENSUS_OUT", "census.txt"), "w") as out:
            out.write(report)
    except (OSError, Unreadable) as error:
        print(f"census: {error}", file=sys.stderr)
        return 1
    print(report, end="", flush=True)
    return 0


class Run(exports.Run):
    def run(self) -> None:
        code = main(sys.argv[1:])
        if code != 0:
            # By sys.exit every code but 0 would arrive as 1.
            sys.stderr.flush()
            process.exit_with_code(code)
