"""Mutation testing: `make mutants`, or `python -m tests.mutants --sample 200`. See docs/testing.md."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.mutants.plan import PACKAGES, Mutant, mutants_of, sample
from tests.mutants.report import KILLED, TIMEOUT, UNTRIED, forget, listing, statuses, survivors, table
from tests.mutants.workspace import refresh

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = REPOSITORY / ".mutants"
EVERY_S = 15.0


def main() -> int:
    """0 where every chosen mutant was tried, whatever became of it; 1 where mutmut ended before that."""
    chosen = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # mutmut is ended too
    mutants = [mutant for package in chosen.package for mutant in _prepare(package, chosen.without)]
    picked = sample(mutants, chosen.sample, chosen.seed)
    if chosen.again:
        forget(ROOT, survivors(picked, statuses(ROOT, picked)))
    for package in chosen.package:
        found = statuses(ROOT, picked)
        waiting = [m for m in picked if m.package == package and found[m.name] in UNTRIED]
        own = sum(m.package == package for m in picked)
        print(f"{package}: {own} mutants, {len(waiting)} to try", flush=True)
        if waiting:
            _try(ROOT / package, waiting, chosen.processes)
    found = statuses(ROOT, picked)
    report = "\n".join(
        [
            listing(ROOT, picked, found),
            "",
            table(picked, found, Counter(m.package for m in mutants)),
            f"seed {chosen.seed}",
        ]
    )
    (ROOT / "report.txt").write_text(report + "\n")
    print(report)
    left = sum(found[m.name] in UNTRIED for m in picked)
    if left:
        print(f"{left} mutants were not tried; mutmut.log in a folder of {ROOT} says why. The next run goes on.")
    return 1 if left else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="How many mutants do the tests catch?")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn in proportion from every package; else all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--package", action="append", choices=[*PACKAGES], help="only this one; may be repeated")
    parser.add_argument("--again", action="store_true", help="try survivors again, after tests were added")
    parser.add_argument("--without", action="append", default=[], help="test file to leave out: all others must pass")
    chosen = parser.parse_args()
    chosen.package = chosen.package or [*PACKAGES]
    return chosen


def _prepare(package: str, without: list[str]) -> list[Mutant]:
    """Bring the package's workspace up to date; its mutants that count."""
    workspace = ROOT / package
    refresh(REPOSITORY, workspace, package, without)
    paths = [path for pattern in PACKAGES[package] for path in sorted(workspace.glob(pattern))]
    return [m for path in paths for m in mutants_of(path.relative_to(workspace), path.read_text(), package)]


def _try(workspace: Path, mutants: list[Mutant], processes: int) -> None:
    """Run mutmut on these, with a line of progress now and then."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *(m.name for m in mutants)]
    started = time.monotonic()
    with (workspace / "mutmut.log").open("w") as log:
        run = subprocess.Popen(command, cwd=workspace, stdout=log, stderr=log, env=os.environ | {"COLUMNS": "100"})
        try:
            first = None
            while run.poll() is None:
                done = {name: word for name, word in statuses(ROOT, mutants).items() if word not in UNTRIED}
                if done and first is None:
                    first = time.monotonic()
                print(_progress(done, len(mutants), started, first), flush=True)
                try:
                    run.wait(EVERY_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if run.poll() is None:
                run.terminate()
                run.wait()


def _progress(done: dict[str, str], of: int, started: float, first: float | None) -> str:
    now = time.monotonic()
    if first is None:
        return f"  {now - started:5.0f} s: finding out which test calls which function"
    caught = sum(word in KILLED | TIMEOUT for word in done.values())
    left = (now - first) / max(len(done), 1) * (of - len(done)) / 60
    return (
        f"  {now - started:5.0f} s: {len(done)} of {of}, {caught} caught, {len(done) - caught} survived, "
        f"about {left:.0f} min left"
    )


if __name__ == "__main__":
    sys.exit(main())
