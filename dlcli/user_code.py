"""Objects of the user's own code: ``path/to/file.py:NAME``, or what an installed package offers.

``--model net.py:Net`` runs the file and takes the object of that name. A package offers the same by an
entry point, whose name is then the setting's value; each sort of object has a group of its own
(``dlcli.models``, ``dlcli.losses``, ...). Whoever names it, the code runs only where
`dlcli.trust.check_code` allows it. Nothing is pickled: another process runs the file itself.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dlcli.errors import DlcliError, UsageError, nearest
from dlcli.out_of_memory import is_out_of_memory
from dlcli.trust import CODE_FILE, check_code, entry_points, full_name, remember_key, short_name
from dlcli.wording import first_line

_modules: dict[Path, tuple[bytes, ModuleType]] = {}  # the files that were run, with what they held


@dataclass(frozen=True)
class UserObject:
    """An object of the user's code; ``name`` has the absolute path of its file.

    ``path`` is that of the file, None for an entry point.
    """

    name: str
    value: Any
    path: Path | None
    _key: str

    @property
    def label(self) -> str:
        """What messages call it: ``file.py:NAME`` without the folder."""
        return short_name(self.name)

    def works(self) -> None:
        """Note that this user's dlcli has run the code: other commands may run it from now on."""
        remember_key(self._key)

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Context in which errors of the code become the user's errors: see `user_errors`."""
        with user_errors(what, self.path):
            yield

    def begin_of(self, value: Any) -> str:
        """Return the line of the file where a function, or an object's class, begins, as `line_of`."""
        while isinstance(value, functools.partial):
            value = value.func
        begin = inspect.unwrap(value) if inspect.isroutine(value) else type(value)
        try:
            lines, number = inspect.getsourcelines(begin)
            file = inspect.getsourcefile(begin)
        except (OSError, TypeError):  # written in C, or in a file that is gone
            return ""
        if self.path is None or file != str(self.path):
            return ""
        return f", in {self.path.name} line {number}: {lines[0].strip()}"


def load_object(
    name: str,
    group: str,
    args: Mapping[str, Any],
    *,
    fits: Callable[[Any], bool] = callable,
    word: str = "class or function",
) -> UserObject:
    """Run the code that a name stands for and return the object.

    Args:
        name: ``file.py:NAME``, or an entry point of ``group``.
        args: the settings that the object is called with, JSON-ready: code that is trusted is trusted
            with its arguments.
        fits: whether an object of the file is of the sort that ``word`` names.

    Raises: DlcliError where the file is missing, fails, or may not run; UsageError where it lacks the
    name.
    """
    match = CODE_FILE.fullmatch(name)
    if match is None:
        key = check_code(name, args, b"", group)
        with user_errors(f"{name} cannot be imported"):
            return UserObject(name, entry_points(group)[name].load(), None, key)
    path = Path(match["path"]).expanduser().resolve()
    source = read_code(path)
    key = check_code(name, args, source, group)
    module = _run(path, source)
    value = getattr(module, match["name"], None)
    if value is None or not fits(value):
        known = [k for k, v in vars(module).items() if not k.startswith("_") and _is_own(v, module)]
        known = [k for k in known if fits(getattr(module, k))]
        raise UsageError(
            f"{path} has no {word} {match['name']!r}",
            hint=nearest(match["name"], known) if known else f"it defines no {word}",
        )
    return UserObject(full_name(name), value, path, key)


def read_code(path: Path) -> bytes:
    """Return the bytes of a file of code. Raises: DlcliError."""
    try:
        return path.read_bytes()
    except OSError as exc:
        missing = isinstance(exc, FileNotFoundError)
        reason = "does not exist" if missing else f"cannot be read: {exc.strerror or exc}"
        raise DlcliError(
            f"the code {path} {reason}",
            hint="using it runs its code, so the file has to be where it was, as it was at training",
        ) from exc


@contextmanager
def user_errors(what: str, path: Path | None = None) -> Iterator[None]:
    """Context in which an error of the user's code is a DlcliError that names its line in ``path``.

    Errors that mean that memory ran out stay what they are: training has ways out of them. An exit, of
    ``sys.exit`` or of a parser of arguments, would end dlcli without a word.
    """
    try:
        yield
    except DlcliError:
        raise
    except (
        Exception,
        SystemExit,
    ) as exc:  # foreign code may raise anything, and none of it is a defect of dlcli
        if is_out_of_memory(exc):
            raise
        text = f"{what}: {type(exc).__name__}: {first_line(exc)}"
        raise DlcliError(f"{text}{line_of(exc, path)}", hint="--debug shows where") from exc


def line_in_user_file(exc: BaseException) -> str:
    """Return the last line of a user's file that an error went through, "" where there is none."""
    frames = traceback.extract_tb(exc.__traceback__)
    paths = {str(path): path for path in _modules}
    last = next((frame for frame in reversed(frames) if frame.filename in paths), None)
    return "" if last is None else line_of(exc, paths[last.filename])


def line_of(exc: BaseException, path: Path | None) -> str:
    """Return the last line of a file that an error went through, as ", in losses.py line 3: ..."."""
    if isinstance(exc, SyntaxError) and path is not None and exc.filename == str(path):
        return f", in {path.name} line {exc.lineno}"
    frames = traceback.extract_tb(exc.__traceback__)
    lines = [frame for frame in frames if path is not None and frame.filename == str(path)]
    if path is None or not lines:
        return ""
    last = lines[-1]
    return f", in {path.name} line {last.lineno}" + (f": {last.line}" if last.line else "")


def _run(path: Path, source: bytes) -> ModuleType:
    """Return the module of a file, which runs once as long as it does not change."""
    known = _modules.get(path)
    if known is not None and known[0] == source:
        return known[1]
    # Two files of one name must not be one module, and dataclasses look their module up.
    name = f"dlcli_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    module.__dict__["print"] = _print
    sys.modules[name] = module
    with user_errors(f"{path} cannot be run", path), _importable(path.parent):
        # These bytes were checked; the loader would read the file again, or a .pyc in its place.
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    _modules[path] = source, module
    return module


def _print(*values: object, file: Any = None, **how: Any) -> None:
    """The ``print`` of a user's file: to stderr, since stdout is for results, as those of --json."""
    print(*values, file=sys.stderr if file is None else file, **how)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the file import its neighbours, as ``python file.py`` would."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _is_own(value: Any, module: ModuleType) -> bool:
    """Return whether an object is defined in a module, not imported into it."""
    return getattr(value, "__module__", module.__name__) == module.__name__
