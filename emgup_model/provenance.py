"""Which code and which libraries determine a result: hashes of source code for keys, and who made what, for records.

A key that held a version number would hand out the results of a method's old code under the new code's name. So keys
hold a hash of the code itself (decision 0051): of all of ``emgup_model`` for results, and of what source training
imports for releases, which take longest to make. It is taken over syntax trees without docstrings: wording, comments
and layout change nothing. Python's minor version is in it, since another one may make another tree of the same text.
"""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import scipy
import torch
from pydantic import Field

from emgup_model.config import Frozen

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = ("emgup_model", "client", "server", "simulation", "configs")
"""Folders of a source checkout in which a file that git does not know makes the tree uncommitted."""


class Origin(Frozen):
    """What made a result: commit of the source checkout (None for an installed wheel), code and libraries."""

    commit: str | None
    uncommitted: bool = Field(False, description="the checkout had changes that the commit does not hold")
    code: str = Field(pattern="^[0-9a-f]{64}$")
    torch: str
    numpy: str


def result_identity() -> dict[str, str]:
    """What a key of results or adaptations holds about code and libraries."""
    return {"code": code_hash(), **_libraries()}


def training_identity() -> dict[str, str]:
    """The same for trained source weights: only what source training imports counts."""
    return {"code": training_hash(), **_libraries()}


@cache
def code_hash() -> str:
    """SHA-256 (hex) of the code of all of ``emgup_model``. Read once per process, as the process imported it."""
    return _hash(PACKAGE.rglob("*.py"))


@cache
def training_hash() -> str:
    """SHA-256 (hex) of the code of ``emgup_model.pretrain`` and of every module it imports, directly or not."""
    return _hash(_imported("pretrain"))


@cache
def origin() -> Origin:
    """What makes results in this process."""
    commit, uncommitted = _commit(PACKAGE.parent)
    versions = {"torch": torch.__version__, "numpy": numpy.__version__}
    return Origin(commit=commit, uncommitted=uncommitted, code=code_hash(), **versions)


def _libraries() -> dict[str, str]:
    return {"torch": torch.__version__, "numpy": numpy.__version__, "scipy": scipy.__version__}


def _hash(files: Iterable[Path]) -> str:
    """SHA-256 over (name below the package, syntax tree) of the files, sorted by name."""
    total = hashlib.sha256(f"python {sys.version_info.major}.{sys.version_info.minor}\n".encode())
    for path in sorted(files, key=lambda p: p.relative_to(PACKAGE).as_posix()):
        tree = hashlib.sha256(ast.dump(_without_docstrings(_parse(path))).encode()).hexdigest()
        total.update(f"{path.relative_to(PACKAGE).as_posix()} {tree}\n".encode())
    return total.hexdigest()


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), path.name)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree, in place, without strings that are statements of their own: docstrings, and notes below constants."""
    for node in ast.walk(tree):
        body: list[ast.stmt] = getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []
        body[:] = [s for s in body if not _is_text(s)]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
        return False
    return isinstance(statement.value.value, str)


def _imported(*roots: str) -> set[Path]:
    """Files of the package's modules ``roots`` and of all modules of the package that they import."""
    found: set[Path] = set()
    waiting = [_file(root.split(".")) for root in roots]
    while waiting:
        path = waiting.pop()
        if path is None or path in found:
            continue
        found.add(path)
        here = path.relative_to(PACKAGE.parent).parent.parts
        waiting += [_file(name) for node in ast.walk(_parse(path)) for name in _names(node, here)]
    return found


def _names(node: ast.AST, here: tuple[str, ...]) -> list[list[str]]:
    """Modules below the package that an import in package ``here`` may mean: ``from a import b`` may mean ``a.b``."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = [*here[: len(here) - node.level + 1]] if node.level else []
        module += node.module.split(".") if node.module else []
        names = [module, *([*module, alias.name] for alias in node.names)]
    else:
        return []
    return [name[1:] for name in names if name[0] == PACKAGE.name and name[1:]]


def _file(name: list[str]) -> Path | None:
    """File of the module ``name`` below the package; None where that is no module but a name in one."""
    path = PACKAGE.joinpath(*name)
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def _commit(source: Path) -> tuple[str | None, bool]:
    """(short commit of the checkout ``source``, whether it holds changes); (None, False) for an installed wheel."""
    if not (source / ".git").exists():
        return None, False
    try:
        commit = _git(source, "rev-parse", "--short=12", "HEAD").strip()
        changes = _git(source, "status", "--porcelain", "--untracked-files=all").splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, False
    ours = tuple(f"?? {folder}/" for folder in CHECKOUT)
    return commit, any(not line.startswith("?? ") or line.startswith(ours) for line in changes)


def _git(source: Path, *arguments: str) -> Any:
    return subprocess.run(
        ["git", "-C", str(source), *arguments], capture_output=True, text=True, timeout=10, check=True
    ).stdout
