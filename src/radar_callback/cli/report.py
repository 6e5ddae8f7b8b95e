"""`radar-callback report`: histories as one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radar_callback.errors import BenchmarkError, ConfigError
from radar_callback.files import write_atomically


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
    from radar_callback.benchmark.reader import Benchmark
    from radar_callback.reporting.html import load_run, report_page
    from radar_callback.reporting.html.run import names_for

    if not html.absolute().parent.is_dir():
        raise ConfigError(f"Expected --html in a folder that exists, but there is no {html.absolute().parent}.")
    runs = [
        load_run(path, called, benchmark) for path, called in zip(history, names_for(history, name or []), strict=True)
    ]
    opened: Benchmark | None = None
    if shards is not None:
        opened = Benchmark(shards)
    elif len(runs) == 1:
        try:
            opened = Benchmark(runs[0].records[-1]["benchmark"])
        except BenchmarkError:  # not a built-in one: items are told by their keys
            opened = None
    write_atomically(html, report_page(runs, title, opened))
    typer.echo(f"Wrote {html}: {', '.join(f'{run.name} ({len(run.records)} evaluations)' for run in runs)}")
