"""`RadarCallback`: when an evaluation runs in a Lightning Trainer, and where its values go."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from radar_callback.benchmark.reader import Benchmark
from radar_callback.budget import Budget
from radar_callback.chronicle import Chronicle, history_path
from radar_callback.diagnosis import Finding, Kind
from radar_callback.errors import ConfigError, RanksApartError
from radar_callback.evaluator import RadarEvaluator
from radar_callback.history import usable_records
from radar_callback.integrations.discovery import find_model, find_processor, log_folder, replica_of
from radar_callback.integrations.rooted import through_root
from radar_callback.reporting.alerts import send
from radar_callback.reporting.loggers import log_items, log_result
from radar_callback.reporting.progress import progress_bar
from radar_callback.reporting.terminal import summary_line
from radar_callback.result import RadarResult, labelled
from radar_callback.schedule import Schedule, automatic_interval
from radar_callback.scoring.choose import ScorerName
from radar_callback.scoring.prompt import PromptStyle
from radar_callback.scoring.source import spare_cores
from radar_callback.watch import Watch

log = logging.getLogger(__name__)

STATE_VERSION = 1

REQUEST = "radar_evaluate"
"""A file of this name beside the history asks for an evaluation: `touch …/radar_evaluate`."""


class RadarCallback(Callback):
    """Scores a benchmark with the model under training, every so many steps, and leaves training as it was.

    `RadarCallback()` needs nothing: it finds the Hugging Face image-text-to-text model in the LightningModule, the processor at
    `pl_module.processor`, the datamodule's `processor` or where the model was loaded from, and scores the built-in benchmark
    `radar-mini` about 20 times a run (at most 1,000 steps apart), before the first step and after the last.

    Logged to every logger at `trainer.global_step` and put into `trainer.callback_metrics` (so `EarlyStopping` and
    `ModelCheckpoint` can monitor them): `radar/sds/<ability>`, `radar/sds_logprob/<ability>`, `radar/accuracy/<ability>`,
    `radar/sds/<group>`, `radar/sds/overall`, `radar/asymmetry`, `radar/coverage`, `radar/seconds`, `radar/overhead`, and
    `radar/image_gain`, `radar/fluency`, `radar/share` (of the items: below 1 where `max_overhead` thins), and
    `radar/errors` once an evaluation failed. W&B and TensorBoard also get a radar chart and curves, W&B a table. Each
    evaluation is a line of `radar_history.jsonl` in the run's log folder, on disk before training goes on.

    Several callbacks with different benchmarks can watch one run. All but the first in the Trainer's list put their benchmark's
    name into what they write: `radar/<benchmark>/sds/<ability>`, `radar_history.<benchmark>.jsonl`.

    Args:
        benchmark: Folder, URL, brace pattern, name of a built-in benchmark, or an opened one.
        every_n_steps: Optimizer steps between evaluations; chosen from the length of the run if no schedule is given.
        at_steps: Evaluate at these optimizer steps, or at `"log"`arithmically spaced ones: 1, 2, 3, 4, 5, 6, 8, 10, 14, 18, …
        every_seconds: Also evaluate when so much time has passed since the last evaluation, give or take ten seconds.
        at_start: Also before the first step, for a baseline.
        at_end: Also after the last step.
        model: The model, or its attribute path in the LightningModule, where that holds several.
        processor: The model's processor, or the folder or hub name to load it from.
        prompt: `"plain"`, `"chat"`, a template with `{question}`, or a function; see
            :func:`radar_callback.scoring.prompt.prompt_builder`.
        scorer: `"auto"`, `"packed"`, `"cached"` or `"reference"`; see
            :class:`radar_callback.evaluator.RadarEvaluator`.
        items_per_ability: Score only so many items of each ability, always the same ones.
        blind_share: Share of the items that are scored a second time with grey images, so that a model which does not look
            is told from one which does; 0 for none.
        max_overhead: Share of the run's wall clock that evaluations may take; None for no bound. Where they come too often for
            that, a fixed half, quarter or eighth of the items is scored, and where even that is too much one is let
            pass. Twenty seconds in all are always granted.
        batch_tokens: Bound on the tokens of a batch; found if left out.
        workers: Processes that prepare items ahead of the model; found if left out.
        cache_bytes: Bound on the memory that prepared items take between evaluations, a rank.
        feature_bytes: The same for what a frozen vision tower said.
        on_finding: Called on rank zero with each :class:`radar_callback.diagnosis.Finding`: alarms when something broke, notes
            on how abilities develop. Alarms also go to the log and to W&B's alerts.
        stop_on: Alarms that end training: any of `"regression"`, `"collapse"`, `"blind"`, `"part_stopped"`. None by default.
        on_error: `"log"`: an evaluation that raises is logged and counted, and training goes on. `"raise"`: it ends the run.
            What can never work (no processor, unknown benchmark) raises before the first step either way.
        progress: Show a progress bar during an evaluation, where the Trainer shows one.

    Raises:
        ConfigError: If an argument cannot work; from `fit` for what only the run can tell.

    Example:
        ```python
        trainer = Trainer(callbacks=[RadarCallback()], logger=WandbLogger())
        trainer.fit(module, datamodule)
        ```
    """

    def __init__(
        self,
        benchmark: str | Path | Benchmark = "radar-mini",
        *,
        every_n_steps: int | None = None,
        at_steps: Sequence[int] | Literal["log"] | None = None,
        every_seconds: float | None = None,
        at_start: bool = True,
        at_end: bool = True,
        model: nn.Module | str | None = None,
        processor: Any = None,
        prompt: PromptStyle = "plain",
        scorer: ScorerName = "auto",
        items_per_ability: int | None = None,
        blind_share: float = 0.125,
        max_overhead: float | None = 0.05,
        batch_tokens: int | None = None,
        workers: int | None = None,
        cache_bytes: int = 2**30,
        feature_bytes: int = 2**30,
        on_finding: Callable[[Finding], None] | None = None,
        stop_on: Collection[Kind | str] = (),
        on_error: Literal["log", "raise"] = "log",
        progress: bool = True,
    ) -> None:
        self._schedule = Schedule.of(every_n_steps, at_steps)
        self._budget = Budget(max_overhead)
        Watch(Schedule(), self._budget, every_seconds=every_seconds)
        if on_error not in ("log", "raise"):
            raise ConfigError(f"Expected on_error to be 'log' or 'raise', but got {on_error!r}.")
        alarms = [kind for kind in Kind if kind.is_alarm]
        if isinstance(stop_on, str) or not set(stop_on) <= set(alarms):
            raise ConfigError(
                f"Expected stop_on to hold alarms ({', '.join(map(repr, map(str, alarms)))}), but got {stop_on!r}."
            )
        self._stop_on = frozenset(Kind(kind) for kind in stop_on)
        self._on_finding = on_finding
        self.benchmark = Benchmark(benchmark)
        self._every_seconds = every_seconds
        self.at_start = at_start
        self.at_end = at_end
        self.on_error = on_error
        self.errors = 0
        self.history_path: Path | None = None
        self._model = model
        self._processor = processor
        self._prompt: PromptStyle = prompt
        self._scorer: ScorerName = scorer
        self._items_per_ability = items_per_ability
        self._blind_share = blind_share
        self._batch_tokens = batch_tokens
        self._workers = workers
        self._cache_bytes = cache_bytes
        self._feature_bytes = feature_bytes
        self._progress = progress
        self._evaluator: RadarEvaluator | None = None
        self._chronicle: Chronicle | None = None
        self._records: list[dict[str, Any]] = []
        self._resumed = False
        self._requested = False
        self._label = ""
        self._logging_failures: Counter[tuple[str, str]] = Counter()
        self._last_attempt: int | None = None
        self._watch: Watch | None = None

    @property
    def state_key(self) -> str:
        """Under which checkpoints keep this callback's state: one for each benchmark."""
        return self._generate_state_key(benchmark=self.benchmark.name)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Every evaluation of the run so far, as in `radar_history.jsonl`."""
        return list(self._records)

    def request_evaluation(self) -> None:
        """Asks for an evaluation after the current batch. With several ranks, call it on all of them at the same step."""
        self._requested = True

    # What follows are the hooks, in the order in which Lightning calls them.

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the history of a checkpoint that the run resumes from, whichever release wrote it."""
        version = state_dict.get("version", STATE_VERSION)
        if version != STATE_VERSION:
            log.warning(
                "The checkpoint's radar state is of version %s and this release writes %s: taking over what it understands.",
                version,
                STATE_VERSION,
            )
        self._records = usable_records(state_dict.get("history"))
        errors = state_dict.get("errors", 0)
        self.errors = errors if isinstance(errors, int) else 0
        self._resumed = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds model and processor, so that what can never work is said before the first step."""
        watching = [callback for callback in trainer.callbacks if isinstance(callback, RadarCallback)]  # type: ignore[attr-defined]
        self._label = "" if watching[0] is self else self.benchmark.name
        model = find_model(pl_module, self._model)
        self._evaluator = RadarEvaluator(
            model,
            find_processor(trainer, pl_module, model, self._processor),
            self.benchmark,
            prompt=self._prompt,
            scorer=self._scorer,
            # Lightning's smoke test: one item of each ability is enough to see that everything fits together.
            items_per_ability=1 if trainer.fast_dev_run else self._items_per_ability,  # type: ignore[attr-defined]
            blind_share=self._blind_share,
            batch_tokens=self._batch_tokens,
            # Lightning's launcher does not say in the environment how many ranks share this machine's cores.
            workers=spare_cores(trainer.num_devices) if self._workers is None else self._workers,
            cache_bytes=self._cache_bytes,
            feature_bytes=self._feature_bytes,
            forward_context=trainer.precision_plugin.forward_context,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the history; scores the model as it is before the first step."""
        self._last_attempt = None
        self._open_history(trainer)
        schedule = self._schedule
        if schedule is None and self._every_seconds is None:
            schedule = Schedule(every=automatic_interval(trainer.estimated_stepping_batches))
        self._watch = Watch(
            schedule or Schedule(),
            self._budget,
            every_seconds=self._every_seconds,
            # A file is taken away by whoever looks first, so only the first rank looks.
            requested=lambda: trainer.is_global_zero and self._take_request(),
            broadcast=trainer.strategy.broadcast,
        )
        self._watch.start(trainer.global_step)
        assert self._evaluator is not None and trainer.strategy.model is not None
        # Only now has the strategy sharded what it shards.
        self._evaluator.model = through_root(self._evaluator.model, trainer.strategy.model)
        self._evaluator.replica = replica_of(trainer.strategy)
        self._evaluator.look_at_weights()
        if self.at_start:
            self._evaluate(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Evaluates when the schedule says so, or on request."""
        assert self._watch is not None
        if self._watch.due(trainer.global_step) or self._requested:
            self._evaluate(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the model as it is after the last step."""
        if self.at_end:
            self._evaluate(trainer, last=True)
        self._resumed = False

    def state_dict(self) -> dict[str, Any]:
        """The history, in builtin types that `torch.load(weights_only=True)` accepts."""
        return {"version": STATE_VERSION, "history": list(self._records), "errors": self.errors}

    def _open_history(self, trainer: Trainer) -> None:
        """Joins what the checkpoint carried and what the file holds up to this step; each point once."""
        if trainer.global_step == 0 and not self._resumed:
            self._records = []
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert self._evaluator is not None
        folder = log_folder(trainer)
        self.history_path = history_path(folder, self._label)
        self._chronicle = None
        if trainer.is_global_zero:
            self._chronicle = Chronicle(
                folder, self._label, self._evaluator, self._records, trainer.global_step, self._guarded
            )
            self._records = list(self._chronicle.records)
        # The file is rank 0's; the others must skip the same steps as it.
        self._records = trainer.strategy.broadcast(self._records)

    def _take_request(self) -> bool:
        """Whether somebody has put a file beside the history, which is taken away again."""
        if self.history_path is None:
            return False
        file = self.history_path.with_name(REQUEST)
        try:
            file.unlink()
        except OSError:
            return False
        log.info("Evaluating, as %s asks for.", file)
        return True

    def _evaluate(self, trainer: Trainer, last: bool = False) -> None:
        assert self._evaluator is not None and self._watch is not None
        asked, self._requested = self._requested or self._watch.asked, False
        step = trainer.global_step
        scored = any(record["step"] == step and record["benchmark"] == self.benchmark.name for record in self._records)
        if scored or step == self._last_attempt:
            return
        share = 1.0 if asked else self._watch.share(step, last)
        if share == 0:
            return
        self._last_attempt = step
        begun = time.monotonic()
        visible = self._progress and trainer.is_global_zero and trainer.progress_bar_callback is not None
        bar = progress_bar("radar") if visible else nullcontext()
        errors = self.errors
        try:
            with self._guarded(f"evaluating at step {step}"), bar as progress:
                result = self._evaluator.evaluate(
                    step, share=share, progress=progress, cancelled=lambda: trainer.received_sigterm
                )
                self._publish(trainer, result, self._watch.overhead(also=time.monotonic() - begun))
        finally:
            # One that failed has taken its time too.
            self._watch.took(time.monotonic() - begun, share, whole=self.errors == errors)
        if self.errors:
            self._log_errors(trainer)

    def _publish(self, trainer: Trainer, result: RadarResult, overhead: float) -> None:
        """History first: what is on disk survives whatever a logger does."""
        metrics = {labelled(key, self._label): value for key, value in result.metrics(overhead).items()}
        for key, value in metrics.items():
            trainer.callback_metrics[key] = torch.tensor(value)
        findings: list[Finding] = []
        try:
            findings = self._tell(trainer, result, metrics)
        finally:
            # Whatever has happened on the first rank, the others wait for its answer.
            broken = any(one.kind in self._stop_on for one in findings)
            stop: bool = trainer.strategy.broadcast(broken) if self._stop_on else False
            if stop:
                log.warning("Ending training at step %d, as stop_on asks for.", result.step)
                trainer.should_stop = True

    def _tell(self, trainer: Trainer, result: RadarResult, metrics: Mapping[str, float]) -> list[Finding]:
        """Writes an evaluation down and tells everybody, on the first rank; returns what was found there."""
        entry = self._chronicle.add(result) if self._chronicle is not None else None
        self._records.append(result.to_record() if entry is None else entry.record)
        if trainer.is_global_zero:
            log_result(trainer.loggers, result, metrics, self._records, self._logging_failures, self._label)
            rank_zero_info(summary_line(result))
        if entry is None:
            return []
        log_items(trainer.loggers, entry.items, result.step, self._logging_failures, self._label)
        send(entry.findings, trainer.loggers, self._on_finding)
        return entry.findings

    def _log_errors(self, trainer: Trainer) -> None:
        key = labelled("radar/errors", self._label)
        trainer.callback_metrics[key] = torch.tensor(float(self.errors))
        for logger in trainer.loggers if trainer.is_global_zero else ():
            with self._guarded("logging the number of errors"):
                logger.log_metrics({key: self.errors}, step=trainer.global_step)

    @contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """Keeps an error from ending training, unless the user wants it to."""
        try:
            yield
        except RanksApartError:
            raise
        except Exception as error:
            self.errors += 1
            if self.on_error == "raise":
                raise
            log.exception("Error while %s (%s); training goes on (error %d).", doing, error, self.errors)
