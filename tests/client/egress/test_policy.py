from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from emgup_client.egress.policy import EgressPolicy, ScalarPolicy, read_policy
from emgup_client.egress.record import EgressError, build_levels, policy_levels
from emgup_model.config import configs_dir, dump_yaml
from emgup_model.errors import ConfigError
from emgup_model.report_wire import CATALOGUE, TOP, fraction_of, value_of
from emgup_model.wire import Reply, Status
from tests.client.egress.stub import POLICY, make_policy

EVALUATION: dict[str, Any] = {
    "predictions_changed": 0.31,
    "mean_confidence": 0.92,
    "test_windows": 1200,
    "log": {"decision": "guarded"},
    "accuracy": 0.8,
    "macro_f1": 0.7,
    "source_accuracy": 0.6,
    "source_macro_f1": 0.5,
}


def test_the_shipped_policy_is_small_noisy_and_label_free() -> None:
    policy = read_policy(configs_dir() / "privacy" / "default.yaml")
    assert not policy.allow_labels
    assert not any(CATALOGUE[name].labels for name in policy.scalars)
    assert policy.noise.kind == "laplace"
    assert policy.reports * policy.noise.epsilon <= 4
    assert policy.report_bits <= 48
    assert "epsilon 1 a report, at most 4 for life" in policy.explain()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scalars": {"gesture_histogram": {"bits": 3}}}, "no scalar is called"),
        ({"scalars": {"accuracy": {"bits": 3}}}, "allow_labels"),
        ({"scalars": {"confidence": {"bits": 7}}}, "bits"),
        ({"scalars": {"confidence": {"bits": 6, "lower": 0.5, "upper": 0.6}}}, "too close"),
        ({"scalars": {"confidence": {"bits": 1, "lower": 0.7, "upper": 0.2}}}, None),
        ({"scalars": {}}, "scalars"),
        ({"noise": {"kind": "laplace", "epsilon": 1.0}}, "epsilon_for_life"),
        ({"noise": {"kind": "gauss"}}, "gauss"),
        ({"limits": {**POLICY["limits"], "epsilon_for_life": 3.0}}, "no meaning without noise"),
        ({"limits": {**POLICY["limits"], "per_week": 3}}, "unknown key"),
        ({"limits": {**POLICY["limits"], "pad_s": 0.5}}, "moments"),
        ({"surprise": 1}, "unknown key"),
        ({"sum": {"floor": 2, "per_day": 1, "for_life": 1}}, "floor"),
        ({"sum": {"floor": 101, "per_day": 1, "for_life": 1}}, "floor"),
        ({"sum": {"per_day": 1, "for_life": 1}}, "floor"),
        ({"sum": {"floor": 3, "per_day": 1, "for_life": 1, "noise": "none"}}, "unknown key"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], complaint: str | None) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(dump_yaml({**POLICY, **change}))
    if complaint is None:
        assert read_policy(path).scalars["confidence"].on_wire(0) == round(TOP * 0.7)
        return
    with pytest.raises(ConfigError, match=complaint):
        read_policy(path)


@pytest.mark.parametrize(("only", "words"), [(False, "or alone"), (True, "never alone")])
def test_the_policy_says_in_words_how_sums_are_made_and_counts_their_moments(only: bool, words: str) -> None:
    rules = {"only": only, "floor": 7, "per_day": 2, "for_life": 20}
    limits = {**POLICY["limits"], "pad_s": 30}
    without = EgressPolicy.model_validate({**POLICY, "limits": limits})
    policy = EgressPolicy.model_validate({**POLICY, "limits": limits, "sum": rules})
    assert f"the sum of at least 7 people, {words}" in policy.explain()
    assert "At most 2 sums a day, 20 ever" in policy.explain()
    assert "Secure sums: none" in without.explain()
    assert policy.bits_for_life - without.bits_for_life == 20 * 4 * 4


@given(st.integers(1, 6), st.floats(0, 1), st.floats(0, 1))
def test_levels_of_a_scalar_are_distinct_and_on_the_wire(bits: int, lower: float, upper: float) -> None:
    try:
        scalar = ScalarPolicy(bits=bits, lower=lower, upper=upper)
    except ValidationError:
        return
    wire = [scalar.on_wire(level) for level in range(scalar.top + 1)]
    assert len(set(wire)) == len(wire)
    assert all(0 <= w <= TOP for w in wire)


@given(st.dictionaries(st.sampled_from(["predictions_changed", "confidence"]), st.floats(0, 1), min_size=2))
def test_a_built_report_is_what_the_gate_takes(shares: dict[str, float]) -> None:
    policy = make_policy()
    levels = build_levels(policy, {**EVALUATION, **shares, "mean_confidence": shares["confidence"]})
    back = policy_levels(policy, levels)
    assert {n: policy.scalars[n].on_wire(v) for n, v in back.items()} == levels
    for name, level in levels.items():
        assert abs(value_of(name, level) - shares[name]) <= 0.5 / policy.scalars[name].top + 0.5 / TOP + 1e-9
    reply = Reply(status=Status.REPORTED, report=levels)
    assert Reply.decode(reply.encode()) == reply


@given(st.dictionaries(st.sampled_from(sorted(CATALOGUE)) | st.text(max_size=5), st.integers(-2, 70)))
def test_the_gate_takes_nothing_else(levels: dict[str, int]) -> None:
    policy = make_policy()
    exact = all(levels[n] in {s.on_wire(v) for v in range(16)} for n, s in policy.scalars.items() if n in levels)
    if list(levels) == list(policy.scalars) and exact:
        policy_levels(policy, levels)
    else:
        with pytest.raises(EgressError):
            policy_levels(policy, levels)


def test_every_scalar_of_the_catalogue_can_be_built() -> None:
    plain = {**POLICY, "allow_labels": True, "scalars": {name: {"bits": 6} for name in CATALOGUE}}
    levels = build_levels(EgressPolicy.model_validate(plain), EVALUATION)
    assert list(levels) == list(CATALOGUE)
    assert levels["decision"] == 32
    assert levels["windows_log2"] == 31  # log2(1200) = 10.23 of 21
    assert levels["accuracy"] == 50


@pytest.mark.parametrize("value", [None, float("nan"), "much"])
def test_a_scalar_that_is_not_there_is_no_report(value: object) -> None:
    with pytest.raises(EgressError, match="confidence"):
        build_levels(make_policy(), {**EVALUATION, "mean_confidence": value})


@given(st.floats(allow_nan=False))
def test_values_outside_the_range_are_cut(value: float) -> None:
    assert 0 <= fraction_of("confidence", value) <= 1
