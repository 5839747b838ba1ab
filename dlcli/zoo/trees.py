"""Gradient-boosted trees for tables: fitted by scikit-learn, then plain arrays of their nodes in torch.

scikit-learn's HistGradientBoosting (after LightGBM, Ke et al., NeurIPS 2017) is fitted once on the
encoded rows, with early stopping on those of val. Its nodes become tensors, so a model file needs
neither pickle nor scikit-learn, and exports as any other model does.

B rows, F + K columns, T trees, N nodes of all trees together, C codes of the widest categorical column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from dlcli.task import Frozen, TabularInput, TaskSpec
from dlcli.zoo.base import FittedModel, ModelEntry, Rows, register

MAX_CODES = 255  # of a categorical column of scikit-learn's; columns of more count as numbers
_NO_CLASS = -30.0  # the logit of a class without a training row


class ForestSize(Frozen):
    """The sizes of a forest's tensors: T, N, the largest depth, categorical splits, and C."""

    trees: int = Field(ge=0)
    nodes: int = Field(ge=0)
    depth: int = Field(ge=0)
    splits: int = Field(ge=0)
    codes: int = Field(ge=0)


class TreesArgs(Frozen):
    """As scikit-learn's HistGradientBoosting, by the same names; ``size`` follows from the fit.

    ``n_iter_no_change`` iterations without a lower loss on the val split end the fit.
    """

    max_iter: int = Field(1000, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    max_leaf_nodes: int = Field(31, ge=2)
    max_depth: int | None = Field(None, ge=1)
    min_samples_leaf: int = Field(20, ge=1)
    l2_regularization: float = Field(0.0, ge=0)
    n_iter_no_change: int = Field(20, ge=1)
    size: ForestSize | None = None


class Forest(nn.Module):
    """Trees side by side, all walked down at once: (B, F + K) to (B, outputs).

    A node sends a row to ``child_nodes`` [n, 0] where ``feature`` is at most ``threshold``, in a
    categorical split where ``left_codes`` of its code is 1, else to [n, 1]; a leaf is its own child.
    """

    roots: torch.Tensor
    output: torch.Tensor
    feature: torch.Tensor
    child_nodes: torch.Tensor
    split: torch.Tensor
    left_codes: torch.Tensor
    threshold: torch.Tensor
    value: torch.Tensor
    start: torch.Tensor

    def __init__(self, size: ForestSize, outputs: int) -> None:
        super().__init__()
        self.depth, self.codes = size.depth, size.codes
        for name, shape in {
            "roots": (size.trees,),
            "output": (size.trees,),
            "feature": (size.nodes,),
            "child_nodes": (size.nodes, 2),
            "split": (size.nodes,),  # 0: by threshold, else the row of `left_codes`, from 1
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("left_codes", torch.zeros(size.splits + 1, size.codes, dtype=torch.uint8))
        for name, shape in {
            "threshold": (size.nodes,),
            "value": (size.nodes,),
            "start": (outputs,),
        }.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape), requires_grad=False))

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """(B, F + K) -> (B, outputs)."""
        feature, split = self.feature.long(), self.split.long()
        children, left_codes = self.child_nodes.long().flatten(), self.left_codes.long().flatten()
        node = self.roots.long().expand(columns.shape[0], -1)  # (B, T)
        for _ in range(self.depth):
            x = columns.gather(1, feature[node])
            right = (x > self.threshold[node]).long()  # ONNX Runtime selects no booleans
            if self.codes:
                row = split[node]
                code = x.clamp(0, self.codes - 1).long()
                right = torch.where(row > 0, 1 - left_codes[row * self.codes + code], right)
            node = children[2 * node + right]
        every = torch.arange(len(self.start), device=columns.device)
        of_output = (self.output.long().unsqueeze(1) == every).to(columns.dtype)  # (T, outputs)
        return self.value[node] @ of_output + self.start


