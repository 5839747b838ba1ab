"""What a new run is asked to do, checked before torch is imported."""

from __future__ import annotations

from dlcli.config import TrainConfig
from dlcli.data.base import DataSource
from dlcli.data.sources import open_source
from dlcli.errors import UsageError
from dlcli.zoo.names import check_spelling


def check_request(config: TrainConfig) -> None:
    """Check that a model and data are named, and the model's spelling. Raises: UsageError."""
    if config.model.name is None:
        raise UsageError("--model is missing", hint="dlcli train --model cnn --data digits")
    if config.data.data is None:
        raise UsageError(
            "--data is missing", hint=f"dlcli train --model {config.model.name} --data FOLDER"
        )
    check_spelling(config.model.name)


def open_requested(config: TrainConfig) -> DataSource:
    """Check the request and list its data. Raises: UsageError; DlcliError from the data."""
    check_request(config)
    return open_source(config.data, seed=config.fit.seed)
