from __future__ import annotations

import numpy as np

from emgup_client.live.decisions import Decider
from emgup_client.live.predict import predict
from emgup_client.live.sources import Chunk
from emgup_client.web.feed import DECISIONS, POINTS_PER_S, SHOWN_S, Feed
from emgup_model.data.windows import filter_recording
from tests.client.homes import lively_model
from tests.client.live.test_decisions import RATE, manifest, signal


def chunks(emg: np.ndarray, size: int) -> list[Chunk]:
    return [Chunk(emg[i : i + size], i == 0) for i in range(0, len(emg), size)]


def fed(*recordings: np.ndarray) -> Feed:
    facts = manifest()
    feed = Feed(facts)
    source = (c for emg in recordings for c in chunks(emg, 7))
    predict(source, Decider(lively_model(), facts), feed.decision, feed.chunk)
    return feed


def test_the_points_are_the_least_and_largest_values_that_the_model_gets() -> None:
    emg = signal(300)
    got = np.array(fed(emg).since(0, 0)["points"])
    x = filter_recording(emg, RATE, manifest().preprocessing) / np.float32(manifest().scale)
    expected = x.reshape(-1, int(RATE / POINTS_PER_S), x.shape[1])
    np.testing.assert_allclose(got[:, 0], expected.min(1), atol=1e-3)
    np.testing.assert_allclose(got[:, 1], expected.max(1), atol=1e-3)


def test_decisions_of_several_recordings_are_on_one_axis_of_time() -> None:
    news = fed(signal(95), signal(120)).since(0, 0)
    first = [0.2 + 0.1 * i for i in range(8)]
    second = [0.95 + 0.2 + 0.1 * i for i in range(11)]
    np.testing.assert_allclose([d["at_s"] for d in news["decisions"]], [*first, *second], atol=1e-3)
    assert news["latency"]["p50_ms"] > 0


def test_only_what_is_new_is_handed_out_and_memory_is_bounded() -> None:
    feed = fed(signal(4000))
    whole = feed.since(0, 0)
    assert len(whole["points"]) == SHOWN_S * POINTS_PER_S
    assert len(whole["decisions"]) == DECISIONS
    assert (whole["n_points"], whole["n_decisions"]) == (2000, 399)
    later = feed.since(1990, 398)
    assert later["points"] == whole["points"][-10:]
    assert later["decisions"] == whole["decisions"][-1:]
    assert feed.since(2000, 399)["points"] == feed.since(10**9, 10**9)["points"] == []