class Trees(nn.Module):
    """Columns (B, F + K) of `TabularInput` to (B, outputs)."""

    def __init__(self, task: TaskSpec, args: TreesArgs) -> None:
        super().__init__()
        size = args.size or ForestSize(trees=0, nodes=0, depth=0, splits=0, codes=0)
        self.forest = Forest(size, task.num_outputs)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """(B, F + K) -> (B, outputs)."""
        output: torch.Tensor = self.forest(columns)
        return output


@dataclass(frozen=True)
class _Estimator:
    """A fitted estimator of scikit-learn, and the output of each of its K trees an iteration."""

    model: Any
    outputs: tuple[int, ...]


def fit(task: TaskSpec, args: TreesArgs, train: Rows, val: Rows, seed: int) -> FittedModel:
    """Fit one estimator of all classes, or one for each label or target."""
    assert isinstance(task.input, TabularInput)
    start = np.zeros(task.num_outputs, dtype=np.float64)
    estimators: list[_Estimator] = []
    if task.kind == "classification":
        start[:] = _NO_CLASS
        model = _fit_one(task, args, train, val, seed)
        classes = [int(label) for label in model.classes_]
        # Two classes share one tree: its logit is that of the second.
        first = model._baseline_prediction.reshape(-1)
        outputs = tuple(classes[1:] if len(classes) == 2 else classes)
        start[classes] = 0
        start[list(outputs)] = first
        estimators.append(_Estimator(model, outputs))
    else:
        for i in range(task.num_outputs):
            own, other = (rows.columns_of_target(i, task) for rows in (train, val))
            if (own.targets == own.targets[0]).all():
                start[i] = (
                    own.targets[0]
                    if task.kind == "regression"
                    else (2 * own.targets[0] - 1) * -_NO_CLASS
                )
                continue
            model = _fit_one(task, args, own, other, seed)
            start[i] = float(np.asarray(model._baseline_prediction).reshape(-1)[0])
            estimators.append(_Estimator(model, (i,)))
    state, size = forest_of(estimators, task.input)
    state["start"] = start.astype(np.float32)
    iterations = max((int(one.model.n_iter_) for one in estimators), default=0)
    return FittedModel(
        args={"size": size.model_dump()},
        state={f"forest.{name}": torch.from_numpy(array) for name, array in state.items()},
        iterations=iterations,
    )


def categorical(spec: TabularInput) -> list[int]:
    """The columns whose codes are categories to the trees."""
    return [spec.features + i for i, column in enumerate(spec.categories) if column.codes <= MAX_CODES]


