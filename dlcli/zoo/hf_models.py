"""``hf:NAME``: encoders of texts of the transformers library, where `bert` does not know their family.

NAME is a folder or a name of the Hugging Face hub; ``--weights`` overrules it. The configuration travels
in the card, so that model files need neither. No code of a repository is run. B texts, T tokens, D the
width. transformers is imported when a module is built: it costs seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from dlcli.data.kinds import ModelNeeds
from dlcli.data.text.pretrained import read_tokenizer
from dlcli.errors import DlcliError
from dlcli.task import TaskSpec, TextInput
from dlcli.wording import first_line
from dlcli.zoo.attention import head
from dlcli.zoo.base import FAMILIES, Family, ModelEntry, Snapshot
from dlcli.zoo.bert import RECIPE
from dlcli.zoo.heads import HeadArgs, replace_head
from dlcli.zoo.layers import mask_of, mean_steps
from dlcli.zoo.names import HF_PREFIX, wrong_kind
from dlcli.zoo.snapshots import check_vocabulary, pooling_of, read_json, read_text
from dlcli.zoo.weight_files import CONFIG, TOKENIZER
from dlcli.zoo.weights import read_state_dict

_UNLIMITED = 512  # the longest text for encoders that have no table of positions
# What config.json says besides the structure.
_NOT_STRUCTURE = (
    *("_name_or_path", "architectures", "transformers_version", "id2label", "label2id", "num_labels"),
    *("dtype", "torch_dtype", "problem_type", "task_specific_params", "_attn_implementation"),
)
_TOLERANCE = 1e-4  # of the same text with padding and without


class HfArgs(HeadArgs):
    """The structure, which the weights' own ``config`` gives.

    ``positions`` are the most tokens, ``types`` the number of token types, as far as the model has any.
    ``pooling``: the mean over all tokens, or "cls", the output of the first one. ``dropout`` is that
    before the head; the encoder has its own. ``head`` linear or mlp (hidden layers of ``hidden`` units).
    """

    config: dict[str, Any] = Field(min_length=1)
    positions: int = Field(512, ge=1)
    types: int = Field(0, ge=0)
    pooling: Literal["mean", "cls"] = "mean"
    dropout: float = Field(0.1, ge=0, lt=1)


class HfBody(nn.Module):
    """Token ids (B, T), lengths (B,) and perhaps token types (B, T) to the pooled output (B, D)."""

    def __init__(self, encoder: nn.Module, args: HfArgs) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, args.pooling
        # Some count positions by the tokens that are no padding.
        self.pad = int(args.config.get("pad_token_id") or 0)

    def forward(
        self, tokens: torch.Tensor, lengths: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T), (B,) and (B, T) -> (B, D)."""
        mask = mask_of(lengths, tokens.shape[1])
        given = {} if types is None else {"token_type_ids": types}
        tokens = torch.where(mask, tokens, self.pad)
        x = self.encoder(input_ids=tokens, attention_mask=mask.long(), **given).last_hidden_state
        return x[:, 0] if self.pooling == "cls" else mean_steps(x, lengths)


