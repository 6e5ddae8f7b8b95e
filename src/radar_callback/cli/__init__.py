"""The command line: `radar-callback …`, or `python -m radar_callback …`.

Each command is a file of this folder. What a command needs is imported when it runs: asking for help must not load torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

import typer

from radar_callback.cli import shards
from radar_callback.cli.demo import demo
from radar_callback.cli.report import report
from radar_callback.cli.score import score
from radar_callback.errors import RadarError

DONE, BAD, WRONG = 0, 1, 2
"""Exit status: done; the thing checked is bad; wrong usage or input."""

# typer's base class of every mistake on the command line. Newer versions carry their own copy of click, so it has no name
# that works for all of them.
_Mistake = cast(type[Exception], typer.BadParameter.__mro__[2])

app = typer.Typer(
    name="radar-callback",
    help="See which abilities a multimodal LLM is growing while it pre-trains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(shards.app, name="shards")
app.command()(demo)
app.command()(score)
app.command()(report)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments; those of the process if not given.

    Returns:
        The exit status: 0 done, 1 the thing checked is bad, 2 wrong usage or input, with one line on stderr that says what.
        Anything else that goes wrong is a defect of this library and keeps its traceback.
    """
    try:
        status = app(list(argv) if argv is not None else None, standalone_mode=False)
    except RadarError as error:
        return _complain(str(error))
    except _Mistake as error:
        return _complain(error.format_message())  # type: ignore[attr-defined]
    except typer.Abort:
        return _complain("stopped")
    except OSError as error:
        if error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}")
    return status if isinstance(status, int) else DONE


def _complain(message: str) -> int:
    from radar_callback.benchmark.places import redacted

    message = redacted(message)  # it may quote what was typed, and that a URL with a password
    # A command without arguments shows its help, which keeps its lines; everything else is one line.
    text = message if message.startswith("Usage:") else f"radar-callback: {' '.join(message.split())}"
    print(text, file=sys.stderr)
    return WRONG
