"""Small tables that are installed with scikit-learn."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from dlcli.data.base import Samples, fingerprint
from dlcli.data.kinds import DataListing
from dlcli.data.sets.named import DATASETS, NamedSet
from dlcli.data.tables.rows import TableRows

# Name, loader of scikit-learn, name of the target, whether it is a number.
_SETS = (
    ("iris", "load_iris", "species", False),
    ("wine", "load_wine", "cultivar", False),
    ("breast-cancer", "load_breast_cancer", "diagnosis", False),
    ("diabetes", "load_diabetes", "progression", True),
)


def _read(root: Path, *, loader: str, target: str, is_number: bool) -> DataListing:
    """Read all rows of one set, unscaled."""
    import polars as pl
    from sklearn import datasets

    # By default the diabetes loader scales the columns over all rows.
    options: dict[str, Any] = {"scaled": False} if loader == "load_diabetes" else {}
    bunch = getattr(datasets, loader)(**options)
    values = np.asarray(bunch.data, dtype=np.float64)
    frame = pl.DataFrame(values, schema=[str(name) for name in bunch.feature_names], orient="row")
    if is_number:
        targets = np.asarray(bunch.target, dtype=np.float64)[:, None]
    else:
        targets = np.asarray(bunch.target, dtype=np.int64)
    samples = Samples(
        ids=tuple(f"all/{i}" for i in range(len(targets))), targets=targets, items=TableRows(frame)
    )
    return DataListing(
        splits={"all": samples},
        fingerprint=fingerprint([values.tobytes(), targets.tobytes()]),
        task="regression" if is_number else "classification",
        class_names=() if is_number else tuple(str(name) for name in bunch.target_names),
        target_names=(target,) if is_number else (),
    )


for _name, _loader, _target, _is_number in _SETS:
    DATASETS.register(_name)(
        NamedSet(
            read=functools.partial(_read, loader=_loader, target=_target, is_number=_is_number),
            kind="tabular",
        )
    )
