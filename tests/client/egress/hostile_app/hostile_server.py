"""Asks for one attack after the other and writes down whatever comes back."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

app = ServerApp()


def _ask(grid: Grid, node: int, attack: str, cell: str) -> dict[str, object]:
    request = {
        "release_id": "a" * 64,
        "method": "{}",
        "method_name": attack,
        "protocol": "transductive",
        "scenario": "balanced",
        "seed": 0,
        "cell": cell,
    }
    kind = "train"
    if attack == "unknown_kind":
        kind = "query.weights"
    content = RecordDict({"request": ConfigRecord(request)})
    replies = list(grid.send_and_receive([Message(content, dst_node_id=node, message_type=kind)], timeout=60))
    if not replies:
        return {"attack": attack, "silence": True}
    reply = replies[0]
    objects = {k: v.deflate().hex() for k, v in get_all_nested_objects(reply).items()}
    error = [reply.error.code, reply.error.reason] if reply.has_error() else None
    content_bytes = 0 if error else sum(len(v.deflate()) for v in reply.content.values())
    values = None if error else {k: dict(v) for k, v in reply.content.items()}
    return {
        "attack": attack,
        "error": error,
        "objects": objects,
        "content_bytes": content_bytes,
        "values": values,
        "src": reply.metadata.src_node_id,
        "ttl": reply.metadata.ttl,
        "created_at": reply.metadata.created_at,
    }


@app.main()
def main(grid: Grid, context: Context) -> None:
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.5)
    out = Path(str(context.run_config["out"]))
    found = []
    for number, attack in enumerate(str(context.run_config["attacks"]).split()):
        name, _, cell = attack.partition(":")
        found.append(_ask(grid, nodes[0], name, (cell or f"{number:x}").rjust(64, "0")))
        out.write_text(json.dumps(found))
