"""The rules of what counts, the names, the sample, the workspace and the interval of the mutation runs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from mutmut.mutation.file_mutation import combine_mutations_to_source, create_mutations
from mutmut.utils.format_utils import get_mutant_name

from tests.mutants import plan, report
from tests.mutants.plan import Mutant, diff_of, mutants_of, sample
from tests.mutants.workspace import copy_if_different, place

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path("emgup_model/x.py")


def changes(body: str) -> list[str]:
    """The changed line of every mutant of a function with this body that counts."""
    source = "def f(a, b):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    diffs = [diff_of(m, source).splitlines() for m in mutants_of(HERE, source)]
    return [line[1:].strip() for diff in diffs for line in diff if line.startswith("+")]


MODULE = """
LIMIT = 3


def first(a: int, b: int = 2) -> int:
    def inner(c):
        return c + 1
    return inner(a) - b * 4


class Thing:
    size: int = 5

    def __init__(self, a):
        if a > 1:
            raise ValueError(a * 2)
        self.a = a

    @property
    def twice(self):
        return self.a * 2

    @staticmethod
    def made(a):
        return Thing(a + 6)
"""


def test_a_name_is_the_one_that_mutmut_gives_to_the_same_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutmut.mutation.pragma_handling.get_lines_ignored_by_pattern", lambda _: set())
    module, mutations, *_ = create_mutations(str(HERE), MODULE)
    theirs = combine_mutations_to_source(module, mutations)
    spans = {get_mutant_name(HERE, name): span for name, span in theirs.line_span_by_function_name.items()}
    mine = mutants_of(HERE, MODULE)
    assert {m.name.split("__mutmut")[0].removeprefix("emgup_model.x.") for m in mine} == {
        "x_first",
        "xǁThingǁ__init__",
        "xǁThingǁmade",
    }
    for mutant in mine:
        added = [line[1:].strip() for line in diff_of(mutant, MODULE).splitlines() if line.startswith("+")]
        body = theirs.code.splitlines()[spans[mutant.name].start - 1 : spans[mutant.name].end]
        assert {line for line in added if not line.startswith("def ")} <= {line.strip() for line in body}, mutant


def test_every_package_has_files_and_tests() -> None:
    for package, patterns in plan.PACKAGES.items():
        folders = (REPOSITORY, REPOSITORY / "client")
        assert all(any([*folder.glob(p)] for folder in folders) for p in patterns), package
        assert all((REPOSITORY / room).exists() for room in plan.ROOMS[package])
    assert plan.PACKAGES.keys() == plan.ROOMS.keys()


@pytest.mark.parametrize(
    "line",
    [
        'raise ValueError(f"{a}: too small", 3)',
        'raise ValueError(\n    "on the next line"\n)',
        "assert a > 1",
        "print(a, 3)",
        "return cast(int, a)",
        "return a.to(b)",
    ],
)
def test_what_no_test_can_hear_does_not_count(line: str) -> None:
    assert changes(line) == []


def test_arguments_that_only_another_device_hears_do_not_count() -> None:
    assert changes("return a.zeros(3, device=b.device)") == [
        "return a.zeros(None, device=b.device)",
        "return a.zeros(device=b.device)",
        "return a.zeros(4, device=b.device)",
    ]


def test_strictness_of_zip_does_not_count() -> None:
    assert set(changes("return zip(a, b, strict=True)")) == {
        "return zip(None, b, strict=True)",
        "return zip(a, None, strict=True)",
        "return zip(b, strict=True)",
        "return zip(a, strict=True)",
    }


def test_text_is_mutated_once_and_documentation_never() -> None:
    assert changes('"""Text."""\nreturn "some text"') == ['return "XXsome textXX"']


def made(**sizes: int) -> list[Mutant]:
    return [Mutant(f"{package}.{i}", package, HERE, 1, i) for package, n in sizes.items() for i in range(n)]


def test_a_sample_is_in_proportion_seeded_and_grows() -> None:
    mutants = made(large=300, small=100, tiny=1)
    some = sample(mutants, 40, 0)
    assert Counter(m.package for m in some) == {"large": 30, "small": 10, "tiny": 1}
    assert {*some} == {*sample(mutants[::-1], 40, 0)}
    assert {*some} < {*sample(mutants, 80, 0)}
    assert {*some} != {*sample(mutants, 40, 1)}
    assert sample(mutants, None, 0) == mutants == sample(mutants, 1000, 0)


def test_packages_lie_at_the_root_of_the_workspace() -> None:
    assert place("client/emgup_client/egress/gate.py") == "emgup_client/egress/gate.py"
    assert place("emgup_model/config.py") == "emgup_model/config.py"
    assert place("simulation/pyproject.toml") == "simulation/pyproject.toml"


def test_an_equal_file_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "a/b.py"
    copy_if_different(b"1", target)
    first = target.stat().st_mtime_ns
    copy_if_different(b"1", target)
    assert target.stat().st_mtime_ns == first
    copy_if_different(b"2", target)
    assert target.read_bytes() == b"2"


def test_the_interval_is_exact() -> None:
    assert report.interval(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))  # closed form at no hit
    assert report.interval(9, 10) == pytest.approx((0.554984, 0.997471), abs=1e-5)


def test_codes_become_rows_survivors_and_untried_ones(tmp_path: Path) -> None:
    mutants = made(one=6)
    codes = dict(zip([m.name for m in mutants], [1, 0, 36, 33, None, 77], strict=True))
    meta = tmp_path / "one" / "mutants" / f"{HERE}.meta"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"exit_code_by_key": codes}))
    found = report.statuses(tmp_path, mutants)
    assert [*found.values()] == ["killed", "survived", "timeout", "no tests", "not checked", "suspicious"]
    assert [m.number for m in report.survivors(mutants, found)] == [1, 3, 5]
    row = report.table(mutants, found, {"one": 60}).splitlines()[1].split()
    assert row[:7] == ["one", "60", "5", "1", "1", "3", "40.0%"]
    report.forget(tmp_path, report.survivors(mutants, found))
    again = report.statuses(tmp_path, mutants)
    assert [*again.values()].count("not checked") == 4
    assert not report.survivors(mutants, again)
