"""Raw files are found whatever their names, numbers in their order."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from emgup_model.data.discovery import _natural, _walk

NAMES = st.text(st.characters() | st.sampled_from("0123456789\u00b2\u0663\u2460/._"), max_size=30)


@given(st.lists(NAMES, max_size=12), st.randoms())
def test_any_names_have_one_order(names: list[str], random: object) -> None:
    shuffled = names.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sorted(shuffled, key=_natural) == sorted(names, key=_natural)


@given(NAMES, st.integers(0, 10**9), st.integers(0, 10**9), NAMES)
def test_numbers_are_ordered_as_numbers(before: str, a: int, b: int, after: str) -> None:
    before, after = before.rstrip("0123456789"), after.lstrip("0123456789")
    if a != b:
        assert (_natural(f"{before}{a}{after}") < _natural(f"{before}{b}{after}")) == (a < b)


def test_files_are_found_in_their_order(tmp_path: Path) -> None:
    names = ["1\u00b23.csv", "9.csv", "10.csv", "010x.csv", "10x.csv", "9" * 200 + ".csv"]
    for name in reversed(names):
        (tmp_path / name).touch()
    assert list(_walk(tmp_path)) == names
    assert _natural("9" * 5000) > _natural("8" * 5000) > _natural("9" * 4999)
