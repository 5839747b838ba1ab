"""Settings: layers, bounds, and the texts of refusals."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcli import config
from dlcli.config import EvalConfig, TrainConfig
from dlcli.errors import UsageError
from dlcli.settings import dump_yaml, fields_of, load_yaml, merge, nested, parse_set, validate


def test_defaults_survive_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config = validate(TrainConfig, {"model": {"name": "cnn", "args": {"widths": [4, 8]}}})
    path.write_text(dump_yaml(config))
    assert validate(TrainConfig, load_yaml(path)) == config


@given(st.floats(min_value=1e-12, max_value=1.0))
def test_a_learning_rate_in_any_notation_is_a_number(lr: float) -> None:
    # PyYAML reads 1e-4 (without a dot) as a string.
    assert validate(TrainConfig, parse_set(f"optim.lr={lr!r}")).optim.lr == lr
    assert validate(TrainConfig, parse_set("optim.lr=1e-4")).optim.lr == 1e-4


def test_the_stronger_layer_wins_key_by_key() -> None:
    low = {"optim": {"lr": 1, "warmup": 0.1}, "fit": {"epochs": 3}}
    assert merge(low, nested("optim.lr", 2)) == {
        "optim": {"lr": 2, "warmup": 0.1},
        "fit": {"epochs": 3},
    }
    assert low["optim"]["lr"] == 1


@pytest.mark.parametrize(
    ("item", "message", "hint"),
    [
        ("optim.lrr=1", "unknown setting 'optim.lrr'", "optim.lr"),
        ("lr=1", "unknown setting 'lr'", "optim.lr"),
        ("fit.epochs=0", "fit.epochs (--epochs) = 0", None),
        ("optim.scheduler=cosin", "optim.scheduler (--scheduler) = 'cosin'", "cosine"),
        ("data.val_fraction=1.5", "data.val_fraction = 1.5", None),
    ],
)
def test_refusals_name_the_key_and_the_value(item: str, message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        validate(TrainConfig, parse_set(item))
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize("item", ["lr", "=3", "a=[1"])
def test_set_needs_a_key_and_a_yaml_value(item: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_set(item)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="--config"):
        load_yaml(path)


@pytest.mark.parametrize("config", [TrainConfig, EvalConfig])
def test_every_setting_says_what_it_is(config: type) -> None:
    for key, field in fields_of(config).items():
        assert field.description, key


def test_lazy_names_of_settings_are_those_that_type_checkers_see() -> None:
    source = Path(config.__file__).read_text(encoding="utf-8")
    seen = {
        (str(node.module).rpartition(".")[2], alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dlcli.config.")
        for alias in node.names
    }
    assert seen == {(module, name) for module, names in config._MODULES.items() for name in names}
    for _, name in seen:
        assert getattr(config, name) is not None
    with pytest.raises(AttributeError, match="NoConfig"):
        config.NoConfig  # noqa: B018


def test_help_builds_no_validator_and_loads_no_settings_of_other_commands() -> None:
    code = (
        "import sys\nfrom dlcli.cli import main\nmain(['train', '--help'])\n"
        "from dlcli.config import FitConfig, TrainConfig\n"
        "built = [c.__name__ for c in (FitConfig, TrainConfig) if c.__pydantic_complete__]\n"
        "others = {f'dlcli.config.{n}' for n in ('prune', 'quantize', 'export', 'benchmark', 'eval')}\n"
        "sys.exit(' '.join([*built, *(others & set(sys.modules))]) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
