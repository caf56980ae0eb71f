"""Which mutants there are, which of them count, and which are tried: mutmut's mutations, our rules, a seeded sample."""

from __future__ import annotations

import difflib
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import Mutation, MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import IgnoredCode
from mutmut.mutation.trampoline_templates import mangle_function_name
from mutmut.utils.format_utils import get_mutant_name

PACKAGES: dict[str, tuple[str, ...]] = {
    "methods": ("emgup_model/methods/*.py",),
    "evaluation": ("emgup_model/evaluation/*.py",),
    "source_training": (
        "emgup_model/pretrain.py",
        "emgup_model/source_users.py",
        "emgup_model/signal_statistics.py",
    ),
    "windows": ("emgup_model/data/windows.py",),
    "egress": ("emgup_client/egress/*.py",),
}
"""Files to mutate, as they lie in the workspace: every package at its root."""

ROOMS: dict[str, tuple[str, ...]] = {
    "methods": ("tests/model/methods", "tests/model/test_personalize.py", "tests/model/test_handed_over.py"),
    "evaluation": ("tests/model/evaluation", "tests/model/test_personalize.py"),
    "source_training": (
        "tests/model/test_pretrain.py",
        "tests/model/test_signal_statistics.py",
        "tests/model/test_compute.py",
    ),
    "windows": ("tests/model/data/test_windows.py", "tests/model/test_pretrain.py", "tests/model/test_personalize.py"),
    "egress": ("tests/client/egress",),
}
"""Tests of each package; a mutant is tried on the ones that call its function."""

UNHEARD = re.compile(r",?\s*\b(?:strict|set_to_none|device|non_blocking)=(?:True|False|None|[\w.]+)")
"""Arguments whose change no test on one CPU can hear."""


@dataclass(frozen=True)
class Mutant:
    """One mutation: mutmut's name of it, the package, file and line it is in, and its number among the file's."""

    name: str
    package: str
    path: Path
    line: int
    number: int


_Q = m.OneOf(*(m.Name(name) for name in ("cast", "print")))
QUIET = m.Raise() | m.Assert() | m.Call(func=_Q) | m.Call(func=m.Attribute(attr=_Q))
"""In these no mutation counts: raised errors, assertions for the type checker, printed text."""


def mutants_of(path: Path, source: str, package: str = "") -> list[Mutant]:
    """The mutants of a file that count, in mutmut's order and by mutmut's names.

    Args:
        path: the file, relative to the workspace.
        source: its text.
        package: key of ``PACKAGES``.
    """
    module, mutations = _mutations(source)
    positions = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    spans = [positions[node] for node in m.findall(module, QUIET)]
    lines, names = source.splitlines(), _functions(module)
    numbers: Counter[str] = Counter()
    found = []
    for number, mutation in enumerate(mutations):
        function = names.get(mutation.contained_by_top_level_function)
        if function is None:
            continue
        numbers[function] += 1
        at = positions[mutation.original_node]
        if not any(_inside(at, span) for span in spans) and counts(mutation, lines[at.start.line - 1], at):
            name = get_mutant_name(path, f"{function}__mutmut_{numbers[function]}")
            found.append(Mutant(name, package, path, at.start.line, number))
    return found


def diff_of(mutant: Mutant, source: str) -> str:
    """The lines of ``source`` that the mutant changes, with − and +."""
    module, mutations = _mutations(source)
    mutation = mutations[mutant.number]
    changed = deep_replace(module, mutation.original_node, mutation.mutated_node)
    assert isinstance(changed, cst.Module)
    lines = difflib.unified_diff(source.splitlines(), changed.code.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


def counts(mutation: Mutation, line: str, at: CodeRange) -> bool:
    """Whether a test could hear this mutation at all (docs/testing.md lists the rules)."""
    before, after = (cst.Module([]).code_for_node(n) for n in (mutation.original_node, mutation.mutated_node))
    if isinstance(mutation.original_node, cst.SimpleString) and after.lower() == before.lower():
        return False  # the same as the mutant that puts XX around the text
    if line[: at.start.column].endswith(("strict=", "set_to_none=", "non_blocking=")):
        return False
    if re.fullmatch(r".*\.to\([\w.]+\)", before, re.DOTALL) and after.endswith(".to(None)"):
        return False
    return _heard(before) != _heard(after)


def _heard(code: str) -> str:
    return re.sub(r",?\s*\)", ")", UNHEARD.sub("", code))


def sample(mutants: Sequence[Mutant], size: int | None, seed: int) -> list[Mutant]:
    """``size`` mutants, of every package in proportion, at least one; all of them where ``size`` is None.

    A larger sample of the same seed and the same code holds the smaller one.
    """
    if size is None or size >= len(mutants):
        return list(mutants)
    chosen = []
    for package in dict.fromkeys(x.package for x in mutants):
        own = sorted((x for x in mutants if x.package == package), key=lambda x: x.name)
        random.Random(f"{seed}/{package}").shuffle(own)
        chosen += own[: max(1, math.floor(size * len(own) / len(mutants) + 0.5))]
    return chosen


def _mutations(source: str) -> tuple[cst.Module, list[Mutation]]:
    """The parsed file and all that mutmut would change in it, in its order."""
    visitor = MutationVisitor(mutation_operators, IgnoredCode(set(), set(), set()))
    module = MetadataWrapper(cst.parse_module(source)).visit(visitor)
    return module, visitor.mutations


def _functions(module: cst.Module) -> dict[cst.CSTNode | None, str]:
    """mutmut's name of every function and method that it mutates."""
    names: dict[cst.CSTNode | None, str] = {}
    for statement in module.body:
        if isinstance(statement, cst.FunctionDef):
            names[statement] = mangle_function_name(name=statement.name.value, class_name=None)
        elif isinstance(statement, cst.ClassDef):
            for method in statement.body.body:
                if isinstance(method, cst.FunctionDef):
                    name, owner = method.name.value, statement.name.value
                    names[method] = mangle_function_name(name=name, class_name=owner)
    return names


def _inside(at: CodeRange, span: CodeRange) -> bool:
    start, end = (at.start.line, at.start.column), (at.end.line, at.end.column)
    return (span.start.line, span.start.column) <= start and end <= (span.end.line, span.end.column)
