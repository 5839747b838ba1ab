"""Baselines that scikit-learn fits on the training split, by option.

Settings are the usual ones and the same for all data; nothing is tuned. Where a fit or a search would
take minutes it gets a seeded part of the training rows, and says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dlcli.data.base import Indices, Listed, Reader, Targets
from dlcli.evaluation.baselines.base import Baseline
from dlcli.evaluation.metrics.base import Floats, Outputs
from dlcli.task import TabularInput, TaskSpec

# Training rows times models fitted (classes, labels or targets).
TEXT_ROWS = 1_000_000
LINEAR_ROWS = 1_000_000
TREE_ROWS = 300_000
# Multiplications of a nearest-neighbour search, half a minute or so.
NEIGHBOUR_WORK = 300_000_000_000
READ = 4096
BINS = 255  # histogram gradient boosting's categories at most

Features = Any  # what an estimator of scikit-learn takes: (n, F), dense or sparse


def fitted_baselines(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """The baselines for this kind of data and task; none where there is no usual one."""
    if task.kind not in ("classification", "multilabel", "regression"):
        return []
    kind = task.input.kind
    if kind == "text":
        return _texts(task, train, test)
    if kind == "tabular":
        return [_linear(task, train, test), _boosting(task, train, test)]
    if kind == "series" and task.kind == "classification":
        return [_neighbour(task, train, test)]
    return []


def _texts(task: TaskSpec, train: Reader, test: Reader) -> list[Baseline]:
    """TF-IDF of words and word pairs, and a linear model. Nothing where training texts hold no word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    known, asked = train.samples.items, test.samples.items
    if not isinstance(known, Listed) or not isinstance(asked, Listed):
        return []
    rows, note = _some(len(known), TEXT_ROWS // _models(task), "texts")
    texts = [str(known.values[i]) for i in rows.tolist()]
    if not any(letter.isalnum() for text in texts for letter in text):
        return []
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    answer = _fit(
        task, lambda: _linear_model(task, c=10.0), words.fit_transform(texts), train.targets(rows)
    )

    def answers(indices: Indices) -> Outputs:
        return answer(words.transform([str(asked.values[i]) for i in indices.tolist()]))

    return [Baseline(f"tf-idf + {_linear_name(task)}", answers, note)]


def _linear(task: TaskSpec, train: Reader, test: Reader) -> Baseline:
    """Logistic or ridge regression on the columns as the model gets them, codes one-hot."""
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    assert isinstance(task.input, TabularInput)
    codes = list(range(task.input.features, task.input.shape[0]))
    rows, note = _some(len(train), LINEAR_ROWS // _models(task), "rows")

    def make() -> Any:
        one_hot = (OneHotEncoder(handle_unknown="ignore"), codes)
        return make_pipeline(
            make_column_transformer(one_hot, remainder="passthrough"), _linear_model(task, c=1.0)
        )

    answer = _fit(task, make, _read(train, rows), train.targets(rows))
    return Baseline(_linear_name(task), lambda indices: answer(_read(test, indices)), note)


def _boosting(task: TaskSpec, train: Reader, test: Reader) -> Baseline:
    """Histogram gradient boosting; categories of more than 255 codes are taken as numbers."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    assert isinstance(task.input, TabularInput)
    codes = [
        task.input.features + i for i, column in enumerate(task.input.categories) if column.codes <= BINS
    ]
    rows, note = _some(len(train), TREE_ROWS // _models(task), "rows")
    kind = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
    answer = _fit(
        task,
        lambda: kind(categorical_features=codes or None, random_state=0),
        _read(train, rows),
        train.targets(rows),
    )
    return Baseline("gradient boosting", lambda indices: answer(_read(test, indices)), note)


def _neighbour(task: TaskSpec, train: Reader, test: Reader) -> Baseline:
    """The class of the nearest training series: Euclidean, of scaled values padded with 0."""
    from sklearn.neighbors import KNeighborsClassifier

    longest = max(_longest(train), _longest(test))
    width = longest * task.input.shape[-1]
    rows, note = _some(len(train), NEIGHBOUR_WORK // (width * max(len(test), 1)), "series")

    def flat(reader: Reader, indices: Indices) -> npt.NDArray[np.float32]:
        out = np.zeros((len(indices), width), dtype=np.float32)
        for start in range(0, len(indices), READ):
            values = reader.read(indices[start : start + READ])[0][0]
            values = values.reshape(len(values), -1)
            out[start : start + len(values), : values.shape[1]] = values
        return out

    answer = _fit(
        task,
        lambda: KNeighborsClassifier(n_neighbors=1, algorithm="brute"),
        flat(train, rows),
        train.targets(rows),
    )
    return Baseline("1-nearest-neighbour", lambda indices: answer(flat(test, indices)), note)


def _fit(
    task: TaskSpec, make: Callable[[], Any], features: Features, targets: Targets
) -> Callable[[Features], Outputs]:
    """Fit one estimator for each column of the targets; what they answer, as the model would."""
    from sklearn.exceptions import ConvergenceWarning

    if task.kind == "regression":
        mean, std = np.array([(target.mean, target.std) for target in task.targets]).T
        columns = (targets - mean) / std
    else:
        columns = targets.reshape(len(targets), -1)
    with warnings.catch_warnings():
        # A linear model that stopped after many steps is a baseline all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = [
            make().fit(features, column) if (column != column[0]).any() else column[0]
            for column in columns.T
        ]

    def answers(asked: Features) -> Outputs:
        found = [
            model.predict(asked) if hasattr(model, "predict") else np.full(asked.shape[0], model)
            for model in fitted
        ]
        values: Floats = np.stack(found, axis=1).astype(np.float64)
        if task.kind == "classification":
            return np.eye(task.num_classes)[values[:, 0].astype(np.int64)]
        return values if task.kind == "regression" else 2 * values - 1

    return answers


def _linear_model(task: TaskSpec, *, c: float) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    if task.kind == "regression":
        return Ridge(alpha=1.0)
    return LogisticRegression(C=c, max_iter=1000)


def _linear_name(task: TaskSpec) -> str:
    return "ridge regression" if task.kind == "regression" else "logistic regression"


def _models(task: TaskSpec) -> int:
    return max(1, len(task.class_names) + len(task.targets))


def _some(total: int, limit: int, what: str) -> tuple[Indices, str]:
    """All rows, or a seeded part of them in order, and the sentence that says so."""
    limit = max(limit, 1000)
    if total <= limit:
        return np.arange(total, dtype=np.int64), ""
    part = np.random.default_rng(0).choice(total, limit, replace=False)
    part.sort()
    return part.astype(np.int64), f"fitted on {limit:,} of {total:,} training {what}, drawn at random"


def _read(reader: Reader, indices: Indices) -> npt.NDArray[Any]:
    """The first input of samples that can all be read, in one array."""
    starts = range(0, len(indices), READ)
    return np.concatenate([reader.read(indices[start : start + READ])[0][0] for start in starts])


def _longest(reader: Reader) -> int:
    if reader.lengths is not None:
        return int(reader.lengths.max())
    return int(reader.read(np.zeros(1, dtype=np.int64))[0][0].shape[1])
