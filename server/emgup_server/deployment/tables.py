"""What `emgup server run` prints: every client's answer, and the cohort's mean and median, users weighing the same."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, median

from rich.console import Console
from rich.table import Table

from emgup_model.report_wire import CATALOGUE, value_of
from emgup_server.deployment.answers import Answer
from emgup_server.deployment.run import Outcome


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print both tables; the second only where somebody reported."""
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


def cohort(answers: Iterable[Answer]) -> list[tuple[str, str, list[float]]]:
    """(method, scalar, the clients' values), in the order of methods and of the catalogue."""
    values: dict[tuple[str, str], list[float]] = {}
    for answer in answers:
        for name, level in (answer.report or {}).items():
            values.setdefault((answer.method, name), []).append(value_of(name, level))
    order = list(CATALOGUE)
    return [(m, s, v) for (m, s), v in sorted(values.items(), key=lambda i: (i[0][0], order.index(i[0][1])))]
