"""``python -m chaos MINUTES``: see ``scripts/chaos``."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from chaos.play import Outcome, Play

SHOWN = 40


def summary(outcome: Outcome, build: str) -> str:
    """What to keep of a run."""
    lines = [
        f"{outcome.seconds / 60:g} minutes of troubles, seed {outcome.seed}, {build} build",
        "",
        *(
            f"{name}: {json.dumps(value) if isinstance(value, dict) else value}"
            for name, value in outcome.figures.items()
        ),
        "",
        f"discrepancies: {len(outcome.discrepancies)}",
        *(f"  {one}" for one in outcome.discrepancies[:SHOWN]),
        f"faults: {len(outcome.faults)}",
        *(f"  {one}" for one in outcome.faults[:SHOWN]),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run it; 0: books and log agree and nothing else was wrong."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="Load, troubles, and books held against the log."
    )
    parser.add_argument("minutes", type=float, help="how long things go wrong")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, for the same troubles again")
    parser.add_argument("--bin", type=Path, default=Path(sys.executable).parent, help="where rhttp-pki is")
    parser.add_argument("--build", default="interpreted", help="its name in the summary")
    parser.add_argument("--summary", type=Path, default=None, help="write what came of it to this file, too")
    parser.add_argument("--keep", type=Path, default=None, help="keep everything in this folder, which must not exist")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 31)
    if arguments.keep is not None:
        arguments.keep.mkdir(mode=0o700, parents=True)
    place = arguments.keep or Path(tempfile.mkdtemp(prefix="rhttp-chaos-", dir="/tmp"))
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    try:
        play = Play(place, arguments.bin, seed, lambda line: print(line, flush=True))
        outcome = play.run(arguments.minutes * 60)
    finally:
        if arguments.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    text = summary(outcome, arguments.build)
    print(f"\n{text}took {time.monotonic() - began:.0f} s")
    if arguments.summary is not None:
        arguments.summary.write_text(text)
    print("chaos: ok" if outcome.is_good else "chaos: FAILED", flush=True)
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
