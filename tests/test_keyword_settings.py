"""Settings of registered functions: shared fields, own arguments, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from dlcli.errors import UsageError
from dlcli.keyword_settings import check_args, check_ignored, keywords
from dlcli.settings import setting
from dlcli.task import Frozen


class Group(Frozen):
    """A group of settings with two that functions share."""

    rate: float = setting(0.5, "A rate.")
    power: int = setting(2, "An exponent.")
    args: dict[str, Any] = setting({}, "Other arguments.")


def plain(x: int) -> int:
    return x


def shared(x: int, *, rate: float) -> float:
    return x * rate


def own(x: int, *, power: int, scale: float = 3.0, name: str | None = None) -> object:
    return (x**power * scale, name)


def test_fields_come_from_the_group_and_the_rest_from_args() -> None:
    assert keywords(plain, Group()) == {}
    assert keywords(shared, Group(rate=0.1)) == {"rate": 0.1}
    assert keywords(own, Group()) == {"power": 2, "scale": 3.0, "name": None}
    config = Group(power=4, args={"scale": "1.5"})
    assert keywords(own, config) == {"power": 4, "scale": 1.5, "name": None}


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ({"scal": 1}, "unknown setting 'group.args.scal'", "did you mean 'scale'?"),
        ({"power": 1}, "unknown setting 'group.args.power'", "known: name, scale"),
        ({"scale": "much"}, "group.args.scale = 'much': input should be a valid number", None),
    ],
)
def test_args_that_do_not_fit_are_refused(args: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_args("group.args", Group(args=args), (shared, own))
    assert caught.value.hint == hint


def test_settings_of_other_functions_are_refused() -> None:
    functions = {"plain": (plain,), "shared": (shared,), "own": (own, shared)}
    check_ignored("group", "name", "own", functions, Group(rate=0.1, power=3))
    check_ignored("group", "name", "plain", functions, Group())
    with pytest.raises(UsageError, match=r"group.power = 3 means nothing to group.name = shared") as e:
        check_ignored("group", "name", "shared", functions, Group(power=3))
    assert e.value.hint == "it belongs to own"
