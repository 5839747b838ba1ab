"""Kinds of the records in a card: what was done to a model since it was built.

A structure is replayed on a fresh module (`dlcli.zoo.structures`), an encoding says how tensors are
stored (`dlcli.formats.encodings`), an annotation is replayed by nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from dlcli.card import Card, TransformRecord
from dlcli.errors import UsageError

# Structures
CHANNELS = "channels"
FOLD_BATCHNORM = "fold-batchnorm"
FAKE_QUANT = "fake-quant"
LORA = "lora"
ENSEMBLE = "ensemble"  # args["members"]: the "task" and the "transforms" of each
TEMPERATURE = "temperature"  # args["temperature"]: the logits are divided by it
# Encodings
HALF = "half"
GROUPS = "groups"
SPARSE = "sparse"
# Annotations of the model
MASK = "mask"  # args["weights"]: names of the weights whose zeros stay
QUANTIZE = "quantize"  # args["method"]: how an ONNX file was quantized
MERGED_LORA = "merged-lora"  # args: "rank", "alpha" of the factors that its weights took in
# Annotations of its file
STATIC_SHAPE = "static"  # args: the fixed sizes by name
PROBABILITIES = "probabilities"
EMBED_PREPROCESSING = "embed-preprocessing"
SIMPLIFY = "simplify"
ONNX_VERSIONS = "onnx-versions"  # args: "opset", "ir_version", and "runtime" where it decided them
ADOPTED = "adopted"  # args: "source", the file of another program; "sha256" of it; its "producer"
EXPORTED = "exported"  # args: "source", the name of the file it was made from; "sha256" of its bytes
UNVERIFIED = "not verified on data"  # args["reason"]: why nothing was compared on real samples
ONE_BRANCH = "one branch"  # args["lines"]: of the user's code, where tracing took the way of its example

KNOWN = frozenset(
    {
        *(CHANNELS, FOLD_BATCHNORM, FAKE_QUANT, LORA, ENSEMBLE, TEMPERATURE),
        *(HALF, GROUPS, SPARSE),
        *(MASK, QUANTIZE, MERGED_LORA),
        *(STATIC_SHAPE, PROBABILITIES, EMBED_PREPROCESSING, SIMPLIFY, ONNX_VERSIONS),
        *(ADOPTED, EXPORTED, UNVERIFIED, ONE_BRANCH),
    }
)

# With one of these a model is no float model any more.
NOT_FLOAT = frozenset({QUANTIZE, GROUPS, HALF, FAKE_QUANT})
# These describe a file, and no model that is made from it.
OF_THE_FILE = frozenset({EXPORTED, UNVERIFIED, ONE_BRANCH})


def find_record(records: Iterable[TransformRecord], kind: str) -> TransformRecord | None:
    """Return the first record of a kind, or None."""
    return next((record for record in records if record.kind == kind), None)


def check_single(card: Card, path: object, what: str) -> None:
    """Raises: UsageError for a model of several members, of which ``what`` is done to one."""
    record = find_record(card.transforms, ENSEMBLE)
    if record is not None:
        raise UsageError(
            f"{path} is the mean of {len(record.args['members'])} models, and {what} is for one",
            hint="give one of its models, such as the run of a fold: RUN/fold-1",
        )


def not_float(card: Card) -> TransformRecord | None:
    """Return the record because of which a card describes no float model, or None."""
    return next((record for record in card.transforms if record.kind in NOT_FLOAT), None)


def is_float(card: Card) -> bool:
    """Whether the weights are float32, and computed with as such."""
    return not_float(card) is None


def of_the_model(card: Card) -> tuple[TransformRecord, ...]:
    """Return the records of a card that also hold for a model made from its file."""
    return tuple(record for record in card.transforms if record.kind not in OF_THE_FILE)


def simulates_int8(card: Card) -> bool:
    """Return whether a model was trained with fake quantization, and is not the int8 file itself."""
    return find_record(card.transforms, FAKE_QUANT) is not None and (
        find_record(card.transforms, QUANTIZE) is None
    )
