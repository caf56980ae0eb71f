from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_client.live.framing import MAX_LINE, Format, Parser, parser
from emgup_model.errors import DataError

SAMPLES = st.lists(st.tuples(*[st.integers(-(2**15), 2**15 - 1)] * 3), max_size=20)


def encode(samples: np.ndarray, form: Format) -> bytes:
    if form == "csv":
        return b"".join(b",".join(b"%g" % v for v in row) + b"\n" for row in samples.astype(float))
    return samples.astype("<f4" if form == "float32" else "<i2").tobytes()


def fed(parse: Parser, pieces: list[bytes]) -> np.ndarray:
    return np.concatenate([*(parse.feed(p) for p in pieces), parse.finish()])


@settings(deadline=None)
@given(samples=SAMPLES, cuts=st.lists(st.integers(0, 400)), form=st.sampled_from(["csv", "float32", "int16"]))
def test_samples_come_out_as_they_went_in_however_the_bytes_are_cut(
    samples: list[tuple[int, ...]], cuts: list[int], form: Format
) -> None:
    sent = np.array(samples, np.int64).reshape(-1, 3)
    data = encode(sent, form)
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    got = fed(parser(form, 3), [data[a:b] for a, b in pairwise(edges)])
    assert got.shape == sent.shape
    assert np.array_equal(got, sent)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=300), form=st.sampled_from(["csv", "float32", "int16"]))
def test_any_bytes_are_samples_or_one_clear_line(data: bytes, form: Format) -> None:
    try:
        got = fed(parser(form, 3), [data])
    except DataError as e:
        got, line = np.empty((0, 3)), str(e)
    else:
        line = "fine"
    assert len(line.splitlines()) == 1
    assert got.shape[1] == 3
    assert np.isfinite(got).all()


def test_separators_comments_and_a_last_line_without_end() -> None:
    text = b"# a comment\n1,2,3\n\n 4;5;6 \r\n7\t8 9"
    assert fed(parser("csv", 3), [text]).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("csv", b"1,2,3\n1,2\n", "line 2 of the stream has 2 values, the model takes 3"),
        ("csv", b"1,2,x\n", "line 1 of the stream is no list of numbers"),
        ("csv", b"1,2,nan\n", "NaN, infinity"),
        ("csv", b"1,2,1e300\n", "beyond single precision"),
        ("csv", b"1" * (MAX_LINE + 1), "longer than"),
        ("float32", np.array([1, 2, np.inf], "<f4").tobytes(), "NaN, infinity"),
        ("int16", b"\0" * 7, "ended inside a sample"),
    ],
)
def test_what_is_no_sample_is_named(form: Format, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fed(parser(form, 3), [data])
