"""Entry point: import a command when it is called, and turn errors into messages and exit codes."""

from __future__ import annotations

import gc
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]
from typer.core import TyperCommand, TyperGroup

from dlcli import __version__
from dlcli.errors import EXIT_DEFECT, DlcliError, Interrupted, os_error_message
from dlcli.machine.allocator import share_one_arena
from dlcli.machine.threads import limit_spinning
from dlcli.out_of_memory import MEMORY_HINT, out_of_memory_message
from dlcli.signals import raising_signals, signum_of
from dlcli.wording import printable_lines

# --help lists these first, in this order; other commands follow by name.
ORDER = (
    *("train", "eval", "predict", "explain", "export", "quantize", "prune", "benchmark"),
    *("data", "models", "init", "runs", "info"),
)

_MOST_MEANT = 3  # options that a hint names

# The first line of the docstring of a module's function ``command``.
_SUMMARY = re.compile(r'^def command\(.*?:\n    """(.+?)(?="""|\n)', re.MULTILINE | re.DOTALL)


@cache
def summaries() -> dict[str, str]:
    """Return name to summary of every command: a file in ``dlcli/commands`` with a function ``command``.

    The summary is the first line of its docstring, read from the source: importing the modules would
    take longer than most people wait for ``--help``.
    """
    sources = Path(__file__).with_name("commands").glob("*.py")
    matches = {path.stem: _SUMMARY.search(path.read_text(encoding="utf-8")) for path in sources}
    lines = {name: match[1] for name, match in matches.items() if match}
    return {name: lines[name] for name in (*ORDER, *sorted(lines.keys() - set(ORDER)))}


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Raise a signal that came in the block as `Interrupted`, which typer passes on."""
    try:
        yield
    except KeyboardInterrupt as exc:
        raise Interrupted("interrupted", signum=signum_of(exc)) from exc


class Interruptible:
    """Mixin of a command that a signal ends with 128 + its number; typer itself knows Ctrl-C alone."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with interrupted_by_signals():
            return super().make_context(*args, **kwargs)  # type: ignore[misc]  # a command's

    def invoke(self, ctx: Any) -> Any:
        with interrupted_by_signals():
            return super().invoke(ctx)  # type: ignore[misc]  # a command's


class LazyGroup(Interruptible, TyperGroup):
    """A group of lazily imported commands; its help is read from their sources."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(summaries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in summaries() and cmd_name not in self.commands:
            self.commands[cmd_name] = TyperCommand(
                cmd_name, help=summaries()[cmd_name], callback=lambda: None
            )
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        for name in summaries():
            self.get_command(ctx, name)  # so that a typing error gets a suggestion
        known, command, rest = super().resolve_command(ctx, args)
        return known, command if known is None else _load(known), rest


def _load(name: str) -> Any:
    """Import a command; its help is its function's docstring."""
    module = importlib.import_module(f"dlcli.commands.{name}")
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    paragraphs, examples = split_help(inspect.getdoc(module.command) or "")
    flowing = "\n\n".join(" ".join(text.split()) for text in paragraphs.split("\n\n"))
    single.command(
        name,
        cls=type("Command", (ExampleCommand,), {"examples": examples}),
        help=flowing,
        context_settings={"help_option_names": ["--help", "-h"]},
    )(_with_home(module.command))
    return typer.main.get_command(single)


class CompletingGroup(LazyGroup):
    """The commands for a shell that asks what completes a word: none is imported whose values are known.

    It has no options, not even --help: typer would build their validators, which takes longer than the
    rest.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        from dlcli.commands.completing import values_after

        values = values_after(args) if args[0] in summaries() else None
        if values is None:
            return super().resolve_command(ctx, args)
        words = list(args)
        return args[0], ValueCommand(args[0], lambda: values(words)), args[1:]

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        if incomplete.startswith("-"):
            return typer.main.get_command(app).shell_complete(ctx, incomplete)
        return super().shell_complete(ctx, incomplete)


class ValueCommand(TyperCommand):
    """A command of which only the values of its next word are known; it is imported for its options."""

    def __init__(self, name: str, values: Callable[[], Iterable[str]]) -> None:
        settings = {"ignore_unknown_options": True, "allow_extra_args": True}
        super().__init__(name, add_help_option=False, context_settings=settings)
        self.values = values

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        if incomplete.startswith("-"):
            return _load(str(self.name)).shell_complete(ctx, incomplete)
        return [Completion(value) for value in self.values() if value.startswith(incomplete)]


class Completion(NamedTuple):
    """A word, as the shells' writers of typer read it."""

    value: str
    type: str = "plain"
    help: str | None = None


class ExampleCommand(Interruptible, TyperCommand):
    """A command whose help ends with examples, as they stand; typer would wrap them."""

    examples: Sequence[str] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        if self.examples:
            typer.echo(typer.style("\n Examples", bold=True))
            typer.echo("\n".join(f"   {line}" for line in self.examples))


