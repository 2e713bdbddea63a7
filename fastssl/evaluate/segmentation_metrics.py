"""Metrics of segmentation: mean intersection over union, pixel accuracy and boundary F-score, in percent."""

from __future__ import annotations

import numpy as np

from fastssl.data.objects import VOID

TOLERANCE = 0.0075  # of the image's diagonal, between boundaries that agree (Csurka et al. 2013)
BORDER = 3  # pixels to the middle of a void border of Pascal VOC


def confusion_matrix(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by their class and the predicted one, int64 [classes, classes]; void pixels are left out.

    Args:
        predicted: integers [...], below ``classes``.
        truth: integers of the same shape; 255: void, if there are fewer classes.
        classes: number of classes, background included.

    Raises:
        TypeError: no integers.
        ValueError: another shape, or a class out of range.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import confusion_matrix
        >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 255]), 2).tolist()
        [[1, 1], [0, 0]]
    """
    predicted, truth = _classes_of(predicted, truth)
    counted = ~_void(truth, classes)
    p, t = predicted[counted].astype(np.int64), truth[counted].astype(np.int64)
    for name, values in (("predicted", p), ("truth", t)):
        if len(values) and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"{name}: expected classes 0 to {classes - 1}, got {values.min()} to {values.max()}")
    return np.bincount(classes * t + p, minlength=classes * classes).reshape(classes, classes)


def mean_iou(confusion: np.ndarray) -> float:
    """Mean intersection over union (Jaccard index) of the classes that occur or are predicted.

    Args:
        confusion: [classes, classes], of all pixels of the test set (:func:`confusion_matrix`).

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import mean_iou
        >>> round(mean_iou(np.array([[2, 1], [1, 4]])), 2)
        58.33
    """
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    there = union > 0
    return 100 * float((hits[there] / union[there]).mean()) if there.any() else 0.0


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the pixels whose class is predicted.

    Args:
        confusion: [classes, classes].

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import pixel_accuracy
        >>> pixel_accuracy(np.array([[2, 1], [1, 4]]))
        75.0
    """
    return 100 * float(np.diag(confusion).sum()) / max(1, int(confusion.sum()))


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask beside a pixel that is not of it."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    result: np.ndarray = mask & ~inside
    return result


def boundary_f(
    predicted: np.ndarray, truth: np.ndarray, tolerance: float | None = None, *, classes: int = VOID
) -> float:
    """Boundary F-score of an image (Csurka et al., What is a Good Evaluation Measure for Semantic Segmentation?, 2013):
    the mean over the classes that occur or are predicted of F1 of their boundary pixels.

    A pixel of a boundary is right if one of the other boundary is at most ``tolerance`` away. A void pixel of the truth
    has the class of the nearest one that is not void: boundaries run in the middle of void borders, as those of Pascal
    VOC. Those deeper in void than ``tolerance``, at least 3 pixels, do not count.

    Args:
        predicted: integers [H, W].
        truth: integers [H, W]; 255: void, if there are fewer classes.
        tolerance: in pixels; None: 0.75 % of the diagonal, at least 1.
        classes: number of classes, background included.

    Raises:
        TypeError: no integers.
        ValueError: no matrices, or of different shapes.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import boundary_f
        >>> truth = np.zeros((16, 16), int)
        >>> truth[4:12, 4:12] = 1
        >>> boundary_f(np.roll(truth, 1, 0), truth), boundary_f(np.zeros_like(truth), truth)
        (100.0, 0.0)
    """
    from scipy.ndimage import distance_transform_edt

    predicted, truth = _classes_of(predicted, truth)
    if truth.ndim != 2:
        raise ValueError(f"truth: expected [H, W], got shape {truth.shape}")
    reach = max(1.0, TOLERANCE * float(np.hypot(*truth.shape))) if tolerance is None else tolerance
    void = _void(truth, classes)
    counted = ~void
    if void.all():
        return 100.0
    if void.any():
        depth, nearest = distance_transform_edt(void, return_indices=True)
        truth, counted = truth[tuple(nearest)], depth <= max(reach, BORDER)
    scores = []
    for c in np.union1d(predicted[~void], truth[~void]):
        all_own, all_wanted = _boundary(predicted == c), _boundary(truth == c)
        own, wanted = all_own & counted, all_wanted & counted
        if not own.any() and not wanted.any():  # the whole image is of the class, in one of both or in each
            if bool((predicted == c)[~void].any()) != bool((truth == c).any()):
                scores.append(0.0)
            continue
        if not own.any() or not wanted.any():
            scores.append(0.0)
            continue
        precision = float((distance_transform_edt(~all_wanted)[own] <= reach).mean())
        recall = float((distance_transform_edt(~all_own)[wanted] <= reach).mean())
        scores.append(200 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(scores)) if scores else 100.0


def _classes_of(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    for name, values in (("predicted", predicted), ("truth", truth)):
        if values.dtype.kind not in "iub" and values.size:
            raise TypeError(f"{name}: expected integers, got {values.dtype}")
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted: expected the shape of truth, {truth.shape}, got {predicted.shape}")
    return predicted, truth


def _void(truth: np.ndarray, classes: int) -> np.ndarray:
    void: np.ndarray = truth == VOID if classes <= VOID else np.zeros(truth.shape, bool)
    return void
