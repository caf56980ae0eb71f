"""From mutmut's exit codes to a table: killed, survived, timed out, and the rate with its exact interval."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mutmut.stats import status_by_exit_code
from scipy.stats import binomtest

from tests.mutants.plan import Mutant, diff_of

KILLED, TIMEOUT = frozenset({"killed", "segfault"}), frozenset({"timeout"})
UNTRIED = frozenset({"not checked", "check was interrupted by user"})
"""All others survived: those that no test calls, and those that ended in a way mutmut does not know, too."""


def statuses(root: Path, mutants: Iterable[Mutant]) -> dict[str, str]:
    """mutmut's word for what became of each mutant, by name; ``root`` holds a workspace of each package."""
    mutants = list(mutants)
    codes: dict[str, int | None] = {}
    for meta in {meta_of(root, m) for m in mutants}:
        try:
            codes |= json.loads(meta.read_text())["exit_code_by_key"]
        except (FileNotFoundError, json.JSONDecodeError):  # not made yet, or being written
            continue
    return {m.name: status_by_exit_code[codes.get(m.name)] for m in mutants}


def meta_of(root: Path, mutant: Mutant) -> Path:
    """Where mutmut keeps the results of the mutant's file."""
    return root / mutant.package / "mutants" / f"{mutant.path}.meta"


def forget(root: Path, mutants: Iterable[Mutant]) -> None:
    """Make these untried again."""
    names: dict[Path, set[str]] = {}
    for mutant in mutants:
        names.setdefault(meta_of(root, mutant), set()).add(mutant.name)
    for meta, own in names.items():
        data = json.loads(meta.read_text())
        data["exit_code_by_key"] |= dict.fromkeys(own)
        meta.write_text(json.dumps(data, indent=4))


def interval(hits: int, of: int) -> tuple[float, float]:
    """Exact (Clopper-Pearson) 95 % interval of a share."""
    ends = binomtest(hits, of).proportion_ci(0.95, "exact")
    return float(ends.low), float(ends.high)


def table(mutants: Sequence[Mutant], found: Mapping[str, str], everything: Mapping[str, int]) -> str:
    """One line a package and one for all; ``everything``: how many mutants that count each package has."""
    lines = [f"{'package':16} {'mutants':>7} {'tried':>6} {'killed':>7} {'timeout':>8} {'survived':>9}   caught, 95 %"]
    rows = {package: [m for m in mutants if m.package == package] for package in everything}
    for name, own in (*rows.items(), ("all", list(mutants))):
        tally = Counter(found[m.name] for m in own if found[m.name] not in UNTRIED)
        tried = tally.total()
        killed, timeout = (sum(tally[word] for word in words) for words in (KILLED, TIMEOUT))
        of = sum(everything.values()) if name == "all" else everything[name]
        line = f"{name:16} {of:7} {tried:6} {killed:7} {timeout:8} {tried - killed - timeout:9}   "
        if tried:
            low, high = interval(killed + timeout, tried)
            line += f"{(killed + timeout) / tried:.1%}" + ("" if tried == of else f" [{low:.1%}, {high:.1%}]")
        lines.append(line)
    return "\n".join(lines)


def survivors(mutants: Sequence[Mutant], found: Mapping[str, str]) -> list[Mutant]:
    """Those that were tried and not caught."""
    return [m for m in mutants if found[m.name] not in KILLED | TIMEOUT | UNTRIED]


def listing(root: Path, mutants: Sequence[Mutant], found: Mapping[str, str]) -> str:
    """File, line, name and diff of every survivor."""
    out = []
    for m in sorted(survivors(mutants, found), key=lambda m: (str(m.path), m.line)):
        diff = diff_of(m, (root / m.package / m.path).read_text())
        out.append(f"{m.path}:{m.line}  {found[m.name]}  {m.name}\n{diff}")
    return "\n\n".join(out)
