"""Metrics of one user: confusion matrix, accuracy and macro-F1 under both label conventions in use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emgup_model.errors import DataError

Confusion = NDArray[np.int64]
"""(C, C) window counts; rows are the true gestures, columns the predicted ones."""


@dataclass(frozen=True)
class UserMetrics:
    """Scores of one user on one set of test windows, all in [0, 1].

    Attributes:
        confusion: (C, C) window counts, rows = true gesture.
        accuracy: share of windows predicted correctly.
        macro_f1: mean F1 over the gestures present in the true labels. The default: its label set is fixed by the
            test windows, so all methods are averaged over the same gestures.
        macro_f1_union: mean F1 over labels in y_true ∪ y_pred, scikit-learn's default. A gesture the user never
            performed but the model predicted once counts as an F1 of 0.
    """

    confusion: Confusion
    accuracy: float
    macro_f1: float
    macro_f1_union: float

    @property
    def n_windows(self) -> int:
        """Number of test windows."""
        return int(self.confusion.sum())


def user_metrics(labels: ArrayLike, predictions: ArrayLike, n_classes: int) -> UserMetrics:
    """Metrics of one user.

    Args:
        labels: (N,) true gesture index of each test window, in [0, n_classes).
        predictions: (N,) predicted gesture index of each test window, in [0, n_classes).
        n_classes: number of gestures C of the release.

    Raises:
        DataError: no windows, different lengths, not integers, or an index outside [0, n_classes).
    """
    return metrics_from_confusion(confusion_matrix(labels, predictions, n_classes))


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, n_classes: int) -> Confusion:
    """(C, C) counts of true (row) against predicted (column) gesture; arguments and errors as in `user_metrics`."""
    true = _indices(labels, "labels", n_classes)
    predicted = _indices(predictions, "predictions", n_classes)
    if len(true) != len(predicted):
        raise DataError(f"{len(true)} labels but {len(predicted)} predictions; give one prediction per test window")
    if len(true) == 0:
        raise DataError("there are no test windows to score; check the protocol and the user's recordings")
    counts = np.bincount(true * n_classes + predicted, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def metrics_from_confusion(confusion: Confusion) -> UserMetrics:
    """Scores that follow from window counts ``confusion`` (C, C), rows = true gesture.

    Raises:
        DataError: not a square matrix of counts, or no window in it.
    """
    c = np.asarray(confusion)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not np.issubdtype(c.dtype, np.integer) or (c < 0).any():
        raise DataError(f"a confusion matrix is a square array of counts, not {c.dtype} of shape {c.shape}")
    total = int(c.sum())
    if total == 0:
        raise DataError("the confusion matrix holds no windows; nothing can be scored")
    hits, true, predicted = np.diag(c), c.sum(axis=1), c.sum(axis=0)
    # F1 = 2 TP / (2 TP + FP + FN) = 2 TP / (true + predicted). The denominator is 0 only for a label seen nowhere,
    # and neither convention averages over those.
    f1 = 2 * hits / np.maximum(true + predicted, 1)
    return UserMetrics(
        confusion=c.astype(np.int64),
        accuracy=float(hits.sum() / total),
        macro_f1=float(f1[true > 0].mean()),
        macro_f1_union=float(f1[true + predicted > 0].mean()),
    )


def _indices(values: ArrayLike, what: str, n_classes: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{what} must be one-dimensional, one per window; got shape {array.shape}")
    if array.size == 0:
        return np.zeros(0, np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} must be integer gesture indices, not {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_classes:
        raise DataError(f"{what} lie in [{low}, {high}] but the release has gestures 0 to {n_classes - 1}")
    return array.astype(np.int64)
