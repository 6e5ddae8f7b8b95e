"""`python -m benchmarks.scale`: the real planner with a benchmark as large as M3-Bench, on paper, for 8 to 1,024 ranks.

Says how evenly the work is dealt, how often ranks exchange something and what a rank reads. Times follow from tokens a second
of a forward, which `benchmarks.device` measures; everything else is counted.
"""

from __future__ import annotations

import argparse
import json
import random
from typing import Any

from benchmarks.scoring import RESULTS
from radar_callback.benchmark.manifest import Item
from radar_callback.scoring.cost import MOST_TOKENS
from radar_callback.scoring.plan import deal, form_batches, row_lengths

ITEMS = 15_894
RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
COLLECTIVES = "12 an evaluation, 14 in the first; none depends on the number of items (tests/scoring/test_sharded.py)"


def manifest(n: int = ITEMS, seed: int = 0) -> list[Item]:
    """Items whose lengths spread as in real benchmarks: mostly one image, some with up to twelve; short and long questions."""
    rng = random.Random(seed)
    made = []
    for index in range(n):
        images = rng.choices([1, 2, 3, 5, 8, 12], weights=[88, 5, 3, 2, 1, 1])[0]
        k = rng.choices([2, 3, 4], weights=[55, 10, 35])[0]
        question = int(min(1500, rng.lognormvariate(4.8, 0.6)))
        candidates = tuple(int(1 + min(200, rng.lognormvariate(2.5, 0.8))) for _ in range(k))
        sizes = tuple((rng.randint(200, 1200), rng.randint(200, 1000)) for _ in range(images))
        size = sum(w * h // 8 for w, h in sizes) + question
        made.append(Item(index, "shard.tar", str(index), 0, size, 0, "any", None, sizes, question, candidates))
    return made


def simulate(items: list[Item], world: int, tokens: int, visual: float, rate: float) -> dict[str, Any]:
    """One row: what each rank does.

    Args:
        items: Of the manifest.
        world: Number of ranks.
        tokens: Bound on the tokens of a batch.
        visual: Tokens of an image.
        rate: Tokens a second of a forward on one rank.
    """
    lengths = row_lengths(items, lambda width, height: visual, 3.5, together=True)

    def formed(chosen: range) -> list[tuple[int, ...]]:
        images = [items[i].n_images for i in chosen]
        made = form_batches([lengths[i] for i in chosen], [1] * len(chosen), images, tokens)
        return [tuple(chosen[place] for place in batch) for batch in made]

    # As the callback does by default: an eighth of the items a second time, with grey images, dealt in one row with the others.
    jobs = [*formed(range(len(items))), *formed(range(0, len(items), 8))]
    cost = [max(lengths[i] for i in batch) * len(batch) for batch in jobs]
    work, read, rounds = [0.0] * world, [0] * world, 0
    # Ranks wait for each other at the end of a round only where a forward needs them all; without that, at the very end.
    waiting = [0.0] * -(-len(jobs) // world)
    for rank in range(world):
        for number, turn in enumerate(deal(range(len(jobs)), rank, world)):
            rounds = max(rounds, number + 1)
            if turn.batch is not None:
                taken = cost[turn.batch]
                work[rank] += taken
                waiting[number] = max(waiting[number], taken)
                read[rank] += sum(items[i].size for i in jobs[turn.batch])
    useful = sum(lengths[i] for batch in jobs for i in batch)
    return {
        "ranks": world,
        "batches": len(jobs),
        "rounds": rounds,
        "balance": sum(work) / world / max(work),
        "balance_in_step": sum(work) / world / sum(waiting),
        "padding_share": 1 - useful / sum(cost),
        "mib_read_a_rank": max(read) / 2**20,
        "seconds": max(work) / rate,
    }


def main() -> None:
    """Prints the table and writes `results/scale.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=MOST_TOKENS)
    parser.add_argument("--visual", type=float, default=729)
    parser.add_argument("--rate", type=float, default=150_000, help="tokens a second of a forward on one rank")
    options = parser.parse_args()
    items = manifest()
    rows = [simulate(items, world, options.tokens, options.visual, options.rate) for world in RANKS]
    for row in rows:
        print(
            f"{row['ranks']:5d} ranks: {row['rounds']:4d} rounds of {row['batches']} batches, "
            f"balance {100 * row['balance']:.0f}% ({100 * row['balance_in_step']:.0f}% in step), "
            f"padding {100 * row['padding_share']:.1f}%, {row['mib_read_a_rank']:.0f} MiB read, {row['seconds']:.1f} s"
        )
    print(f"Collectives: {COLLECTIVES}.")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scale.json").write_text(json.dumps({**vars(options), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
