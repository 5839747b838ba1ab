"""Baselines that scikit-learn fits on the training split, on request.

Hyper-parameters are common defaults, the same for all data. Where a fit or a search would take minutes
it gets a seeded sample of the training rows, and the note says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Listed, Reader, Targets
from dlcli.evaluation.baselines.base import BOOSTING, Baseline
from dlcli.evaluation.baselines.simple import few_pixels, pixel_note
from dlcli.evaluation.metrics.base import Floats, Outputs
from dlcli.task import ImageInput, TabularInput, TaskSpec

# Training rows times models fitted (classes, labels or targets).
TEXT_ROWS = 1_000_000
LINEAR_ROWS = 1_000_000
TREE_ROWS = 300_000
# Images of which pixels are fitted, read at a time; neighbours.
PIXEL_ROWS = 10_000
IMAGES = 256
NEIGHBOURS = 5
# The least probability, the resolution of float64 as in scikit-learn's log loss.
LEAST = float(np.finfo(np.float64).eps)
# Multiplications of a nearest-neighbour search, about half a minute.
NEIGHBOUR_MULTIPLICATIONS = 300_000_000_000
BATCH = 4096
MAX_CATEGORIES = 255  # of histogram gradient boosting

Features = Any  # input of an estimator of scikit-learn: (n, F), dense or sparse


def fitted_baselines(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """The baselines of a kind of data and task; none where there is no usual one."""
    if task.kind not in ("classification", "multilabel", "regression"):
        return []
    kind = task.input.kind
    if isinstance(task.input, ImageInput):
        return _images(task, train, test)
    if kind == "text":
        return _texts(task, train, test)
    if kind == "tabular":
        return [_linear(task, train, test), _boosting(task, train, test)]
    if kind == "series" and task.kind == "classification":
        return [_neighbour(task, train, test)]
    return []


def _texts(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """TF-IDF of words and bigrams with a linear model; none where the training texts hold no word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    train_items, test_items = train.samples.items, test.samples.items
    if not isinstance(train_items, Listed) or not isinstance(test_items, Listed):
        return []
    rows, note = _sample(len(train_items), TEXT_ROWS // _models(task), "texts")
    texts = [str(train_items.values[i]) for i in rows.tolist()]
    if not any(letter.isalnum() for text in texts for letter in text):
        return []
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    predict = _fit(
        task, lambda: _linear_model(task, c=10.0), words.fit_transform(texts), train.targets(rows)
    )

    def predict_texts(indices: Indices) -> Outputs:
        return predict(words.transform([str(test_items.values[i]) for i in indices.tolist()]))

    return [Baseline(f"tf-idf + {_linear_name(task)}", predict_texts, note)]


def _images(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """A linear model and the nearest neighbours of pixels; none where no training image can be read."""
    spec = task.input
    assert isinstance(spec, ImageInput)
    rows, note = _sample(len(train), PIXEL_ROWS, "images")
    parts = [
        few_pixels(spec, train, rows[start : start + IMAGES]) for start in range(0, len(rows), IMAGES)
    ]
    targets = train.targets(np.concatenate([readable for _, readable in parts]))
    if not len(targets):
        return []
    features = np.concatenate([values for values, _ in parts])
    linear = _fit(task, lambda: _linear_model(task, c=0.01), features, targets)
    nearest = _fit(task, lambda: _neighbours(task), features, targets)
    notes = "; ".join(text for text in (pixel_note(spec), note) if text)

    def baseline(name: str, predict: Callable[[Features], Outputs]) -> Baseline:
        return Baseline(name, lambda indices: predict(few_pixels(spec, test, indices)[0]), notes)

    return [
        baseline(f"pixels + {_linear_name(task)}", linear),
        baseline(f"{NEIGHBOURS} nearest neighbours of pixels", nearest),
    ]


def _neighbours(task: TaskSpec) -> Any:
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    kind = KNeighborsRegressor if task.kind == "regression" else KNeighborsClassifier
    return kind(n_neighbors=NEIGHBOURS, algorithm="brute")


def _linear(task: TaskSpec, train: Reader, test: Reader) -> Baseline:
    """Logistic or ridge regression on the encoded columns, codes one-hot."""
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    assert isinstance(task.input, TabularInput)
    codes = list(range(task.input.features, task.input.shape[0]))
    rows, note = _sample(len(train), LINEAR_ROWS // _models(task), "rows")

    def make() -> Any:
        one_hot = (OneHotEncoder(handle_unknown="ignore"), codes)
        return make_pipeline(
            make_column_transformer(one_hot, remainder="passthrough"), _linear_model(task, c=1.0)
        )

    predict = _fit(task, make, _read(train, rows), train.targets(rows))
    return Baseline(_linear_name(task), lambda indices: predict(_read(test, indices)), note)


def _boosting(task: TaskSpec, train: Reader, test: Reader) -> Baseline:
    """Histogram gradient boosting; columns of more than 255 codes count as numbers."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    assert isinstance(task.input, TabularInput)
    codes = [
        task.input.features + i
        for i, column in enumerate(task.input.categories)
        if column.codes <= MAX_CATEGORIES
    ]
    rows, note = _sample(len(train), TREE_ROWS // _models(task), "rows")
    kind = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
    predict = _fit(
        task,
        lambda: kind(categorical_features=codes or None, random_state=0),
        _read(train, rows),
        train.targets(rows),
    )
    return Baseline(BOOSTING, lambda indices: predict(_read(test, indices)), note)


def _neighbour(task: TaskSpec, train: Reader, test: Reader) -> Baseline:
    """The class of the nearest training series: Euclidean, of scaled values padded with 0."""
    from sklearn.neighbors import KNeighborsClassifier

    longest = max(_longest(train), _longest(test))
    width = longest * task.input.shape[-1]
    rows, note = _sample(len(train), NEIGHBOUR_MULTIPLICATIONS // (width * max(len(test), 1)), "series")

    def flat(reader: Reader, indices: Indices) -> npt.NDArray[np.float32]:
        out = np.zeros((len(indices), width), dtype=np.float32)
        for start in range(0, len(indices), BATCH):
            values = reader.read(indices[start : start + BATCH])[0][0]
            values = values.reshape(len(values), -1)
            out[start : start + len(values), : values.shape[1]] = values
        return out

    predict = _fit(
        task,
        lambda: KNeighborsClassifier(n_neighbors=1, algorithm="brute"),
        flat(train, rows),
        train.targets(rows),
    )
    return Baseline("1-nearest-neighbour", lambda indices: predict(flat(test, indices)), note)


def _fit(
    task: TaskSpec, make: Callable[[], Any], features: Features, targets: Targets
) -> Callable[[Features], Outputs]:
    """Fit one estimator per column of the targets; returns the function to outputs like the model's."""
    from sklearn.exceptions import ConvergenceWarning

    if task.kind == "regression":
        mean, std = np.array([(target.mean, target.std) for target in task.targets]).T
        columns = (targets - mean) / std
    else:
        columns = targets.reshape(len(targets), -1)
    with warnings.catch_warnings():
        # A linear model that has not converged is a baseline all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [
            make().fit(features, column) if (column != column[0]).any() else column[0]
            for column in columns.T
        ]

    def predict(rows: Features) -> Outputs:
        if task.kind == "classification":
            return _log_probabilities(fitted[0], rows, task.num_classes)
        if task.kind == "multilabel":
            logs = np.stack([_log_probabilities(model, rows, 2) for model in fitted], axis=1)
            return logs[..., 1] - logs[..., 0]
        predictions = [
            model.predict(rows) if hasattr(model, "predict") else np.full(rows.shape[0], model)
            for model in fitted
        ]
        return np.stack(predictions, axis=1).astype(np.float64)

    return predict


def _log_probabilities(model: Any, rows: Features, classes: int) -> Floats:
    """Of an estimator, or of the one class of its training rows, (n, classes); 0 counts as `LEAST`."""
    probabilities = np.zeros((rows.shape[0], classes))
    if hasattr(model, "predict_proba"):
        probabilities[:, model.classes_.astype(np.int64)] = model.predict_proba(rows)
    else:
        probabilities[:, int(model)] = 1.0
    logs: Floats = np.log(np.maximum(probabilities, LEAST))
    return logs


def _linear_model(task: TaskSpec, *, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    if task.kind == "regression":
        return Ridge(alpha=1.0)
    return LogisticRegression(C=c, max_iter=1000)


def _linear_name(task: TaskSpec) -> str:
    return "ridge regression" if task.kind == "regression" else "logistic regression"


def _models(task: TaskSpec) -> int:
    return max(1, len(task.class_names) + len(task.targets))


def _sample(total: int, limit: int, what: str) -> tuple[Indices, str]:
    """All rows, or a seeded sample of them in order, and the note about it."""
    limit = max(limit, 1000)
    if total <= limit:
        return np.arange(total, dtype=np.int64), ""
    rows = np.random.default_rng(0).choice(total, limit, replace=False)
    rows.sort()
    return rows.astype(np.int64), f"fitted on {limit:,} of {total:,} training {what}, drawn at random"


def _read(reader: Reader, indices: Indices) -> npt.NDArray[Any]:
    """The first input of samples, all of them readable, in one array."""
    starts = range(0, len(indices), BATCH)
    return np.concatenate([reader.read(indices[start : start + BATCH])[0][0] for start in starts])


def _longest(reader: Reader) -> int:
    if reader.lengths is not None:
        return int(reader.lengths.max())
    return int(reader.read(np.zeros(1, dtype=np.int64))[0][0].shape[1])
