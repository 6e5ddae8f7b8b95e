"""`make bench`: every way of scoring against the authors' way, for every family of models.

The model part alone, on items encoded beforehand, in one process and one thread, taking turns; ratios are medians over
rounds. The floor is what the arithmetic of a family cannot do without: its FLOPs with each prompt once, each candidate's tokens
but the last once, and logits where a token is predicted, no padding. What share of it a way reaches is its speed-up over the
authors' way by the speed-up that the floor would be: at 1, every FLOP beyond the floor is saved, at the authors' FLOPs a second.
Most of the authors' FLOPs are one large matrix product over the vocabulary, which runs faster than anything else in a model, so
a plain forward of the prompts alone, which no way can do without, is timed too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.helpers.families import FAMILIES, Size
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report
from benchmarks.authors import authors_way, prompts_alone
from benchmarks.items import items
from benchmarks.memory import peak_mib
from radar_callback.scoring.check import check
from radar_callback.scoring.choose import FAST, WAYS
from radar_callback.scoring.cost import CPU_TOKENS
from radar_callback.scoring.encode import EncodedSample
from radar_callback.scoring.plan import form_batches
from radar_callback.scoring.scorer import Scorer

RESULTS = Path(__file__).parent / "results"
VOCABULARIES = (32_000, 151_936)
CANDIDATES = (2, 4)


def size(vocabulary: int) -> Size:
    """The prototype's: hidden 256, four layers, a tower of three."""
    return Size(
        side=256, patch=16, vision=256, vision_layers=3, hidden=256, layers=4, heads=4, context=2048,
        vocabulary=vocabulary, pooled=1,
    )  # fmt: skip


def batches(samples: Sequence[EncodedSample], together: bool, tokens: int) -> list[list[EncodedSample]]:
    """The engine's own batches."""
    ends = sum if together else max
    lengths = [sample.prefix_length + ends(len(tail.ids) for tail in sample.tails) for sample in samples]
    rows = [1 if together else len(sample.tails) for sample in samples]
    formed = form_batches(lengths, rows, [sample.prompt_images for sample in samples], tokens)
    return [[samples[i] for i in batch] for batch in formed]


def whole(way: Scorer, samples: Sequence[EncodedSample], tokens: int) -> dict[int, torch.Tensor]:
    """Scores all items in batches; mean logits by item."""
    found = {}
    for batch in batches(samples, way.together, tokens):
        scores = way(batch)
        for row, sample in enumerate(batch):
            found[id(sample)] = scores.mean_logits[row][scores.mask[row]]
    return found


