"""The models of a server: their names, their versions, and how each is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dlcli import transforms
from dlcli.errors import UsageError
from dlcli.runs.folder import artifact_name
from dlcli.serve.batching import MicroBatcher
from dlcli.serve.errors import RequestError
from dlcli.serve.tensors import Declared, declared_inputs, declared_outputs

if TYPE_CHECKING:
    from dlcli.config import ServeConfig
    from dlcli.formats.base import Artifact, ModelFile
    from dlcli.task import TaskSpec

# (model, version, samples of a call, requests in it, seconds of the call)
Observe = Callable[[str, str, int, int, float], None]


@dataclass(frozen=True)
class ServedModel:
    """An opened model and its batches. It does not change: another file is another object."""

    name: str
    version: str
    artifact: Artifact
    batches: MicroBatcher

    @property
    def key(self) -> tuple[str, str]:
        """Its name and version."""
        return self.name, self.version

    @property
    def task(self) -> TaskSpec:
        """The task of its card."""
        return self.artifact.card.task

    @cached_property
    def inputs(self) -> tuple[Declared, ...]:
        """Its inputs in the Open Inference Protocol."""
        return declared_inputs(self.task)

    @cached_property
    def outputs(self) -> tuple[Declared, ...]:
        """Its outputs in the Open Inference Protocol."""
        return declared_outputs(self.task)

    @cached_property
    def sha256(self) -> str:
        """The digest of its file when it was opened."""
        return self.artifact.file.sha256

    def metadata(self, versions: Sequence[str]) -> dict[str, Any]:
        """The reply to ``/v2/models/NAME``."""
        card = self.artifact.card
        calibrated = any(record.kind == transforms.TEMPERATURE for record in card.transforms)
        return {
            "name": self.name,
            "versions": list(versions),
            "platform": f"dlcli_{self.artifact.format.name}",
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
            "parameters": {
                "task": card.task.kind,
                "input": card.task.input.kind,
                "model": card.model.name,
                "params": card.params,
                "sha256": self.sha256,
                "calibrated": calibrated,
                **({"classes": list(card.task.class_names)} if card.task.class_names else {}),
                **({"targets": [t.name for t in card.task.targets]} if card.task.targets else {}),
            },
        }


@dataclass
class Models:
    """The served models, by name and version; one that is alone needs no name in requests."""

    served: dict[str, dict[str, ServedModel]] = field(default_factory=dict)

    def add(self, model: ServedModel) -> None:
        """Serve a model, in place of one of its name and version."""
        self.served.setdefault(model.name, {})[model.version] = model

    def find(self, name: str | None = None, version: str | None = None) -> ServedModel:
        """The model of a name, of its newest version unless one is named.

        Raises: RequestError: 404 for names that there are not, 400 without one where there are several.
        """
        if name is None and len(self.served) > 1:
            hint = f"/predict?model={quote(next(iter(self.served)))}"
            raise RequestError(400, f"name one of the models: {self.names}", hint=hint)
        versions = self.served.get(next(iter(self.served)) if name is None else name)
        if versions is None:
            raise RequestError(404, f"no model is called {name!r}", hint=f"there is {self.names}")
        model = versions.get(max(versions, key=int) if version is None else version)
        if model is None:
            known = ", ".join(versions)
            raise RequestError(404, f"{name} has no version {version!r}", hint=f"it has {known}")
        return model

    @property
    def names(self) -> str:
        """The names of all models, in words."""
        return ", ".join(self.served)

    def all(self) -> list[ServedModel]:
        """Every version of every model."""
        return [model for versions in self.served.values() for model in versions.values()]

    def check_confidence(self, least: float | None) -> None:
        """Raises: UsageError where no model could abstain by its probabilities."""
        if least is not None and not any(m.task.kind == "classification" for m in self.all()):
            raise UsageError(
                f"--min-confidence {least} is for classifiers, and none of {self.names} is one",
                hint="leave it out",
            )

    def close(self) -> None:
        """Compute what waits, and end the threads."""
        for model in self.all():
            model.batches.close()


def names_of(paths: Sequence[Path], given: Sequence[str]) -> list[tuple[str, str]]:
    """The name and version of each model: those ``given``, else of its file; 1, 2 ... of one name.

    Raises: UsageError where there are not as many names as models.
    """
    if given and len(given) != len(paths):
        raise UsageError(
            f"--model-name is given {len(given)} times for {len(paths)} models",
            hint="give one for each artifact, in their order, or none",
        )
    names = list(given) or [artifact_name(path) for path in paths]
    return [(name, str(names[: at + 1].count(name))) for at, name in enumerate(names)]


def open_model(
    file: ModelFile,
    name: str,
    version: str,
    config: ServeConfig,
    *,
    trust: bool,
    observe: Observe = lambda name, version, samples, requests, seconds: None,
) -> ServedModel:
    """Open a model file and run it once, so that the first request does not wait for its set-up.

    Raises: DlcliError, UsageError as `open_artifact`.
    """
    from dlcli.data.prepare import random_inputs
    from dlcli.evaluation.evaluate import default_batch_size
    from dlcli.formats.base import open_artifact

    artifact = open_artifact(file, device=config.device, threads=config.threads, trust=trust)
    task = artifact.card.task
    artifact.predict(random_inputs(task, 1))
    batches = MicroBatcher(
        artifact.predict,
        task,
        max_batch=config.max_batch or default_batch_size(task),
        max_wait_s=config.max_wait_ms / 1000,
        observe=lambda samples, requests, seconds: observe(name, version, samples, requests, seconds),
    )
    model = ServedModel(name, version, artifact, batches)
    _ = model.sha256  # of the file as it was opened
    return model
