"""A copy of the working tree to mutate, with every package at its root, so that a module's path is its name."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.mutants.plan import PACKAGES, ROOMS

LIFTED = ("client/", "server/", "simulation/")
"""Folders whose packages are moved to the root: mutmut names a module by its path."""
IMPORTED = ("emgup_model", "emgup_client", "emgup_server", "emgup_simulation")


def refresh(repository: Path, workspace: Path, package: str, without: Iterable[str] = ()) -> None:
    """Copy what git tracks, or would; leave alone what is equal, so that results stay; drop what is gone.

    Args:
        repository: the working tree.
        workspace: the copy.
        package: key of ``PACKAGES``: what is mutated.
        without: test files that are not run.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    wanted = {place(name): repository / name for name in listed if name and (repository / name).is_file()}
    for name, source in wanted.items():
        if name == "pyproject.toml":
            continue
        copy_if_different(source.read_bytes(), workspace / name)
    copy_if_different(_project(repository, package, without).encode(), workspace / "pyproject.toml")
    for folder in (*IMPORTED, "tests", "configs"):
        for path in [p for p in (workspace / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]:
            name = path.relative_to(workspace).as_posix()
            if name not in wanted:
                path.unlink()
                for gone in (workspace / "mutants").glob(f"{name}*"):
                    gone.unlink()
    if (workspace / "mutants/tests").is_dir():  # mutmut copies over it and never deletes
        shutil.rmtree(workspace / "mutants/tests")


def place(name: str) -> str:
    """Where a tracked file lies in the workspace."""
    for prefix in LIFTED:
        if name.startswith(tuple(prefix + package + "/" for package in IMPORTED)):
            return name.removeprefix(prefix)
    return name


def copy_if_different(content: bytes, target: Path) -> None:
    """Write ``content``, unless it is there: mutmut makes the mutants of a newer file again."""
    if target.is_file() and target.read_bytes() == content:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _project(repository: Path, package: str, without: Iterable[str]) -> str:
    """The project's settings, and mutmut's."""
    settings = {
        "source_paths": list(IMPORTED),
        "only_mutate": [*PACKAGES[package]],
        "also_copy": ["configs"],
        "pytest_add_cli_args_test_selection": [*ROOMS[package]],
        "pytest_add_cli_args": [f"--ignore={path}" for path in without],
        "process_isolation": "forkserver",
        "timeout_multiplier": 3.0,
        "timeout_constant": 10.0,
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return (repository / "pyproject.toml").read_text() + "\n[tool.mutmut]\n" + "\n".join(lines) + "\n"
