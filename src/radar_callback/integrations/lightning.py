"""`RadarCallback`: when an evaluation runs in a Lightning Trainer, and where its values go."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from radar_callback.benchmark.reader import Benchmark
from radar_callback.errors import ConfigError
from radar_callback.evaluator import RadarEvaluator
from radar_callback.history import History
from radar_callback.integrations.discovery import find_model, find_processor, log_folder
from radar_callback.reporting.loggers import log_result
from radar_callback.reporting.progress import progress_bar
from radar_callback.reporting.terminal import summary_line
from radar_callback.result import RadarResult, labelled
from radar_callback.schedule import automatic_interval, is_due
from radar_callback.scoring.choose import ScorerName
from radar_callback.scoring.prompt import PromptStyle

log = logging.getLogger(__name__)

STATE_VERSION = 1


class RadarCallback(Callback):
    """Scores a benchmark with the model under training, every so many steps, and leaves training as it was.

    `RadarCallback()` needs nothing: it finds the Hugging Face image-text-to-text model in the LightningModule, the processor at
    `pl_module.processor`, the datamodule's `processor` or where the model was loaded from, and scores the built-in benchmark
    `radar-mini` about 20 times a run (at most 1,000 steps apart), before the first step and after the last.

    Logged to every logger at `trainer.global_step` and put into `trainer.callback_metrics` (so `EarlyStopping` and
    `ModelCheckpoint` can monitor them): `radar/sds/<ability>`, `radar/sds_logprob/<ability>`, `radar/accuracy/<ability>`,
    `radar/sds/<group>`, `radar/sds/overall`, `radar/asymmetry`, `radar/coverage`, `radar/seconds`, `radar/overhead`, and
    `radar/errors` once an evaluation failed. W&B and TensorBoard also get a radar chart and curves, W&B a table. Each
    evaluation is a line of `radar_history.jsonl` in the run's log folder, on disk before training goes on.

    Several callbacks with different benchmarks can watch one run. All but the first in the Trainer's list put their benchmark's
    name into what they write: `radar/<benchmark>/sds/<ability>`, `radar_history.<benchmark>.jsonl`.

    Args:
        benchmark: Folder, URL, brace pattern, name of a built-in benchmark, or an opened one.
        every_n_steps: Optimizer steps between evaluations; chosen from the length of the run if left out.
        at_start: Also before the first step, for a baseline.
        at_end: Also after the last step.
        model: The model, or its attribute path in the LightningModule, where that holds several.
        processor: The model's processor, or the folder or hub name to load it from.
        prompt: `"plain"`, `"chat"`, a template with `{question}`, or a function; see
            :func:`radar_callback.scoring.prompt.prompt_builder`.
        scorer: `"auto"`, `"packed"`, `"cached"`, `"shared"` or `"reference"`; see
            :class:`radar_callback.evaluator.RadarEvaluator`.
        items_per_ability: Score only so many items of each ability, always the same ones.
        batch_tokens: Bound on the tokens of a batch; found if left out.
        workers: Processes that prepare items ahead of the model; found if left out.
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
        at_start: bool = True,
        at_end: bool = True,
        model: nn.Module | str | None = None,
        processor: Any = None,
        prompt: PromptStyle = "plain",
        scorer: ScorerName = "auto",
        items_per_ability: int | None = None,
        batch_tokens: int | None = None,
        workers: int | None = None,
        on_error: Literal["log", "raise"] = "log",
        progress: bool = True,
    ) -> None:
        if every_n_steps is not None and (not isinstance(every_n_steps, int) or every_n_steps < 1):
            raise ConfigError(f"Expected every_n_steps to be a whole number of at least 1, but got {every_n_steps!r}.")
        if on_error not in ("log", "raise"):
            raise ConfigError(f"Expected on_error to be 'log' or 'raise', but got {on_error!r}.")
        self.benchmark = Benchmark(benchmark)
        self.every_n_steps = every_n_steps
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
        self._batch_tokens = batch_tokens
        self._workers = workers
        self._progress = progress
        self._evaluator: RadarEvaluator | None = None
        self._history: History | None = None
        self._records: list[dict[str, Any]] = []
        self._resumed = False
        self._requested = False
        self._label = ""
        self._logging_failures: Counter[tuple[str, str]] = Counter()
        self._interval = 1
        self._last_step = 0
        self._last_attempt: int | None = None
        self._started = self._spent = 0.0

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
        """Takes over the history of a checkpoint that the run resumes from."""
        self._records = list(state_dict.get("history", []))
        self.errors = int(state_dict.get("errors", 0))
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
            batch_tokens=self._batch_tokens,
            workers=self._workers,
            forward_context=trainer.precision_plugin.forward_context,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the history; scores the model as it is before the first step."""
        self._interval = self.every_n_steps or automatic_interval(trainer.estimated_stepping_batches)
        self._last_step = trainer.global_step
        self._last_attempt = None
        self._started, self._spent = time.monotonic(), 0.0
        self._open_history(trainer)
        if self.at_start:
            self._evaluate(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Evaluates when a multiple of `every_n_steps` was reached, or on request."""
        due = is_due(self._last_step, trainer.global_step, self._interval) or self._requested
        self._last_step = trainer.global_step
        if due:
            self._evaluate(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the model as it is after the last step."""
        if self.at_end:
            self._evaluate(trainer)
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
        name = f"radar_history.{self._label}.jsonl" if self._label else "radar_history.jsonl"
        self.history_path = log_folder(trainer) / name
        if trainer.is_global_zero:
            with self._guarded("opening the history"):
                if self._records or trainer.global_step:
                    self._history = History(self.history_path)
                    self._history.rewind(trainer.global_step)
                    self._history.merge(self._records)
                else:
                    self._history = History.start_fresh(self.history_path)
                self._records = self._history.state()
        # The file is rank 0's; the others must skip the same steps as it.
        self._records = trainer.strategy.broadcast(self._records)

    def _evaluate(self, trainer: Trainer) -> None:
        self._requested = False
        step = trainer.global_step
        scored = any(record["step"] == step and record["benchmark"] == self.benchmark.name for record in self._records)
        if scored or step == self._last_attempt:
            return
        self._last_attempt = step
        assert self._evaluator is not None
        begun = time.monotonic()
        visible = self._progress and trainer.is_global_zero and trainer.progress_bar_callback is not None
        bar = progress_bar("radar") if visible else nullcontext()
        with self._guarded(f"evaluating at step {step}"), bar as progress:
            self._publish(trainer, self._evaluator.evaluate(step, progress=progress), begun)
        self._spent += time.monotonic() - begun
        if self.errors:
            self._log_errors(trainer)

    def _publish(self, trainer: Trainer, result: RadarResult, begun: float) -> None:
        """History first: what is on disk survives whatever a logger does."""
        spent = self._spent + time.monotonic() - begun
        overhead = spent / max(time.monotonic() - self._started, 1e-9)
        metrics = {labelled(key, self._label): value for key, value in result.metrics(overhead).items()}
        record = result.to_record()
        self._records.append(record)
        if self._history is not None:
            with self._guarded("writing the history"):
                self._history.append(record)
        for key, value in metrics.items():
            trainer.callback_metrics[key] = torch.tensor(value)
        if trainer.is_global_zero:
            log_result(trainer.loggers, result, metrics, self._records, self._logging_failures, self._label)
            rank_zero_info(summary_line(result))

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
        except Exception as error:
            self.errors += 1
            if self.on_error == "raise":
                raise
            log.exception("Error while %s (%s); training goes on (error %d).", doing, error, self.errors)
