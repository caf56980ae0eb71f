import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from emgup_model.errors import DataError
from emgup_model.evaluation.metrics import metrics_from_confusion, user_metrics


@st.composite
def predictions(draw):
    classes = draw(st.integers(1, 8))
    index = st.integers(0, classes - 1)
    pairs = draw(st.lists(st.tuples(index, index), min_size=1, max_size=60))
    y, p = (np.array(column) for column in zip(*pairs, strict=True))
    return y, p, classes


@given(predictions())
def test_agrees_with_scikit_learn(case):
    y, p, classes = case
    ours = user_metrics(y, p, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about labels that are not in y_true
        assert ours.accuracy == pytest.approx(accuracy_score(y, p), abs=1e-12)
        assert ours.macro_f1_union == pytest.approx(f1_score(y, p, average="macro", zero_division=0), abs=1e-12)
        present = f1_score(y, p, average="macro", labels=np.unique(y), zero_division=0)
        assert ours.macro_f1 == pytest.approx(present, abs=1e-12)
        expected = confusion_matrix(y, p, labels=np.arange(classes))
    assert ours.confusion.dtype == np.int64
    np.testing.assert_array_equal(ours.confusion, expected)
    assert ours.n_windows == len(y)
    assert ours.macro_f1_union <= ours.macro_f1 + 1e-12  # extra labels can only add zeros


@given(predictions())
def test_scores_follow_from_the_confusion_matrix(case):
    y, p, classes = case
    a = user_metrics(y, p, classes)
    b = metrics_from_confusion(a.confusion)
    assert (a.accuracy, a.macro_f1, a.macro_f1_union) == (b.accuracy, b.macro_f1, b.macro_f1_union)


def test_label_sets_differ_when_an_absent_gesture_is_predicted():
    m = user_metrics([0, 0, 1, 1], [0, 0, 1, 2], 4)
    f1 = (1.0, 2 / 3)
    assert m.macro_f1 == pytest.approx(sum(f1) / 2)
    assert m.macro_f1_union == pytest.approx(sum(f1) / 3)
    np.testing.assert_array_equal(m.confusion[1], [0, 1, 1, 0])  # rows are the true gesture


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([], [], "no test windows"),
        ([0, 1], [0], "2 labels but 1 predictions"),
        ([0, 3], [0, 1], r"labels lie in \[0, 3\]"),
        ([0, 1], [0, -1], r"predictions lie in \[-1, 0\]"),
        ([0.0, 1.0], [0, 1], "integer"),
        ([[0, 1]], [0, 1], "one-dimensional"),
    ],
)
def test_refuses_what_cannot_be_scored(labels, predicted, message):
    with pytest.raises(DataError, match=message):
        user_metrics(labels, predicted, 3)


@pytest.mark.parametrize(
    "bad", [np.ones((2, 3), int), np.ones((2, 2)), np.array([[1, -1], [0, 1]]), np.zeros((2, 2), int)]
)
def test_refuses_what_is_no_confusion_matrix(bad):
    with pytest.raises(DataError):
        metrics_from_confusion(bad)
