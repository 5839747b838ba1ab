"""Names of models that are refused before torch is imported."""

import pytest

from dlcli.errors import UsageError
from dlcli.zoo import transfer
from dlcli.zoo.base import own_names
from dlcli.zoo.names import check_spelling, torchvision_names


def test_torchvisions_names_are_those_that_it_lists() -> None:
    assert torchvision_names() == set(transfer.names())


@pytest.mark.parametrize("name", [*own_names(), *transfer.names(), "timm:anything", "file.py:Net"])
def test_no_known_name_is_refused(name: str) -> None:
    check_spelling(name)


@pytest.mark.parametrize(("name", "near"), [("ccn", "cnn"), ("resnet19", "resnet18"), ("lsmt", "lstm")])
def test_a_typing_error_is_refused_with_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"unknown model '{name}'") as caught:
        check_spelling(name)
    assert f"'{near}'" in (caught.value.hint or "")


def test_a_file_of_weights_is_no_model() -> None:
    with pytest.raises(UsageError, match=r"--model w\.pth is a file of weights") as caught:
        check_spelling("w.pth")
    assert "--model NAME --weights w.pth" in (caught.value.hint or "")
