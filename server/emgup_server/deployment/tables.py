"""What `emgup server run` prints: every client's answer; the cohort's mean and median, or its secure sums."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, median

from rich.console import Console
from rich.table import Table

from emgup_model.report_wire import CATALOGUE, value_of
from emgup_server.deployment.answers import Answer
from emgup_server.deployment.run import Outcome
from emgup_server.deployment.sums import Sum


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the clients, and what they reported or what was summed."""
    clients = Table("client", "method", "status", box=None, pad_edge=False)
    for answer in outcome.answers:
        clients.add_row(answer.label, answer.method, answer.status)
    for node in outcome.absent:
        clients.add_row(node.label, "", f"no answer ({node.status})")
    console.print(clients)
    rows = cohort(outcome.answers)
    if rows:
        table = Table("method", "scalar", "clients", "mean", "median", box=None, pad_edge=False)
        for method, scalar, values in rows:
            table.add_row(method, scalar, str(len(values)), f"{fmean(values):.3f}", f"{median(values):.3f}")
        console.print()
        console.print(table)
    if outcome.sums:
        _print_sums(outcome.sums, console)


def _print_sums(sums: Iterable[Sum], console: Console) -> None:
    table = Table("method", "scalar", "clients", "floor", "sum of levels", "mean", box=None, pad_edge=False)
    for made in sums:
        for name in (scalar for scalar in CATALOGUE if scalar in made.levels):
            total = made.levels[name]
            mean = value_of(name, total / len(made.members))
            table.add_row(made.method, name, str(len(made.members)), str(made.floor), str(total), f"{mean:.3f}")
    console.print()
    if table.row_count:
        console.print(table)
    for made in sums:
        if made.why:
            what = "not all are in the secure sum" if made.complete else "no secure sum"
            console.print(f"{what} of {made.method}: {made.why}", highlight=False, markup=False, soft_wrap=True)
        for label, text in made.remarks.items():
            where = "in the sum" if label in made.members else "not in the sum"
            console.print(f"{made.method}, {label}: {where}; {text}", highlight=False, markup=False, soft_wrap=True)


def cohort(answers: Iterable[Answer]) -> list[tuple[str, str, list[float]]]:
    """(method, scalar, the clients' values), in the order of methods and of the catalogue."""
    values: dict[tuple[str, str], list[float]] = {}
    for answer in answers:
        for name, level in (answer.report or {}).items():
            values.setdefault((answer.method, name), []).append(value_of(name, level))
    order = list(CATALOGUE)
    return [(m, s, v) for (m, s), v in sorted(values.items(), key=lambda i: (i[0][0], order.index(i[0][1])))]
