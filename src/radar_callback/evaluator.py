"""The engine: one benchmark, one model, one call of `evaluate`. It knows `torch.distributed` and no training loop."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from radar_callback.benchmark.reader import Benchmark
from radar_callback.errors import ConfigError
from radar_callback.evaluation_size import Few, subset_name
from radar_callback.item_table import Control, item_index
from radar_callback.memory import peak_bytes
from radar_callback.paired import image_gain
from radar_callback.parts import Parts
from radar_callback.ranks import Ranks, Replica
from radar_callback.resharding import sharding_kept
from radar_callback.result import RadarResult
from radar_callback.rounds import Counts, Nowhere, Rounds
from radar_callback.scoring.blind import BlindEncoder
from radar_callback.scoring.choose import ScorerName, known
from radar_callback.scoring.encode import SampleEncoder
from radar_callback.scoring.features import FeatureMemory
from radar_callback.scoring.plan import deal
from radar_callback.scoring.processor import usable_processor
from radar_callback.scoring.prompt import PromptStyle
from radar_callback.scoring.scorer import a_parameter, unwrapped
from radar_callback.scoring.setup import Setup
from radar_callback.scoring.source import EncodedBenchmark
from radar_callback.shared_buffers import use_first_ranks_buffers
from radar_callback.tally import Tally
from radar_callback.untouched import untouched

ADAPTER_HINT = (
    "for a model of your own pass an adapter, a torch module with a `config` and a forward(input_ids, attention_mask, …) that "
    "returns an object with `.logits`, and its processor"
)
"""What to say to those whose model is none of transformers."""

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (batches done, batches to do) of this rank."""


