"""Settings by the names that they have in other programs."""

import pytest

from dlcli import synonyms
from dlcli.cli import main
from dlcli.config import TrainConfig
from dlcli.errors import UsageError
from dlcli.settings import fields_of, nested, validate


def test_synonyms_are_of_settings_that_exist_and_are_none_themselves() -> None:
    known = fields_of(TrainConfig)
    assert set(synonyms._KEYS) <= set(known)
    leaves = {key.rpartition(".")[2] for key in known}
    words = [word for text in synonyms._KEYS.values() for word in text.split()]
    assert len(words) == len(set(words))
    assert not [word for word in words if word in leaves]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("fit.num_epochs", "fit.epochs"),
        ("fit.lr", "optim.lr"),
        ("optim.weight_deacy", "optim.weight_decay"),
    ],
)
def test_an_unknown_setting_gets_the_one_that_was_meant(key: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"unknown setting '{key}'") as caught:
        validate(TrainConfig, nested(key, 1))
    assert f"did you mean '{meant}'" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("option", "meant"),
    [("--learning-rate", "--lr"), ("--image-size", "--img-size"), ("--bs", "--batch-size")],
)
def test_an_unknown_option_too(option: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", option, "1"]) == 2
    assert f"did you mean {meant}? See dlcli train --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        ("predict x --gpu 0", "--device"),
        ("eval --bs 4", "--batch-size"),
        ("explain x --num-workers 2", "--workers"),
        ("export -a", "--agreement or --all"),
    ],
)
def test_so_does_one_of_a_command_with_one_group_of_settings(
    args: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = args.split()
    assert main(command) == 2
    assert f"did you mean {meant}? See dlcli {command[0]} --help" in capsys.readouterr().err
