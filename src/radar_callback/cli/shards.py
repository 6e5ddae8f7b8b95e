"""`radar-callback shards …`: build, inspect and verify benchmarks."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radar_callback.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from radar_callback.benchmark.describe import AbilityRow
    from radar_callback.benchmark.manifest import Manifest
    from radar_callback.benchmark.reader import Benchmark
    from radar_callback.benchmark.sources import SourceResult

app = typer.Typer(help="Build, inspect and verify benchmarks (webdataset shards).", no_args_is_help=True)

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="Folder, manifest.json, URL, brace pattern of shards, or name of a built-in benchmark."
    ),
]


@app.command()
def build(
    source: Annotated[
        str, typer.Argument(help="What to build from: a folder or file; for mini, radar-mini or another seed.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    kind: Annotated[str, typer.Option("--from", metavar="FORMAT", help="m3bench, jsonl or mini.")],
    name: Annotated[str | None, typer.Option(help="Name of the benchmark.")] = None,
    licence: Annotated[str | None, typer.Option(help="Under which the items may be used.")] = None,
    option_order: Annotated[
        str | None,
        typer.Option(help="m3bench: how options that are images are listed, `item` (default) or `authors`."),
    ] = None,
    ability: Annotated[str | None, typer.Option(help="jsonl: ability of items that do not name one.")] = None,
    group: Annotated[str | None, typer.Option(help="jsonl: group of items that do not name one.")] = None,
    max_shard_mb: Annotated[float, typer.Option(min=0.001, help="A shard is closed at this size.")] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is a benchmark.")] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Leave out damaged items, listing them, instead of stopping at the first."),
    ] = False,
) -> None:
    """Write webdataset shards and their manifest."""
    from radar_callback.benchmark.sources import SOURCES
    from radar_callback.benchmark.writer import write_shards

    if kind not in SOURCES:
        raise ConfigError(f"Expected --from to be one of {', '.join(SOURCES)}, but got {kind!r}.")
    options = {
        "name": name,
        "option_order": option_order,
        "ability": ability,
        "group": group,
        "keep_going": keep_going or None,
    }
    read = _read(SOURCES[kind], kind, source, {key: value for key, value in options.items() if value is not None})
    manifest = write_shards(
        _counted(read.samples),
        out,
        name=read.name,
        groups=read.groups,
        licence=read.licence if licence is None else licence,
        source=read.source,
        max_bytes=int(max_shard_mb * 1024 * 1024),
        overwrite=overwrite,
    )
    _report_built(manifest, out)


def _read(reader: Callable[..., SourceResult], kind: str, source: str, options: dict[str, Any]) -> SourceResult:
    known = inspect.signature(reader).parameters
    for key in options:
        if key not in known:
            raise ConfigError(
                f"Expected options that --from {kind} knows, but --{key.replace('_', '-')} is none of them."
            )
    return reader(source, **options)


def _counted(samples: Any) -> Any:  # an iterable of samples, with a progress bar in a terminal
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(samples, "Writing items", console=console, transient=True, disable=not console.is_terminal)


def _report_built(manifest: Manifest, out: Path) -> None:
    items = sum(shard.samples for shard in manifest.shards)
    size = sum(shard.bytes for shard in manifest.shards)
    print(f"Wrote {manifest.name}: {_n(items, 'item')} in {_n(len(manifest.shards), 'shard')}, {_size(size)}, to {out}")
    if manifest.skipped:
        reasons = Counter(str(left_out.reason) for left_out in manifest.skipped)
        print(f"Left out {_n(len(manifest.skipped), 'item')}: " + ", ".join(f"{n} {why}" for why, n in reasons.items()))
        for left_out in manifest.skipped[:5]:
            print(f"  {left_out.key}: {left_out.detail}")
        if len(manifest.skipped) > 5:
            print(f'  … all of them are listed in {out / "manifest.json"} under "skipped"')


@app.command("index")
def index_(
    folder: Annotated[Path, typer.Argument(help="A folder of *.tar shards on this machine.")],
    groups: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP=ABILITY,…", help="Which abilities form a group; once for each group."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the benchmark; the folder's if not given.")] = None,
    licence: Annotated[str, typer.Option(help="Under which the items may be used.")] = "",
    source: Annotated[str, typer.Option(help="Where the items come from.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a manifest that is there.")] = False,
) -> None:
    """Write a manifest for shards that others have written."""
    from radar_callback.benchmark.write_manifest import write_manifest

    manifest = write_manifest(
        folder, groups=_groups(groups or []), name=name, licence=licence, source=source, overwrite=overwrite
    )
    items = sum(shard.samples for shard in manifest.shards)
    tree = ", ".join(f"{group}: {' '.join(abilities)}" for group, abilities in manifest.tree.items())
    print(
        f"Wrote {folder / 'manifest.json'}: {manifest.name}, {_n(items, 'item')} in {_n(len(manifest.shards), 'shard')}"
    )
    print(f"Groups: {tree}")


def _groups(texts: list[str]) -> dict[str, str]:
    """`["perception=colour,shape"]` as `{ability: group}`."""
    groups: dict[str, str] = {}
    for text in texts:
        group, equals, abilities = text.partition("=")
        names = [ability.strip() for ability in abilities.split(",")]
        if not (group.strip() and equals and all(names)):
            raise ConfigError(f"Expected --groups as in perception=colour,shape, but got {text!r}.")
        for ability in names:
            if groups.setdefault(ability, group.strip()) != group.strip():
                raise ConfigError(f"Expected every ability in one group, but --groups has {ability!r} in two.")
    return groups


@app.command("inspect")
def inspect_(
    url: Url,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    examples: Annotated[int, typer.Option(min=0, help="How many items to show.")] = 3,
) -> None:
    """Show what is in a benchmark."""
    from radar_callback.benchmark.describe import ability_rows
    from radar_callback.benchmark.describe import examples as some_of
    from radar_callback.benchmark.reader import Benchmark

    benchmark = Benchmark(url)
    rows = ability_rows(benchmark)
    shown = some_of(benchmark, examples)
    if as_json:
        print(json.dumps(_as_json(benchmark, rows, shown), ensure_ascii=False, indent=1))
    else:
        _print_table(benchmark, rows, shown)


def _as_json(benchmark: Benchmark, rows: list[AbilityRow], shown: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": benchmark.name,
        "licence": benchmark.licence,
        "source": benchmark.source,
        "fingerprint": benchmark.fingerprint,
        "items": len(benchmark),
        "skipped": dict(Counter(str(left_out.reason) for left_out in benchmark.skipped)),
        "bytes": sum(row.bytes for row in rows),
        "abilities": [asdict(row) for row in rows],
        "examples": shown,
    }


def _print_table(benchmark: Benchmark, rows: list[AbilityRow], shown: list[dict[str, Any]]) -> None:
    from rich.console import Console

    print(
        f"{benchmark.name}: {_n(len(benchmark), 'item')}, {len(benchmark.skipped)} left out, {_n(len(rows), 'ability')}"
    )
    print(f"licence: {benchmark.licence or 'not stated'}\nsource: {benchmark.source or 'not stated'}")
    print(f"fingerprint: {benchmark.fingerprint}\n")
    console = Console()
    # A pipe or file has no width of its own to fit into.
    Console(width=None if console.is_terminal else 160).print(_table(rows))
    for example in shown:
        print(f"\n{example['ability']} · {example['key']} · {_n(len(example['images']), 'image')}")
        if "error" in example:
            print(f"  cannot be read: {example['error']}")
            continue
        print(f"  {example['question']!r}\n  answer: {example['answer']!r}   distractors: {example['distractors']}")


def _table(rows: list[AbilityRow]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("ability", no_wrap=True)
    for head in ("items", "left out", "categories", "candidates", "chance", "images", "pixels", "size"):
        table.add_column(head, justify="right", overflow="fold")
    group = None
    for row in rows:
        if row.group != group:
            table.add_row(f"[bold]{escape(row.group)}[/bold]")
            group = row.group
        table.add_row(
            f"  {escape(row.ability)}",
            str(row.items),
            str(row.skipped or ""),
            str(len(row.categories) or ""),
            _range(*row.candidates),
            f"{row.chance:.3f}",
            _range(*row.images),
            _range(*(f"{width}x{height}" for width, height in row.pixels)) if row.pixels else "",
            _size(row.bytes),
        )
    return table


@app.command()
def verify(url: Url) -> int:
    """Read every byte of a benchmark and list all damage; exit status 1 if there is any."""
    from radar_callback.benchmark.places import shown
    from radar_callback.benchmark.verify import verify as damages_of

    damages = damages_of(url)
    place = shown(url)
    for damage in damages:
        print(damage)
    if damages:
        print(f"{_n(len(damages), 'damage')} found in {place}")
        return 1
    print(f"No damage found in {place}")
    return 0


def _n(count: int, what: str) -> str:
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{count:,} {what if count == 1 else plural}"


def _range(low: object, high: object) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
