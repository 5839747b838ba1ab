"""The values of a training state that are no tensors: state.json, checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from dlcli.errors import DlcliError
from dlcli.files import read_json

_WORDS, _PYTHON_WORDS = 624, 625  # of a Mersenne Twister; Python keeps the position as the last one
_Word = Annotated[int, Field(ge=0, lt=2**32)]


class OptimizerValues(BaseModel):
    """The kind of an optimizer, and the names of its parameters in its order."""

    kind: str
    parameters: list[str]


class NumpyGenerator(BaseModel):
    """NumPy's legacy generator."""

    key: Annotated[list[_Word], Field(min_length=_WORDS, max_length=_WORDS)]
    pos: Annotated[int, Field(ge=0, le=_WORDS)]
    has_gauss: Annotated[int, Field(ge=0, le=1)]
    gauss: float


class Generators(BaseModel):
    """The generators of a process that are not torch's: `random.getstate` and NumPy's."""

    python: tuple[
        int,
        Annotated[list[_Word], Field(min_length=_PYTHON_WORDS, max_length=_PYTHON_WORDS)],
        float | None,
    ]
    numpy: NumpyGenerator


class StateValues(BaseModel):
    """The content of state.json; keys of other versions are passed over.

    ``optim`` has, by a parameter's position, what an optimizer keeps for it that is no tensor;
    ``averages`` the number of updates of each average of the weights.
    """

    progress: dict[str, Any]
    optim: dict[int, dict[str, Any]]
    optimizer: OptimizerValues | None = None  # not in the first states
    scaler: dict[str, int | float]
    averages: dict[str, Annotated[int, Field(ge=0)]] = {}
    rng: Generators  # of rank 0
    rng_of_others: list[Generators] = []

    @property
    def generators(self) -> list[Generators]:
        """The generators of every process, by rank."""
        return [self.rng, *self.rng_of_others]


def parse_values(path: Path, newest: int) -> StateValues:
    """Read a state.json of the schemas 1 to ``newest``. Raises: DlcliError."""
    values = read_json(path)
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int):
        raise DlcliError(f"{path} is damaged: its schema is {schema!r:.40}")
    if not 1 <= schema <= newest:
        raise DlcliError(
            f"{path.parent} has schema {schema!r:.40}, this dlcli reads 1 to {newest}",
            hint="it was written by a newer dlcli: install that one",
        )
    try:
        return StateValues.model_validate(values)
    except ValidationError as exc:
        raise DlcliError(f"{path} is damaged: {problems(exc)}") from exc


def problems(exc: ValidationError) -> str:
    """Return the first problem that pydantic names, with its key."""
    first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