def seconds(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@torch.no_grad()
def measure(name: str, model_size: Size, k: int, n: int, rounds: int, tokens: int = CPU_TOKENS) -> list[dict[str, Any]]:
    """Rows of the table for one family, vocabulary and number of candidates.

    Args:
        name: Of the family.
        model_size: Of its model.
        k: Candidates of each item.
        n: Items.
        rounds: How often each way takes its turn.
        tokens: Bound on the tokens of a batch.
    """
    model, processor = _family(name, model_size)
    pad = processor.tokenizer.pad_token_id
    # InternVL makes 64 tokens of a tile; a picture of several tiles is as long as those of other families.
    samples = items(model, processor, n, k, model_size.side * (2 if name == "internvl" else 1))
    make = lambda way: way(model, pad)  # noqa: E731
    reference = make(WAYS["reference"])
    ways = {"reference": reference, **{kind.name: make(kind) for kind in FAST if _honours(name, kind, samples, make)}}
    chosen = next(kind.name for kind in (*FAST, WAYS["reference"]) if kind.name in ways)
    # An item at a time: no padding.
    floor = flops(lambda: [make(WAYS[chosen])([sample]) for sample in samples])
    theirs = flops(lambda: authors_way(model, samples, pad))
    wanted: list[list[float]] = []
    found: dict[str, list[list[float]]] = {}
    taken = {}
    ratios: dict[str, list[float]] = {label: [] for label in ways}
    plain: list[float] = []
    together = batches(samples, True, tokens)
    for turn in range(rounds):
        alone = seconds(lambda: [prompts_alone(model, batch, pad) for batch in together])
        baseline = seconds(lambda: wanted.extend(authors_way(model, samples, pad)))
        for label, way in ways.items():
            # The ways that `auto` does not take here are there for comparison: once is enough.
            if turn and label != chosen:
                continue
            way.fed = way.padded = 0
            scores: dict[int, torch.Tensor] = {}
            spent = seconds(lambda w=way, s=scores: s.update(whole(w, samples, tokens)))
            ratios[label].append(baseline / spent)
            if label == chosen:
                plain.append(alone / spent)
            found[label] = [scores[id(sample)].tolist() for sample in samples]
            taken[label] = way.padded / way.fed
    wanted = wanted[: len(samples)]
    largest = max(samples, key=lambda sample: sample.prefix_length)
    rows = [_row(name, model_size, k, "authors", 1.0, theirs / floor, 0.0, 0.0)]
    rows[0]["peak_mib"] = peak_mib(model, lambda: authors_way(model, [largest], pad))
    for label, way in ways.items():
        worst = max(abs(a - b) for x, y in zip(found[label], wanted, strict=True) for a, b in zip(x, y, strict=True))
        row = _row(name, model_size, k, label, statistics.median(ratios[label]), theirs / floor, worst, taken[label])
        row["peak_mib"] = peak_mib(model, lambda w=way: whole(w, samples, tokens))
        row["auto"] = label == chosen
        row["fraction_of_prompts_alone"] = statistics.median(plain) if label == chosen else None
        rows.append(row)
    return rows


def _row(
    name: str, model_size: Size, k: int, label: str, ratio: float, floor_ratio: float, worst: float, padding: float
) -> dict[str, Any]:
    return {
        "family": name,
        "vocab": model_size.vocabulary,
        "k": k,
        "strategy": label,
        "ratio_to_authors": ratio,
        "fraction_of_floor": ratio / floor_ratio,
        "max_abs_diff": worst,
        "peak_mib": 0.0,
        "padding_share": padding,
        "flops_ratio": floor_ratio,
        "auto": False,
    }


_made: dict[tuple[str, Size], Any] = {}
_honoured: dict[tuple[str, str], bool] = {}


def _honours(name: str, kind: type[Scorer], samples: Sequence[EncodedSample], make: Any) -> bool:
    """Whether a family agrees to a way: the same at any vocabulary and number of candidates, so found out once."""
    if (name, kind.name) not in _honoured:
        reference = make(WAYS["reference"])
        _honoured[name, kind.name] = check(make(kind), reference, [samples[:2]]).agrees
    return _honoured[name, kind.name]


def _family(name: str, model_size: Size) -> Any:
    """One model at a time is kept: at a vocabulary of 152k they are large."""
    if (name, model_size) not in _made:
        _made.clear()
        model, processor = FAMILIES[name].__wrapped__(model_size)
        # The FLOP counter stumbles over parameters that are handed from module to module while gradients are off.
        _made[name, model_size] = model.requires_grad_(False), processor
    return _made[name, model_size]


def main() -> None:
    """Measures what the command line asks for and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--vocab", nargs="*", type=int, default=list(VOCABULARIES))
    parser.add_argument("--k", nargs="*", type=int, default=list(CANDIDATES))
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=CPU_TOKENS)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / "scoring.json"
    rows = json.loads(file.read_text()) if file.exists() and not options.no_write else []
    for name in options.families:
        fresh: list[dict[str, Any]] = []
        for vocabulary in options.vocab:
            for k in options.k:
                cell = measure(name, size(vocabulary), k, options.items, options.rounds, options.tokens)
                print("\n".join(map(report.line, cell)), flush=True)
                fresh += cell
        # Family by family, so that one that fails, or is measured anew, leaves the others' rows as they are.
        rows = [row for row in rows if row["family"] != name] + fresh
        if not options.no_write:
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(rows, indent=1) + "\n")
            (RESULTS / "scoring.md").write_text(report.markdown(rows))
    print(report.markdown(rows))


if __name__ == "__main__":
    main()
