from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgup_model.data.folds import Fold, FoldConfig, check_folds, make_folds, read_folds
from emgup_model.errors import ConfigError, DataError


@given(st.integers(10, 60), st.integers(3, 10), st.integers(0, 99), st.integers(0, 4))
def test_every_user_is_tested_once_and_groups_stay_together(users: int, count: int, seed: int, pairs: int) -> None:
    groups = {f"u{i:02d}": "" for i in range(users)}
    for p in range(pairs):
        groups[f"u{2 * p:02d}"] = groups[f"u{2 * p + 1:02d}"] = f"pair{p}"
    if len({g or u for u, g in groups.items()}) < count:
        return
    folds = make_folds(groups, FoldConfig(count=count, seed=seed))
    check_folds(folds)
    assert sorted(u for f in folds for u in f.test) == sorted(groups)
    sizes = [len(f.test) for f in folds]
    assert max(sizes) - min(sizes) <= 1
    for f in folds:
        for part in (f.train, f.validation, f.test):
            for user in part:
                assert all(other in part for other, g in groups.items() if g and g == groups[user])


def test_the_split_depends_on_the_seed_only() -> None:
    groups = {f"u{i}": "" for i in range(20)}
    assert make_folds(groups, FoldConfig(seed=3)) == make_folds(dict(reversed(groups.items())), FoldConfig(seed=3))
    assert make_folds(groups, FoldConfig(seed=3)) != make_folds(groups, FoldConfig(seed=4))


def test_too_few_users_say_what_to_set() -> None:
    with pytest.raises(DataError, match=r"folds\.count=4"):
        make_folds({f"u{i}": "" for i in range(4)}, FoldConfig(count=10))


def test_a_split_that_reuses_a_user_is_refused() -> None:
    bad = Fold(index=0, train=("a",), validation=("b",), test=("a",))
    with pytest.raises(ConfigError, match="two purposes"):
        check_folds([bad])


@pytest.mark.parametrize("text", ["", "{}", '{"folds": [1]}', json.dumps({"folds": [{"index": 0}]})])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "folds.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="delete it"):
        read_folds(path)