def _fit_one(task: TaskSpec, args: TreesArgs, train: Rows, val: Rows, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    assert isinstance(task.input, TabularInput)
    kind = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
    settings = args.model_dump(exclude={"size"})
    model = kind(
        **settings,
        categorical_features=categorical(task.input) or None,
        early_stopping=True,
        random_state=seed,
    )
    known = np.ones(len(val.targets), dtype=bool)
    if task.kind != "regression":
        known = np.isin(val.targets, np.unique(train.targets))
    return model.fit(train.columns, train.targets, X_val=val.columns[known], y_val=val.targets[known])


def forest_of(
    estimators: list[_Estimator], spec: TabularInput
) -> tuple[dict[str, npt.NDArray[Any]], ForestSize]:
    """The tensors of a `Forest`, without its start, and their sizes."""
    rows: list[npt.NDArray[np.uint8]] = []  # of left_codes
    parts: dict[str, list[npt.NDArray[Any]]] = {
        key: [] for key in ("feature", "threshold", "value", "child_nodes", "split")
    }
    roots, outputs, nodes, depth = [], [], 0, 0
    codes = max((spec.categories[i - spec.features].codes for i in categorical(spec)), default=0)
    for estimator in estimators:
        order, known = _encoding(estimator.model, spec)
        for trees in estimator.model._predictors:
            for tree, output in zip(trees, estimator.outputs, strict=True):
                table = tree.nodes
                leaf = table["is_leaf"].astype(bool)
                own = np.arange(len(table))
                left, right = (
                    np.where(leaf, own, table[side].astype(np.int64)) for side in ("left", "right")
                )
                feature = np.where(leaf, 0, order[table["feature_idx"]])
                split = np.zeros(len(table), dtype=np.int32)
                for n in np.flatnonzero(table["is_categorical"].astype(bool) & ~leaf).tolist():
                    bits = tree.raw_left_cat_bitsets[table["bitset_idx"][n]]
                    missing_left = bool(table["missing_go_to_left"][n])
                    rows.append(_left_codes(bits, known[int(feature[n])], codes, unknown=missing_left))
                    split[n] = len(rows)
                roots.append(nodes)
                outputs.append(output)
                parts["feature"].append(feature.astype(np.int32))
                parts["threshold"].append(_float32_below(np.where(leaf, 0.0, table["num_threshold"])))
                parts["value"].append(np.where(leaf, table["value"], 0.0).astype(np.float32))
                parts["child_nodes"].append(np.stack([left, right], axis=1).astype(np.int32) + nodes)
                parts["split"].append(split)
                nodes += len(table)
                depth = max(depth, int(table["depth"].max()))
    codes = codes if rows else 0
    empty = {
        "child_nodes": np.zeros((0, 2), np.int32),
        "threshold": np.zeros(0, np.float32),
        "value": np.zeros(0, np.float32),
    }
    state = {
        key: np.concatenate(arrays) if arrays else empty.get(key, np.zeros(0, np.int32))
        for key, arrays in parts.items()
    }
    state["roots"], state["output"] = np.array(roots, np.int32), np.array(outputs, np.int32)
    none = np.zeros((1, codes), dtype=np.uint8)  # row 0, of the splits by a threshold
    state["left_codes"] = np.concatenate([none, np.stack(rows)]) if rows else none
    size = ForestSize(trees=len(roots), nodes=nodes, depth=depth, splits=len(rows), codes=codes)
    return state, size


def _encoding(
    model: Any, spec: TabularInput
) -> tuple[npt.NDArray[np.int64], dict[int, npt.NDArray[Any]]]:
    """Our column of each of scikit-learn's features, and the known codes of categorical columns.

    scikit-learn puts categorical columns first and numbers the codes that occur anew.
    """
    columns = categorical(spec)
    rest = [i for i in range(spec.shape[0]) if i not in set(columns)]
    order = np.array([*columns, *rest], dtype=np.int64)
    if not columns:
        return order, {}
    encoder = model._preprocessor.named_transformers_["encoder"]
    return order, dict(zip(columns, encoder.categories_, strict=True))


def _left_codes(
    bits: npt.NDArray[np.uint32], known: npt.NDArray[Any], codes: int, *, unknown: bool
) -> npt.NDArray[np.uint8]:
    """Whether each code (C,) goes left; codes without a training row go as missing ones do."""
    left = np.full(codes, unknown, dtype=np.uint8)
    for i, code in enumerate(known.astype(np.int64).tolist()):
        left[code] = (int(bits[i // 32]) >> (i % 32)) & 1
    return left


def _float32_below(thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The largest float32 that is at most each threshold: float32 values compare as they do with it."""
    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
    below = np.nextafter(near, np.float32(-np.inf))
    return np.where(near.astype(np.float64) > thresholds, below, near).astype(np.float32)


register(
    ModelEntry(
        name="trees",
        kind="tabular",
        build=Trees,
        head=lambda module: "forest",
        tasks=("classification", "multilabel", "regression"),
        args=TreesArgs,
        fit=fit,
        recipe={"fit": {"epochs": 1}},
        search={
            "model.args.learning_rate": "0.02..0.3:log",
            "model.args.max_leaf_nodes": "7..127:log",
            "model.args.min_samples_leaf": "5..100:log",
            "model.args.l2_regularization": "0..10",
        },
        summary="gradient-boosted trees of scikit-learn, fitted once, as arrays of their nodes",
    )
)
