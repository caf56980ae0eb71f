"""One run of the federation: releases go down to nodes that lack them, then every cell is asked for and recorded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from flwr.app import MessageType
from flwr.serverapp import Grid

from emgup_model.config import canonical_json
from emgup_model.release import ReleaseFiles
from emgup_model.wire import DELIVER, OFFER, Deliver, Offer, Personalize, Reply, Status
from emgup_server.exchange import Ask, Failure, Limits, exchange, wait_for_nodes
from emgup_server.ledger import Cell, Ledger

log = logging.getLogger(__name__)

Pair = tuple[str, int]
"""(release id, node)"""


@dataclass(frozen=True)
class Tally:
    """How a run ended: complete cells, and the others by status."""

    complete: int
    failed: Mapping[str, int]


def dispatch(
    grid: Grid, cells: Sequence[Cell], releases: Mapping[str, Path], ledger: Ledger, limits: Limits, nodes: int = 1
) -> Tally:
    """Have every cell computed by a node and recorded in the ledger as it arrives.

    Args:
        grid: connection to the nodes; at least ``nodes`` of them are waited for.
        cells: what to compute. Users are dealt to nodes; a user's cells go to one node.
        releases: folder of each release the cells name.
        ledger: where results and failures go.
        limits: patience.
        nodes: how many nodes to expect at least.

    Raises:
        WorkersLostError: every worker died; what was answered until then is recorded.
    """
    online = wait_for_nodes(grid, nodes, limits)
    node_of = deal([c.user for c in cells], online)
    log.info("%d cells of %d users on %d nodes", len(cells), len(node_of), len(online))
    pairs = list(dict.fromkeys((c.release_id, node_of[c.user]) for c in cells))
    refused = supply(grid, pairs, releases, limits)
    tally: Counter[str] = Counter()
    ready = []
    for cell in cells:
        if why := refused.get((cell.release_id, node_of[cell.user])):
            lost = isinstance(why, Failure) and why.transient
            tally[ledger.record_failure(cell, f"no release: {refusal_text(why)}", lost=lost).row.status] += 1
        else:
            ready.append(cell)
    complete = 0
    asks = _personalize(in_turn(ready, ledger, node_of), node_of)
    for done, (ask, outcome) in enumerate(exchange(grid, asks, limits), start=1):
        cell = ask.about
        if isinstance(outcome, Reply):
            entry = ledger.record(cell, outcome)
        else:
            entry = ledger.record_failure(cell, str(outcome), lost=outcome.transient)
        complete += entry.complete
        if not entry.complete:
            tally[entry.row.status] += 1
            log.warning(
                "user %s, %s, %s, %s: %s", cell.user, cell.method, cell.protocol, cell.scenario, entry.row.status
            )
        if done * 20 // len(ready) > (done - 1) * 20 // len(ready):
            log.info("%d of %d cells", done, len(ready))
    return Tally(complete, dict(tally))


def deal(users: Iterable[str], nodes: Sequence[int]) -> dict[str, int]:
    """Users to nodes, round-robin in order of first appearance."""
    return {user: nodes[i % len(nodes)] for i, user in enumerate(dict.fromkeys(users))}


def in_turn(cells: Sequence[Cell], ledger: Ledger, node_of: Mapping[str, int]) -> list[Cell]:
    """Cells one node after the other, so that all are busy; those that failed before come last.

    A user whose data kills its worker would otherwise keep the same others from ever being reached.
    """
    order: list[Cell] = []
    tried = {c.key for c in cells if ledger.read(c.key) is not None}
    for part in ([c for c in cells if c.key not in tried], [c for c in cells if c.key in tried]):
        queues: dict[int, list[Cell]] = {}
        for cell in part:
            queues.setdefault(node_of[cell.user], []).append(cell)
        order += [c for turn in zip_longest(*queues.values()) for c in turn if c is not None]
    return order


def supply(
    grid: Grid, pairs: Sequence[Pair], releases: Mapping[str, Path], limits: Limits
) -> dict[Pair, Reply | Failure]:
    """Offer each release to each node that will need it, and send it where it is lacking; returns pairs that failed."""
    refused: dict[Pair, Reply | Failure] = {}
    lacking: list[Pair] = []
    offers = (Ask(node, f"{MessageType.QUERY}.{OFFER}", Offer(release_id=r), (r, node)) for r, node in pairs)
    for ask, outcome in exchange(grid, offers, limits):
        if outcome == Reply(status=Status.NEEDS_RELEASE):
            lacking.append(ask.about)
        elif outcome != Reply(status=Status.HAVE_RELEASE):
            refused[ask.about] = outcome
    log.info("%d of %d releases have to be sent", len(lacking), len(pairs))
    for ask, outcome in exchange(grid, _deliveries(lacking, releases), limits):
        if outcome != Reply(status=Status.HAVE_RELEASE):
            refused[ask.about] = outcome
    return refused


def refusal_text(outcome: Reply | Failure) -> str:
    """Why a client could not be given a release."""
    return outcome.status.name.lower() if isinstance(outcome, Reply) else str(outcome)


def _deliveries(pairs: Sequence[Pair], releases: Mapping[str, Path]) -> Iterator[Ask[Pair]]:
    for release_id, node in pairs:
        files = ReleaseFiles.read(releases[release_id])
        request = Deliver(manifest=files.manifest, signature=files.signature, weights=files.weights)
        yield Ask(node, f"{MessageType.QUERY}.{DELIVER}", request, (release_id, node))


def _personalize(cells: Sequence[Cell], node_of: Mapping[str, int]) -> Iterator[Ask[Cell]]:
    for cell in cells:
        request = Personalize(
            release_id=cell.release_id,
            method=canonical_json(cell.config).decode(),
            method_name=cell.method,
            protocol=cell.protocol,
            scenario=cell.scenario,
            streaming=canonical_json(cell.streaming).decode() if cell.streaming else None,
            seed=cell.seed,
            cell=cell.key,
            user=cell.user,
        )
        yield Ask(node_of[cell.user], MessageType.TRAIN, request, cell)