class RadarEvaluator:
    """Scores a benchmark with a model as it is now; usable from any training loop.

    The benchmark's items are put into batches once, the same on every rank, and whole batches are dealt to ranks: each item is
    scored exactly once, every rank makes the same number of forwards, and the result is the same bits at any world size.
    All ranks must call :meth:`evaluate` together.

    Args:
        model: A Hugging Face image-text-to-text model, wrapped or not; its top-level forward is called. Other models with a
            `config` and the same forward work too.
        processor: The processor of that model, for images and text, or the folder or hub name to load it from. It is left as
            it is: a copy is used where it can be copied, and its settings are put back where not.
        benchmark: Folder, URL, brace pattern, name of a built-in benchmark, or an opened one.
        prompt: `"plain"`, `"chat"`, a template with `{question}`, or a function; see
            :func:`radar_callback.scoring.prompt.prompt_builder`.
        scorer: `"auto"`: the fastest way of scoring that agrees with the reference on a handful of the benchmark's items, found
            at the first evaluation and again when the model is wrapped or cast differently. `"packed"`: each image and prompt
            once an item, with all candidates behind it. `"cached"`: once an item, and candidates in a second forward.
            `"reference"`: both once a candidate. One that is named is compared with the reference, too, and not used where it
            does not agree.
        blind_share: Share of the items that are scored a second time with grey images, to tell what the model owes to looking;
            0 for none.
        items_per_ability: Score only so many items of each ability: always the same ones, and those of a smaller number are
            among those of a larger one. All if left out.
        batch_tokens: Bound on the tokens of a batch, padding counted. Left out, as many as fit into the memory that training
            left free on the accelerator, and 2,048 without one.
        cache_bytes: Bound on the memory that tokenised prompts and preprocessed images take between evaluations, a rank.
        workers: Processes that read and encode items ahead of the model, while they are not in the cache; 0 for none. Left
            out, as many as this rank has cores to spare, 8 at most.
        feature_bytes: Bound on the memory that a frozen vision tower's features take between evaluations, a rank; 0 for none.
            Only a tower whose weights are all frozen and unsharded is remembered, and only until one of them changes.
        forward_context: Makes the context for each forward, such as autocast.
        replica: Where several ranks hold one copy of the model together, of which copy this rank is a part: all its ranks get
            the same batches. Left out, it is read from the meshes of the model's parameters (DTensor, transformers'
            `tp_plan`); tensor parallelism written by hand is refused without it.
        collective_forward: Whether a forward exchanges something between ranks though no weight is sharded (expert or sequence
            parallelism): every rank then takes part in every forward. Found by trying where PyTorch's own process
            groups are used.
        process_group: The ranks that evaluate; all of them if left out. No other rank may call :meth:`evaluate`.

    Raises:
        ConfigError: If `model` has no configuration, the prompt style or the scorer is unknown, or the processor has no image
            token.
        BenchmarkError: If the benchmark cannot be opened.

    Example:
        ```python
        evaluator = RadarEvaluator(model, processor, "radar-mini")
        result = evaluator.evaluate(step=1000)
        print(result.abilities["colour"]["sds"])
        ```
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        benchmark: str | Path | Benchmark = "radar-mini",
        *,
        prompt: PromptStyle = "plain",
        scorer: ScorerName = "auto",
        blind_share: float = 0.125,
        items_per_ability: int | None = None,
        batch_tokens: int | None = None,
        cache_bytes: int = 2**30,
        workers: int | None = None,
        feature_bytes: int = 2**30,
        forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        replica: Replica | None = None,
        collective_forward: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if not 0 <= blind_share <= 1:
            raise ConfigError(f"Expected blind_share to be from 0 to 1, but got {blind_share!r}.")
        config = model_config(model)
        self.model = model
        self.processor = usable_processor(processor)
        opened = Benchmark(benchmark)
        self.benchmark = opened if items_per_ability is None else opened.limit(items_per_ability)
        encoder = SampleEncoder(self.processor, config, prompt)
        self.index = item_index(self.benchmark)
        self._source = EncodedBenchmark(self.benchmark, encoder, cache_bytes, workers)
        self._blind_share = blind_share
        self._blind = EncodedBenchmark(self.benchmark, BlindEncoder(encoder), int(cache_bytes * blind_share), workers)
        self._parts = Parts()
        options = {"prompt": prompt, "items_per_ability": items_per_ability, "blind_share": blind_share}
        self._setup = Setup(self._source, encoder.processor, known(scorer), batch_tokens, options, collective_forward)
        self._features = FeatureMemory(feature_bytes)
        self._forward_context = forward_context
        self.replica = replica
        self._group = process_group

    def evaluate(
        self,
        step: int = 0,
        *,
        share: float = 1.0,
        at_least: int = 1,
        few: Few | None = None,
        per_sample: bool = False,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> RadarResult:
        """Scores the benchmark. The model, its train flags, its buffers and all random streams are left as found.

        Args:
            step: The training step to note in the result.
            share: Score only this share of each ability's items: always the same ones, and those of a smaller share are among
                those of a larger one.
            at_least: Items of each ability to score in any case, as far as it has them, however small the share.
            few: Score only a few of the items and none of them blind: enough to time them.
            per_sample: Also return every item's scores (gathered from all ranks).
            progress: Called after every batch. If it raises, that is logged, and it is not called again in this evaluation.
            cancelled: Asked before every batch: whether to end the evaluation with an error, as the run is being ended. Not
                asked where a forward needs every rank.

        Returns:
            The same result on every rank.

        Raises:
            BenchmarkError: If not a single item can be read and encoded; the message quotes the first reason. On all ranks, if
                these have different items, or different versions of the libraries that read them.
            ConfigError: On all ranks, if these were given different arguments, or hold one copy of the model together in a way
                that cannot be seen and that `replica` does not say.
            EvaluationError: If a forward failed on any of several ranks; on all of them. With one rank, what the model raised.
            RanksApartError: If a forward that needs every rank failed in its middle on this one. Do not go on.
        """
        started = time.perf_counter()
        device = self._ranks().device
        peak = peak_bytes(device)
        # A tower that exchanges something is asked on all ranks or on none.
        remembering = nullcontext() if self._setup.collective(self.model) else self._features.over(self.model)
        with untouched(self.model), sharding_kept(self.model):
            use_first_ranks_buffers(self.model, self._ranks())
            with remembering:
                found = self._run(share, at_least, few, per_sample, progress, cancelled)
        seconds = time.perf_counter() - started
        return RadarResult(
            step=step,
            time=time.time(),
            seconds=seconds,
            benchmark=self.benchmark.name,
            memory_growth=max(0, peak_bytes(device) - peak),
            **found,
        )

    def look_at_weights(self) -> None:
        """Notes the weights as they are now, so that the next evaluation can say how far they moved. On all ranks together."""
        self._parts.moved(self.model, self._ranks())

    def _ranks(self) -> Ranks:
        return Ranks(a_parameter(self.model).device, self.replica, self._group)

    def _has_images(self, batch: Sequence[int]) -> bool:
        return self.benchmark.items[batch[0]].n_images > 0

    def _run(
        self,
        share: float,
        at_least: int,
        few: Few | None,
        per_sample: bool,
        progress: Progress | None,
        cancelled: Callable[[], bool],
    ) -> dict[str, Any]:
        parameter = a_parameter(self.model)
        ranks = self._ranks()
        pad = getattr(self.processor.tokenizer, "pad_token_id", None) or 0
        self._source.cast(parameter.dtype)
        self._blind.cast(parameter.dtype)
        # Without what was added to the tokenizer: a mark may have no logit.
        words = getattr(self.processor.tokenizer, "vocab_size", None)
        words = words if isinstance(words, int) else 0
        make = lambda way: way(self.model, pad, self._forward_context, words)  # noqa: E731
        asked = {"share": share, "at_least": at_least, "few": few, "per_sample": per_sample}
        ready = self._setup.ready(
            self.model, make, ranks, share, share * self._blind_share, at_least, asked, self.replica
        )
        score, replica = ready.scorer, ready.replica
        if few is not None:
            ready = replace(ready, batches=few.of(ready.batches, replica.count), control=[])
        whole = share == 1 and few is None
        tally = Tally(self.benchmark, self.index, ranks, per_sample, whole=whole)
        control = Control(self.index)
        rounds = Rounds(
            score,
            ready.spares,
            self._features,
            ranks,
            cancelled,
            ready.collective,
            replica,
            max(map(len, [*ready.batches, *ready.control])),
        )
        progress = unfailing(progress)
        # Dealt as one row: two rows would each end with a round in which many ranks have nothing to do.
        jobs = [(batch, sight) for sight, part in ((True, ready.batches), (False, ready.control)) for batch in part]
        turns = list(deal(jobs, replica.index, replica.count, lambda job: self._has_images(job[0])))
        streams = {
            sight: source.stream([turn.batch[0] for turn in turns if turn.batch and turn.batch[1] == sight])
            for sight, source in ((True, self._source), (False, self._blind))
        }
        for done, turn in enumerate(turns, start=1):
            if turn.batch is None:
                rounds.idle(bool(turn.kind))
            else:
                batch, sight = turn.batch
                into: Counts = (tally if sight else control) if replica.speaks else Nowhere()
                rounds.take(batch, streams[sight], into, bool(turn.kind))
            progress(done, len(turns))
        if rounds.finish():
            self._setup.shrink()
        fed, padded = ranks.sum(torch.tensor([score.fed, score.padded])).tolist()
        counted = tally.result(asked_for=sum(map(len, ready.batches)))
        sighted = counted["item_scores"]
        return {
            **counted,
            "fluency": sighted.fluency(self.index),
            "image_gain": image_gain(self.index, sighted, control.scores(ranks)) if ready.control else {},
            # Timing is no evaluation: the next one looks back to the one before.
            "moved": self._parts.moved(self.model, ranks) if few is None else {},
            "share": share,
            **subset_name([self.benchmark.items[i] for batch in ready.batches for i in batch]),
            "scorer": score.name,
            "padding": padded / max(1, fed),
            "waited": rounds.waited,
        }


def unfailing(progress: Progress | None) -> Progress:
    """A user's function for progress that is called until it raises: no rank waits for one whose terminal has gone.

    Args:
        progress: Called with (batches done, batches to do), or None.
    """
    if progress is None:
        return lambda done, total: None
    failed = False

    def show(done: int, total: int) -> None:
        nonlocal failed
        if failed:
            return
        try:
            progress(done, total)
        except Exception as error:
            failed = True
            log.warning("Showing progress failed (%s: %s); the evaluation goes on.", type(error).__name__, error)

    return show


def model_config(model: nn.Module) -> Any:
    """The Hugging Face configuration of a model, looked for inside wrappers such as DDP and torch.compile.

    Raises:
        ConfigError: If there is none.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"Expected model to be a torch module, but got {'None' if model is None else f'a {type(model).__name__}'}: pass the "
            "loaded model first and its processor second."
        )
    config = getattr(unwrapped(model), "config", None)
    if config is None:
        raise ConfigError(
            f"Expected a Hugging Face image-text-to-text model with a `config`, but got a {type(model).__name__}: pass model=…; "
            f"{ADAPTER_HINT}."
        )
    missing = missing_inputs(unwrapped(model))
    if missing:
        raise ConfigError(
            f"Expected a model whose forward takes {' and '.join(missing)} by name, but {type(unwrapped(model)).__name__}'s does "
            f"not: {ADAPTER_HINT}."
        )
    return config


def missing_inputs(model: nn.Module) -> list[str]:
    """Which of the inputs that every forward is given a model's forward does not take."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return [name for name in ("input_ids", "attention_mask") if name not in names]