class HfEncoder(nn.Module):
    """Token ids (B, T), lengths (B,) and perhaps token types (B, T) to (B, outputs)."""

    def __init__(self, outputs: int, args: HfArgs) -> None:
        super().__init__()
        encoder = _build_encoder(args.config)
        self.body = HfBody(encoder, args)
        self.drop = nn.Dropout(args.dropout)
        self.head = head(_width(encoder), outputs)

    def forward(
        self, tokens: torch.Tensor, lengths: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, T), (B,) and (B, T) -> (B, outputs)."""
        y: torch.Tensor = self.head(self.drop(self.body(tokens, lengths, types)))
        return y


def owns(name: str) -> bool:
    """Whether a name begins with ``hf:``."""
    return name.startswith(HF_PREFIX)


def entry(name: str, kind: str) -> ModelEntry:
    """The entry of an encoder. Raises: UsageError for data other than texts."""
    if kind != "text":
        raise wrong_kind(name, kind, takes="texts")
    return ModelEntry(
        name=name,
        kind="text",
        build=build,
        head=lambda module: "head",
        args=HfArgs,
        needs=ModelNeeds(name=name),
        recipe=RECIPE,
        snapshot=read_folder,
        snapshot_from=name.removeprefix(HF_PREFIX),
        summary="an encoder of transformers",
    )


def build(task: TaskSpec, args: HfArgs) -> nn.Module:
    """The encoder with random weights and a head. Raises: DlcliError, UsageError."""
    assert isinstance(task.input, TextInput)
    module = HfEncoder(task.num_outputs, args)
    replace_head(module, "head", args, name=args.config["model_type"], dropout=args.dropout)
    if args.head == "linear" and task.kind == "embedding":
        width = module.head.in_features
        if task.num_outputs == width:
            nn.init.eye_(module.head.weight)
    return module


def read_folder(folder: Path) -> Snapshot:
    """Read a folder with config.json, tokenizer.json and tensors.

    Raises: DlcliError when one is missing or damaged, where code of the folder would have to run, and
    for what is no encoder of texts.
    """
    config = {
        key: value
        for key, value in read_json(folder / CONFIG).items()
        if key not in _NOT_STRUCTURE and value is not None
    }
    encoder = _build_encoder(config, folder / CONFIG)
    state = _load(encoder, folder)
    positions, types = _positions(encoder, config), int(config.get("type_vocab_size") or 0)
    own = {"config": config, "positions": positions, "types": types, "pooling": pooling_of(folder)}
    args = HfArgs.model_validate(own)
    text = read_tokenizer(read_text(folder / TOKENIZER), folder / TOKENIZER, longest=positions)
    text = text.model_copy(update={"token_types": types > 1})
    check_vocabulary(text, encoder.get_input_embeddings().num_embeddings, folder)
    _try(encoder, args, text, folder)
    size = {"model": {"embedding_size": _width(encoder)}}
    return Snapshot(
        args=own,
        state={f"body.encoder.{name}": tensor for name, tensor in state.items()},
        text=text,
        recipes={"embedding": size},
    )


def _build_encoder(config: Mapping[str, Any], source: object = "the card") -> Any:
    """The encoder of a configuration, with random weights and without a pooler.

    Raises: DlcliError for an architecture that needs code of its repository, is not known, or encodes no
    texts alone.
    """
    transformers = _transformers()
    name = str(config.get("model_type"))
    if "auto_map" in config:
        raise DlcliError(
            f"{source}: {name} comes with code of its own, which is not run (trust_remote_code)",
            hint="take an architecture that transformers itself has",
        )
    if name not in transformers.CONFIG_MAPPING:
        raise DlcliError(
            f"{source}: transformers {transformers.__version__} does not know the architecture {name}",
            hint="pip install --upgrade transformers",
        )
    try:
        settings = transformers.CONFIG_MAPPING[name].from_dict(dict(config))
        if getattr(settings, "is_encoder_decoder", False):
            raise ValueError("it is an encoder and a decoder")
        encoder = transformers.AutoModel.from_config(settings, dtype=torch.float32)
    except Exception as exc:  # what its classes raise is not documented
        raise DlcliError(
            f"{source}: {name} cannot be built as an encoder of texts: {first_line(exc)}"
        ) from exc
    if isinstance(getattr(encoder, "pooler", None), nn.Module):
        encoder.pooler = None  # pooling is the mean, so its parameters would have no gradient
    return encoder


def _load(encoder: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder by the encoder's names, as transformers itself renames them.

    Raises: DlcliError naming a tensor of the encoder that the file lacks.
    """
    read_state_dict(folder)  # nothing but tensors, and none of them damaged
    transformers = _transformers()
    with _quiet(transformers):
        loaded, facts = transformers.AutoModel.from_pretrained(
            folder,
            config=encoder.config,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
        )
    state: dict[str, torch.Tensor] = loaded.state_dict()
    expected = encoder.state_dict()
    mismatched = {str(row[0]) for row in facts["mismatched_keys"]}
    bad = sorted((set(facts["missing_keys"]) | mismatched) & set(expected))
    if bad:
        form = "of another shape" if bad[0] in mismatched else "missing"
        raise DlcliError(
            f"{folder}: its {CONFIG} does not fit its tensors: {bad[0]} is {form}",
            hint="download the snapshot again",
        )
    encoder.load_state_dict({name: state[name] for name in expected})
    return {name: state[name] for name in expected}


def _positions(encoder: nn.Module, config: Mapping[str, Any]) -> int:
    """The most tokens of a text."""
    rows = int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    if rows < 1:
        return _UNLIMITED
    for part in encoder.modules():
        # RoBERTa's positions begin after the padding token's id.
        if isinstance(part, nn.Embedding) and part.num_embeddings == rows and part.padding_idx:
            return rows - part.padding_idx - 1
    return rows


def _try(encoder: nn.Module, args: HfArgs, text: TextInput, folder: Path) -> None:
    """Encode a text alone, next to a longer one, and one of all positions.

    Raises: DlcliError where the model takes no texts, or padding changes its outputs.
    """
    body = HfBody(encoder.eval(), args)
    longest = torch.randint(
        text.vocab_size, (1, args.positions), generator=torch.Generator().manual_seed(0)
    )
    tokens = longest[:, : min(8, args.positions)].repeat(2, 1)
    lengths = torch.tensor([tokens.shape[1], max(1, tokens.shape[1] // 2)])
    name = args.config["model_type"]
    with torch.no_grad():
        try:
            together = body(tokens, lengths)[1]
            alone = body(tokens[1:, : int(lengths[1])], lengths[1:])[0]
            body(longest, torch.tensor([args.positions]))
        except Exception as exc:  # of any architecture
            raise DlcliError(
                f"{folder}: {name} cannot be used as an encoder of texts: {first_line(exc)}"
            ) from exc
    if float((together - alone).abs().max()) > _TOLERANCE * max(1.0, float(alone.abs().max())):
        raise DlcliError(
            f"{folder}: the outputs of {name} for a text depend on the padding after it",
            hint="dlcli computes texts of several lengths in one batch, so it cannot use this model",
        )


def _width(encoder: Any) -> int:
    return int(encoder.config.hidden_size)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the bars and the report of loading: what does not fit is an error here."""
    log = transformers.utils.logging
    level = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as exc:
        if exc.name != "transformers":
            raise
        raise DlcliError(
            "transformers is not installed, and names with hf: are its models",
            hint='pip install "dlcli[transformers]"; the families of bert need it not: --model bert',
        ) from exc
    return transformers


FAMILIES.append(Family(owns, entry, lambda: [], "transformers", kind="text"))
