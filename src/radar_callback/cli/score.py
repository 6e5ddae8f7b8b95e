"""`radar-callback score`: one saved checkpoint, the same numbers as in training."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from radar_callback.errors import ConfigError
from radar_callback.files import write_atomically

if TYPE_CHECKING:
    from radar_callback.result import RadarResult


class Dtype(StrEnum):
    """Number formats a model can be loaded in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Way(StrEnum):
    """Ways of scoring."""

    AUTO = "auto"
    PACKED = "packed"
    CACHED = "cached"
    REFERENCE = "reference"


def score(
    model: Annotated[str, typer.Argument(help="Folder of a saved Hugging Face checkpoint, or a name on the hub.")],
    json_out: Annotated[Path, typer.Option("--json", help="Where the scores are written.")],
    benchmark: Annotated[
        str, typer.Option(help="Folder, URL, brace pattern or name of a built-in one.")
    ] = "radar-mini",
    per_sample: Annotated[bool, typer.Option("--per-sample", help="Also write every item's scores.")] = False,
    prompt: Annotated[str, typer.Option(help="plain, chat, or a template with {question}.")] = "plain",
    scorer: Annotated[Way, typer.Option(help="auto: the fastest that agrees with the reference.")] = Way.AUTO,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, mps …; auto takes an accelerator if there is one.")
    ] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="auto keeps what the checkpoint was saved in.")] = Dtype.AUTO,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only so many items of each ability.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Bound on the tokens of a batch.")] = None,
) -> None:
    """Score one saved checkpoint on a benchmark."""
    # Imported here: `--help` and mistyped options should not wait for torch.
    from radar_callback.benchmark.reader import Benchmark
    from radar_callback.evaluator import RadarEvaluator
    from radar_callback.reporting.progress import progress_bar
    from radar_callback.reporting.terminal import print_result
    from radar_callback.scoring.processor import load_processor
    from radar_callback.scoring.prompt import prompt_builder

    if not json_out.absolute().parent.is_dir():
        raise ConfigError(f"Expected --json in a folder that exists, but {json_out.absolute().parent} does not.")
    if json_out.is_dir():
        raise ConfigError(f"Expected --json to name a file, but {json_out} is a folder.")
    if prompt != "chat":  # what is wrong with a style should be said before a model is loaded
        prompt_builder(prompt, None, "<image>")
    opened = Benchmark(benchmark)
    loaded = _load_model(model, device, dtype)
    evaluator = RadarEvaluator(
        loaded,
        load_processor(model),
        opened,
        prompt=prompt,
        scorer=scorer.value,
        items_per_ability=limit,
        batch_tokens=batch_tokens,
    )
    with progress_bar("scoring") as show:
        result = evaluator.evaluate(per_sample=per_sample, progress=show)
    write_atomically(json_out, json.dumps(_document(model, result, per_sample), ensure_ascii=False, indent=1) + "\n")
    print_result(result, title=f"{opened.name}, scored by {Path(model).name}")
    typer.echo(f"Written: {json_out}")


def _load_model(name: str, device: str, dtype: Dtype) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = accelerator.type if accelerator else "cpu"
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ConfigError(f"Expected a checkpoint at {name}, but there is nothing.")
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype.value)
        return loaded.to(torch.device(device)).eval()
    except (
        Exception
    ) as error:  # transformers and torch raise many kinds for a folder that is no checkpoint or a bad device
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"Expected {name!r} to be a checkpoint of an image-text-to-text model that loads on {device!r}: {first}"
        ) from error


def _document(model: str, result: RadarResult, per_sample: bool) -> dict[str, Any]:
    record = result.to_record()
    document = {
        "model": model,
        **{key: record[key] for key in ("benchmark", "samples", "failed", "coverage", "failures")},
        **{key: record[key] for key in ("abilities", "groups", "overall")},
    }
    # `samples` is the contract's name for the items; their number goes under a name of its own.
    document["count"] = document.pop("samples")
    if per_sample:
        document["samples"] = [asdict(item) for item in result.items]
        document["unscored"] = list(result.unscored)
    return document
