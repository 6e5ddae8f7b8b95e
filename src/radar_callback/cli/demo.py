"""`radar-callback demo`: pre-train a small MLLM from scratch on this machine and watch its abilities grow."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from radar_callback.files import write_atomically


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the run writes.")] = Path("radar-demo"),
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; fewer give a shorter look.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and of the training pictures.")] = 0,
) -> None:
    """Pre-train a small MLLM from scratch on drawn pictures, with `RadarCallback()` watching."""
    # Imported here: `--help` should not wait for torch and Lightning.
    from radar_callback import demo as runner
    from radar_callback.benchmark.reader import Benchmark
    from radar_callback.history import read_history
    from radar_callback.reporting.figures import curves_figure
    from radar_callback.reporting.html import load_run, report_page
    from radar_callback.reporting.radar_chart import first_of, radar_figure
    from radar_callback.reporting.style import to_png
    from radar_callback.reporting.terminal import print_result

    begun = time.time()
    paths = runner.run(out, steps=steps, seed=seed)
    records = read_history(paths.history)
    last = records[-1]
    pictures = {"curves": out / "curves.png", "radar chart": out / "radar.png"}
    title = f"A model of {paths.parameters / 1e6:.2g}M parameters learns from captions"
    pictures["curves"].write_bytes(to_png(curves_figure(records, title=title), width=1600))
    pictures["radar chart"].write_bytes(to_png(radar_figure(last, first_of(records, last)), width=1000))

    report = out / "report.html"
    write_atomically(report, report_page([load_run(paths.history, "demo")], title, Benchmark("radar-mini")))

    print_result(last, records)
    typer.echo(_timing(records, begun))
    written = {**pictures, "report": report, "history": paths.history, "checkpoint": paths.checkpoint}
    if paths.wandb is not None:
        written["W&B run (offline)"] = paths.wandb
    width = max(map(len, written))
    for name, path in written.items():
        typer.echo(f"  {name:<{width}}  {os.path.relpath(path)}")
    if paths.wandb is not None:
        typer.echo(f"Look at every curve in this terminal: wandb leet {os.path.relpath(paths.wandb)}")


def _timing(records: list[dict[str, Any]], begun: float) -> str:
    """What the README quotes: how soon curves are there, what an evaluation takes, and its share of the run."""
    first, last = records[0], records[-1]
    seconds = [record["seconds"] for record in records]
    wall = last["time"] - (first["time"] - first["seconds"])
    return (
        f"First point after {first['time'] - begun:.0f} s, last after {last['time'] - begun:.0f} s. "
        f"{len(seconds)} evaluations of {last['samples']:,} items: {seconds[0]:.1f} s the first, "
        f"{sum(seconds[1:]) / max(1, len(seconds) - 1):.1f} s each later one, "
        f"{100 * sum(seconds) / wall:.0f}% of the run's wall clock."
    )
