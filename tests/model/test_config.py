from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emgup_model.config import (
    Frozen,
    apply_overrides,
    canonical_json,
    configs_dir,
    digest,
    dump_yaml,
    find_config,
    load_yaml,
    parse,
)
from emgup_model.errors import ConfigError
from emgup_model.methods import load_method


class Inner(Frozen):
    rate: float = 1.0


class Outer(Frozen):
    name: str
    inner: Inner = Inner()


def test_overrides_reach_nested_keys_and_leave_the_original_alone() -> None:
    data = {"name": "a", "inner": {"rate": 1.0}}
    out = apply_overrides(data, ["inner.rate=2.5", "name=b"])
    assert parse(Outer, out, "x") == Outer(name="b", inner=Inner(rate=2.5))
    assert data == {"name": "a", "inner": {"rate": 1.0}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "a", "speed": 1}, "unknown key 'speed'"),
        ({"name": "a", "inner": {"rat": 1}}, "unknown key 'inner.rat'"),
        ({}, "key 'name' is missing"),
        ({"name": "a", "inner": {"rate": "fast"}}, "inner.rate = 'fast'"),
        ({"name": "a", "inner": {"rate": float("nan")}}, "inner.rate"),
    ],
)
def test_bad_values_are_one_line_that_names_the_key(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(Outer, data, "file.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["novalue", "=3", "name.sub=1", "name=[1"])
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        apply_overrides({"name": "a"}, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "given twice"),
        ("- 1\n", "mapping"),
        ("a: [1\n", "line 2"),
        ("a: !!python/object:x {}\n", "YAML"),
    ],
)
def test_broken_yaml_is_one_line_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_yaml(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_name_lists_what_is_shipped() -> None:
    with pytest.raises(ConfigError, match="emgup_paper"):
        find_config("methods", "nothing")


def test_every_shipped_method_is_valid() -> None:
    names = [p.stem for p in (configs_dir() / "methods").glob("*.yaml")]
    assert {"source_only", "adabn", "emgup_paper", "emgup_nograd", "emgup_bnfrozen"} <= set(names)
    for name in names:
        load_method(name)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_digest_ignores_key_order(data: dict[str, object]) -> None:
    turned = dict(reversed(data.items()))
    assert canonical_json(data) == canonical_json(turned)
    assert digest(data) == digest(turned)


@given(st.text(max_size=30), st.floats(allow_nan=False, allow_infinity=False))
def test_dumped_yaml_reads_back(name: str, rate: float) -> None:
    model = Outer(name=name, inner=Inner(rate=rate))
    assert parse(Outer, yaml.safe_load(dump_yaml(model)), "x") == model
