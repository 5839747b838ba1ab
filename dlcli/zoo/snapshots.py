"""Folders of published text encoders, as their hub has them: a configuration, a tokenizer, tensors.

The families' settings and names of tensors become the arguments and names of the zoo's `bert`. Nothing
in such a folder is run: two files are JSON, and the tensors are safetensors, or a .bin of tensors alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.data.text.pretrained import read_tokenizer
from dlcli.errors import DlcliError
from dlcli.task import TextInput
from dlcli.zoo.base import Snapshot
from dlcli.zoo.matching import StateDict
from dlcli.zoo.names import HF_PREFIX
from dlcli.zoo.weight_files import CONFIG, POOLING, TOKENIZER
from dlcli.zoo.weights import read_state_dict

_DESCRIPTION = f"a hub snapshot has {CONFIG}, {TOKENIZER} and model.safetensors"
_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}
# Rows of the embedding above the tokenizer's ids: tables are padded to a multiple of it.
_PADDED_TO = 128

_EMBEDDINGS = {
    "embeddings.word_embeddings.": "body.tokens.",
    "embeddings.position_embeddings.": "body.positions.table.",
    "embeddings.token_type_embeddings.": "body.types.",
    "embeddings.LayerNorm.": "body.norm.",
}
_BERT_BLOCK = {
    "attention.self.query.": "attention.query.",
    "attention.self.key.": "attention.key.",
    "attention.self.value.": "attention.value.",
    "attention.output.dense.": "attention.out.",
    "attention.output.LayerNorm.": "norm1.norm.",
    "intermediate.dense.": "feed.0.",
    "output.dense.": "feed.3.",
    "output.LayerNorm.": "norm2.norm.",
}
_DISTILBERT_BLOCK = {
    "attention.q_lin.": "attention.query.",
    "attention.k_lin.": "attention.key.",
    "attention.v_lin.": "attention.value.",
    "attention.out_lin.": "attention.out.",
    "sa_layer_norm.": "norm1.norm.",
    "ffn.lin1.": "feed.0.",
    "ffn.lin2.": "feed.3.",
    "output_layer_norm.": "norm2.norm.",
}


@dataclass(frozen=True)
class _Layout:
    """How one family writes its settings and tensors.

    ``keys`` are its settings by our arguments. ``block`` are the parts of a block, below ``blocks``.
    ``padded_positions``: the position embedding begins with rows up to the padding token's id.
    """

    prefix: str
    keys: Mapping[str, str]
    blocks: str
    block: Mapping[str, str]
    padded_positions: bool = False


_BERT_KEYS = {
    "vocab": "vocab_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "dim": "hidden_size",
    "ff": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "activation": "hidden_act",
}
_DISTILBERT_KEYS = {
    "vocab": "vocab_size",
    "layers": "n_layers",
    "heads": "n_heads",
    "dim": "dim",
    "ff": "hidden_dim",
    "positions": "max_position_embeddings",
    "dropout": "dropout",
    "activation": "activation",
}
_BERT = _Layout("bert.", _BERT_KEYS, "encoder.layer", _BERT_BLOCK)
_ROBERTA = _Layout("roberta.", _BERT_KEYS, "encoder.layer", _BERT_BLOCK, padded_positions=True)
_DISTILBERT = _Layout("distilbert.", _DISTILBERT_KEYS, "transformer.layer", _DISTILBERT_BLOCK)
# By the model_type of config.json; the last two are RoBERTa with other vocabularies.
_LAYOUTS = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "distilbert": _DISTILBERT,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
}
# Their libraries' defaults, which files leave out.
_DEFAULTS = {"norm_eps": 1e-12, "dropout": 0.1, "activation": "gelu"}


def read_snapshot(folder: Path) -> Snapshot:
    """Read a folder with config.json, tokenizer.json and model.safetensors.

    Raises: DlcliError when one is missing or damaged, for an architecture that is not known, and where
    tokenizer and embedding do not belong together.
    """
    config = read_json(folder / CONFIG)
    layout = _layout(config, folder)
    args = _arguments(config, layout, folder / CONFIG)
    first_row = 0
    if layout.padded_positions:
        first_row = int(config.get("pad_token_id", 1)) + 1
        args["positions"] -= first_row
    _check_sizes(args, layout, folder / CONFIG)
    state = _rename(read_state_dict(folder), layout, folder)
    _check_layers(args["layers"], state, folder)
    positions = "body.positions.table.weight"
    if positions in state:
        state[positions] = state[positions][first_row:]
    args["pooling"] = pooling_of(folder)
    text = read_tokenizer(
        read_text(folder / TOKENIZER), folder / TOKENIZER, longest=int(args["positions"])
    )
    text = text.model_copy(update={"token_types": int(args["types"]) > 1})
    check_vocabulary(text, len(state.get("body.tokens.weight", ())), folder)
    size = {"model": {"embedding_size": args["dim"]}}
    return Snapshot(args=args, state=state, text=text, recipes={"embedding": size})


def _layout(config: Mapping[str, Any], folder: Path) -> _Layout:
    """Raises: DlcliError for another architecture."""
    name = str(config.get("model_type"))
    layout = _LAYOUTS.get(name)
    if layout is None:
        raise DlcliError(
            f"{folder / CONFIG}: the architecture {name} is not known",
            hint=f"bert reads {', '.join(_LAYOUTS)}; for others --model {HF_PREFIX}{folder}",
        )
    variants = {"position_embedding_type": (None, "absolute"), "is_decoder": (None, False)}
    for key, known in variants.items():
        if config.get(key) not in known:
            raise DlcliError(
                f"{folder / CONFIG}: {key} = {config[key]} is not known", hint=f"only {known[1]} is"
            )
    return layout


def _arguments(config: Mapping[str, Any], layout: _Layout, path: Path) -> dict[str, Any]:
    """Our arguments of a family's settings. Raises: DlcliError for one that is missing or unknown."""
    args = dict(_DEFAULTS, types=0)
    args |= {name: config[key] for name, key in layout.keys.items() if config.get(key) is not None}
    missing = [key for name, key in layout.keys.items() if name not in args]
    if missing:
        raise DlcliError(f"{path} has no {missing[0]}", hint="is it the configuration of the model?")
    activation = _ACTIVATIONS.get(str(args["activation"]))
    if activation is None:
        raise DlcliError(
            f"{path}: the activation {args['activation']} is not known",
            hint=f"known are {', '.join(_ACTIVATIONS)}",
        )
    return {**args, "activation": activation}


