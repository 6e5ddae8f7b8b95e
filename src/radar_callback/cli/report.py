"""`radar-callback report`: histories as one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radar_callback.errors import ConfigError
from radar_callback.files import write_atomically

if TYPE_CHECKING:
    from radar_callback.benchmark.reader import Benchmark
    from radar_callback.reporting.html import Run


def report(
    history: Annotated[list[Path], typer.Argument(help="One radar_history.jsonl, or several to compare.")],
    html: Annotated[Path, typer.Option(help="Where the page is written.")],
    name: Annotated[
        list[str] | None, typer.Option(help="What to call a history; once for each, in their order.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Whose evaluations, where a history has those of several.")
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(help="Folder or URL of the benchmark, for images of single items; a built-in one is found."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
) -> None:
    """Write ability curves, radar chart, emergence table and diagnosis as one self-contained HTML page."""
    # Imported here: `--help` should not wait for plotly.
    from radar_callback.reporting.html import load_run, report_page
    from radar_callback.reporting.html.run import names_for

    _check_target(html, history)
    names = names_for(history, name or [])
    runs = [load_run(path, called, benchmark) for path, called in zip(history, names, strict=True)]
    if len({run.benchmark for run in runs}) > 1:
        found = ", ".join(f"{run.name}: {run.benchmark}" for run in runs)
        raise ConfigError(f"Expected evaluations of one benchmark, but got {found}. Choose one with --benchmark.")
    if shards is not None and len(runs) > 1:
        raise ConfigError(f"Expected --shards with a single history, whose items are shown, but got {len(runs)}.")
    write_atomically(html, report_page(runs, title, _opened(runs[0], shards) if len(runs) == 1 else None))
    typer.echo(f"Wrote {html}: {', '.join(f'{run.name} ({len(run.records)} evaluations)' for run in runs)}")


def _check_target(html: Path, histories: list[Path]) -> None:
    if not html.absolute().parent.is_dir():
        raise ConfigError(f"Expected --html in a folder that exists, but there is no {html.absolute().parent}.")
    if html.is_dir():
        raise ConfigError(f"Expected --html to be a file, but {html} is a folder.")
    if html.resolve() in {path.resolve() for path in histories}:
        raise ConfigError(f"Expected --html to be another file than the history, but both are {html}.")


def _opened(run: Run, shards: str | None) -> Benchmark | None:
    """The benchmark that a run's items come from, where it is at hand."""
    from radar_callback.benchmark.locate import builtin_folder
    from radar_callback.benchmark.places import shown
    from radar_callback.benchmark.reader import Benchmark

    if shards is None:
        # Only a built-in one: any other name in a history says nothing about where its shards are, and may be a URL.
        return Benchmark(run.benchmark) if builtin_folder(run.benchmark) is not None else None
    opened = Benchmark(shards)
    if opened.name != run.benchmark:
        raise ConfigError(
            f"Expected --shards of {run.benchmark!r}, but those of {shown(shards)} are of {opened.name!r}."
        )
    return opened