def split_help(docstring: str) -> tuple[str, list[str]]:
    """Return what a command's docstring says, and the command lines of its section ``Examples:``."""
    text, _, examples = docstring.partition("\n\nExamples:\n")
    return text, [line.strip() for line in examples.splitlines() if line.strip()]


def _with_home(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with ``~`` expanded in every option that is a path.

    A shell leaves it where it is quoted, or follows an equals sign.
    """

    @wraps(command)
    def expanded(**values: Any) -> None:
        from dlcli.files import user_path

        gc.freeze()  # what was imported is not looked at again
        gc.enable()
        command(**{k: Path(user_path(v)) if isinstance(v, Path) else v for k, v in values.items()})

    return expanded


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"dlcli {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train, evaluate, use and ship deep learning models, measured on your own data.

    Start with: [bold]dlcli train --model cnn --data digits[/bold]
    """


def _escape_what_streams_lack() -> None:
    """Let streams of an ASCII locale print every name: as escapes, where they lack a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="backslashreplace")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code; with ``--debug``, errors are raised."""
    gc.disable()  # imports and --help leave little to collect, and looking for it is a tenth of them
    _escape_what_streams_lack()
    limit_spinning()
    # Looking for plugins of pydantic reads the metadata of every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    args = list(sys.argv[1:] if argv is None else argv)
    # --debug works in any position: after a failure people append it.
    debug = "--debug" in args or os.environ.get("DLCLI_DEBUG") == "1"
    # Without a word there is nothing to do but to say what there is.
    args = [arg for arg in args if arg != "--debug"] or ["--help"]
    try:
        with raising_signals() as signals, interrupted_by_signals():
            return _run(args)
    except typer.Abort:
        return 130
    except BrokenPipeError:
        # The reader of stdout went away (`dlcli ... | head`); keep the interpreter's own flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DlcliError as exc:
        if debug:
            raise
        return _report(exc.message, exc.hint, exc.exit_code)
    except Exception as exc:
        if hasattr(exc, "format_message") and hasattr(exc, "exit_code"):  # a usage error of typer's
            return _usage(exc, args)
        if debug:
            raise
        if signals.signum is not None:  # code in C that a signal interrupted raises what it likes
            return _report("interrupted", None, 128 + signals.signum)
        if (message := out_of_memory_message(exc)) is not None:
            return _report(message, MEMORY_HINT, 1)
        if (message := os_error_message(exc)) is not None:
            return _report(message, None, 1)
        return _report(
            f"{type(exc).__name__}: {exc}",
            "this is a bug in dlcli; run it again with --debug and report the output",
            EXIT_DEFECT,
        )
    finally:
        gc.unfreeze()
        gc.enable()


def _run(args: list[str]) -> int:
    """Run a command past the options of dlcli itself, for which typer would build validators."""
    if os.environ.get("_DLCLI_COMPLETE", "").startswith("complete_"):
        completion_init()
        group = CompletingGroup(name="dlcli", add_help_option=False)
        result = group(args, prog_name="dlcli", standalone_mode=False)
    elif args[0] in summaries():
        if not {"-h", "--help", "--help-all"} & set(args):
            share_one_arena()
        result = _load(args[0])(args[1:], prog_name=f"dlcli {args[0]}", standalone_mode=False)
    else:
        result = app(args, prog_name="dlcli", standalone_mode=False)
    return result if isinstance(result, int) else 0


def _usage(exc: Any, args: list[str]) -> int:
    """Report a usage error of typer's, whose context is missing where a value is missing."""
    context = getattr(exc, "ctx", None)
    command = next((arg for arg in args if arg in summaries()), "")
    path = context.command_path if context is not None else f"dlcli {command}".rstrip()
    message = exc.format_message().replace("Value error, ", "")
    meant = _meant_option(getattr(exc, "option_name", None), context)
    hint = f"did you mean {meant}? See {path} --help" if meant else f"see {path} --help"
    return _report(message, hint, int(exc.exit_code))


def _meant_option(typed: str | None, context: Any) -> str | None:
    """Return the option that other programs call by the name that was typed, or those of its letter."""
    if typed is None or context is None:
        return None
    from dlcli.synonyms import setting_called

    options = {param.name: param.opts[0] for param in context.command.params}
    word = typed.lstrip("-")
    if len(word) == 1:
        same = sorted(flag for flag in options.values() if flag.startswith(f"--{word}"))
        return " or ".join(same) if len(same) <= _MOST_MEANT else None
    key = setting_called(word)
    if key is None:
        return None
    group, _, name = key.partition(".")  # a command of one group names its options without it
    return options.get(f"{group}_{name}") or (None if name == "name" else options.get(name))


def _report(message: str, hint: str | None, code: int) -> int:
    typer.echo(f"error: {printable_lines(message)}", err=True)
    if hint:
        typer.echo(f"\nhint: {printable_lines(hint)}", err=True)
    return code