def _check_sizes(args: Mapping[str, Any], layout: _Layout, path: Path) -> None:
    """Raises: DlcliError for sizes that no model can have."""
    for name in ("vocab", "layers", "heads", "dim", "ff", "positions"):
        if not isinstance(args[name], int) or args[name] < 1:
            hint = "is it the configuration of the model?"
            raise DlcliError(f"{path}: {layout.keys[name]} leaves {args[name]!r} {name}", hint=hint)
    if args["dim"] % (2 * args["heads"]):
        raise DlcliError(
            f"{path}: a width of {args['dim']:,} is no multiple of twice the {args['heads']} heads"
        )


def _check_layers(layers: int, state: StateDict, folder: Path) -> None:
    """Raises: DlcliError for another number of layers than the tensors have, before these are built."""
    blocks = {name.split(".")[3] for name in state if name.startswith("body.encoder.blocks.")}
    if state and len(blocks) != layers:
        raise DlcliError(
            f"{folder}: its {CONFIG} does not fit its tensors: it names {layers:,} layers, and they are "
            f"of {len(blocks):,}",
            hint="download the snapshot again",
        )


def pooling_of(folder: Path) -> str:
    """The pooling that a sentence encoder was trained with; the mean of all others."""
    path = folder / POOLING
    cls = path.is_file() and read_json(path).get("pooling_mode_cls_token")
    return "cls" if cls else "mean"


def _rename(state: StateDict, layout: _Layout, folder: Path) -> StateDict:
    """The encoder's tensors by our names; poolers and heads of other tasks are left out.

    Raises: DlcliError naming a tensor of the encoder that has no place in ours.
    """
    block = re.compile(re.escape(layout.blocks) + r"\.(\d+)\.(.+\.)(\w+)")
    old_norms = {"gamma": "weight", "beta": "bias"}  # TensorFlow's names, in the oldest files
    out: StateDict = {}
    for name, tensor in state.items():
        short = name.removeprefix(layout.prefix)
        part, _, leaf = short.rpartition(".")
        match = block.fullmatch(short)
        if match is not None and match[2] in layout.block:
            own = f"body.encoder.blocks.{match[1]}.{layout.block[match[2]]}"
        else:
            own = _EMBEDDINGS.get(f"{part}.", "")
        if leaf == "position_ids":  # the numbers 0, 1, 2, ...
            continue
        if own:
            out[own + old_norms.get(leaf, leaf)] = tensor
        elif short.startswith(("embeddings.", f"{layout.blocks}.")):
            raise DlcliError(f"{folder}: its tensor {name} has no place in a model of its family")
    return out


def check_vocabulary(text: TextInput, rows: int, folder: Path) -> None:
    """Raises: DlcliError where an embedding of ``rows`` is not that of the tokenizer."""
    if not text.vocab_size <= rows < text.vocab_size + _PADDED_TO:
        raise DlcliError(
            f"{folder}: its tokenizer has {text.vocab_size:,} tokens and its embedding {rows:,} rows",
            hint="they are of different models; take both from one snapshot",
        )


def read_text(path: Path) -> str:
    """The text of a file of a snapshot. Raises: DlcliError saying what such a folder has."""
    if not path.is_file():
        hint = _DESCRIPTION
        if path.name == TOKENIZER and path.parent.is_dir():
            hint += "; AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER) writes the second"
        raise DlcliError(f"{path.parent} has no {path.name}", hint=hint)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise DlcliError(f"cannot read {path}: {exc}") from exc


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file of a snapshot. Raises: DlcliError."""
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as exc:
        raise DlcliError(f"{path} is damaged: {exc}") from exc
    if not isinstance(values, dict):
        raise DlcliError(f"{path} is damaged: it is no JSON object")
    return values
