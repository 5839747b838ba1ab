"""Tiny published text encoders: folders as the hub has them, and their outputs by torch's layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

DIM, FF, HEADS, LAYERS, POSITIONS = 16, 24, 2, 2, 12
WORDS = ("who", "when", "where", "is", "was", "the", "king", "city", "year", "##s", "born", "?")
FAMILIES = ("bert", "roberta", "distilbert")

_BERT_CONFIG = {
    "hidden_size": DIM,
    "intermediate_size": FF,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
}
_DISTILBERT_CONFIG = {"dim": DIM, "hidden_dim": FF, "n_heads": HEADS, "n_layers": LAYERS}
# The parts of a block: query, key, value, output, norm, first and second layer, norm.
_BERT_BLOCK = (
    *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)
_DISTILBERT_BLOCK = (
    *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
)


def tokenizer(family: str = "bert") -> Tokenizer:
    """A WordPiece tokenizer of `WORDS`; the special tokens of RoBERTa have its ids and names."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    names = special if family != "roberta" else ("<s>", "<pad>", "</s>", "<unk>")
    cls, sep, unknown = ("[CLS]", "[SEP]", "[UNK]") if names == special else ("<s>", "</s>", "<unk>")
    vocabulary = {token: i for i, token in enumerate((*names, *WORDS))}
    result = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    result.normalizer = normalizers.BertNormalizer(lowercase=True)
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.add_special_tokens(list(names))
    result.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    # What published files have, and no other data needs.
    result.enable_truncation(4)
    result.enable_padding(length=4)
    return result


def block_names(family: str, layer: int) -> list[str]:
    """The names of a block's parts, in the order of `_BERT_BLOCK`."""
    parts = _DISTILBERT_BLOCK if family == "distilbert" else _BERT_BLOCK
    holder = "transformer.layer" if family == "distilbert" else "encoder.layer"
    return [f"{holder}.{layer}.{part}" for part in parts]


def tensors(family: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors by the family's names, without its prefix."""
    rng = torch.Generator().manual_seed(seed)
    rows = len(WORDS) + 4
    offset = 2 if family == "roberta" else 0
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (rows, DIM),
        "embeddings.position_embeddings.weight": (POSITIONS + offset, DIM),
    }
    if family != "distilbert":
        shapes["embeddings.token_type_embeddings.weight"] = (1 if offset else 2, DIM)
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        *linear, norm1, first, second, norm2 = block_names(family, layer)
        norms += [norm1, norm2]
        widths = {**dict.fromkeys(linear, (DIM, DIM)), first: (FF, DIM), second: (DIM, FF)}
        for name, shape in widths.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    out = {name: torch.randn(shape, generator=rng) * 0.3 for name, shape in shapes.items()}
    for name in norms:
        out[f"{name}.weight"] = 1 + torch.randn(DIM, generator=rng) * 0.1
        out[f"{name}.bias"] = torch.randn(DIM, generator=rng) * 0.1
    return out


def write_snapshot(folder: Path, family: str = "bert", **config: Any) -> Path:
    """A folder with config.json, tokenizer.json and model.safetensors; ``config`` overrides settings."""
    folder.mkdir(parents=True, exist_ok=True)
    own = _DISTILBERT_CONFIG if family == "distilbert" else _BERT_CONFIG
    offset = 2 if family == "roberta" else 0
    settings: dict[str, Any] = {
        "model_type": family,
        "vocab_size": len(WORDS) + 4,
        "max_position_embeddings": POSITIONS + offset,
        "pad_token_id": 1 if offset else 0,
        **({} if family == "distilbert" else {"type_vocab_size": 1 if offset else 2}),
        **own,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer(family).save(str(folder / "tokenizer.json"))
    state = {f"{family}.{name}": tensor for name, tensor in tensors(family).items()}
    save_file(state, folder / "model.safetensors")
    return folder


def shard(folder: Path, *names: str) -> dict[str, str]:
    """Divide a snapshot's tensors among files, and write their index; returns the file of each."""
    single = folder / "model.safetensors"
    state = load_file(single)
    single.unlink()
    parts = {name: dict(list(state.items())[i :: len(names)]) for i, name in enumerate(names)}
    for name, part in parts.items():
        save_file(part, folder / name)
    places = {tensor: name for name, part in parts.items() for tensor in part}
    write_index(folder, places)
    return places


def write_index(folder: Path, places: Any) -> None:
    """Write the index of tensors and their files."""
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_questions(path: Path, each: int = 12) -> Path:
    """A table of questions of three classes, told apart by their first words."""
    rest = ("is the king born ?", "was the city", "is the citys year", "was the kings born year ?")
    firsts = {"who": "person", "when": "time", "where": "place"}
    rows = [
        f"{word} {rest[i % len(rest)]},{label}" for i in range(each) for word, label in firsts.items()
    ]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


def write_pairs(path: Path, each: int = 8) -> Path:
    """A table of two questions each, and whether they begin with the same word."""
    words = ("who", "when", "where")
    rows = [
        f"{first} is the king {i} ?,{second} was the year,{'yes' if first == second else 'no'}"
        for i in range(each)
        for first in words
        for second in (first, words[(words.index(first) + 1) % 3])
    ]
    path.write_text("\n".join(["sentence1,sentence2,label", *rows]) + "\n")
    return path


def expected_output(family: str, ids: list[int], types: list[int] | None = None) -> torch.Tensor:
    """The outputs (T, D) of `tensors` for one text or pair, by torch's own encoder layers."""
    state = tensors(family)

    def row(name: str, rows: torch.Tensor | int) -> torch.Tensor:
        return state[f"embeddings.{name}_embeddings.weight"][rows]

    offset = 2 if family == "roberta" else 0
    x = row("word", torch.tensor(ids)) + row("position", torch.arange(len(ids)) + offset)
    if family != "distilbert":
        x = x + row("token_type", torch.tensor(types or [0] * len(ids)))
    eps = 1e-12 if family == "distilbert" else 1e-5
    norm = [state[f"embeddings.LayerNorm.{leaf}"] for leaf in ("weight", "bias")]
    x = nn.functional.layer_norm(x, (DIM,), *norm, eps)[None]
    for number in range(LAYERS):
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, FF, 0.0, nn.functional.gelu, layer_norm_eps=eps, batch_first=True
        )
        query, key, value, out, norm1, first, second, norm2 = block_names(family, number)
        own = {
            "self_attn.out_proj": out,
            "norm1": norm1,
            "linear1": first,
            "linear2": second,
            "norm2": norm2,
        }
        values = {
            f"{name}.{leaf}": state[f"{part}.{leaf}"]
            for name, part in own.items()
            for leaf in ("weight", "bias")
        }
        for leaf in ("weight", "bias"):
            values[f"self_attn.in_proj_{leaf}"] = torch.cat(
                [state[f"{part}.{leaf}"] for part in (query, key, value)]
            )
        layer.load_state_dict(values)
        x = layer.eval()(x)
    return x[0].detach()
