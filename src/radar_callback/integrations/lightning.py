"""`RadarCallback`: when an evaluation runs in a Lightning Trainer, and where its values go."""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from radar_callback.benchmark.reader import Benchmark
from radar_callback.budget import Budget
from radar_callback.chronicle import Chronicle, history_path
from radar_callback.diagnosis import Finding, Kind
from radar_callback.errors import ConfigError, RanksApartError
from radar_callback.evaluation_size import LEAST_ITEMS, subsets_of
from radar_callback.evaluation_timing import time_items
from radar_callback.evaluator import RadarEvaluator
from radar_callback.history import usable_records
from radar_callback.integrations.averaged_weights import averaged_weights, averaging_in, other_averaging_in
from radar_callback.integrations.callback_names import unique_names
from radar_callback.integrations.discovery import find_model, find_processor, log_folder, replica_of
from radar_callback.integrations.lightning_monitors import Gate, LatestEvaluation, count_evaluations
from radar_callback.integrations.rooted import through_root
from radar_callback.integrations.run_length import RunLength
from radar_callback.ranks import Replica
from radar_callback.reporting.alerts import send
from radar_callback.reporting.progress import progress_bar
from radar_callback.reporting.publisher import LAST_PATIENCE, Publisher
from radar_callback.reporting.terminal import summary_line
from radar_callback.result import RadarResult, labelled, metric_keys, record_metrics
from radar_callback.schedule import Schedule, automatic_interval
from radar_callback.scoring.choose import ScorerName
from radar_callback.scoring.prompt import PromptStyle
from radar_callback.scoring.source import spare_cores
from radar_callback.watch import Watch

log = logging.getLogger(__name__)

STATE_VERSION = 1

REQUEST = "radar_evaluate"
"""A file of this name beside the history asks for an evaluation: `touch …/radar_evaluate`."""


Weights = Literal["current", "averaged"] | Callable[[Trainer, LightningModule], AbstractContextManager[Any]]
"""Which weights are scored; a function makes a context in which the module holds them."""


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
        max_overhead: Share of the run's wall clock that evaluations may take; None for no bound. A few items are timed first;
            where all of them would take too much, a fixed half, quarter, eighth and so on is scored, 16 items of each ability
            or more, and where even that is too much evaluations are spread over the run, the first and the last always among
            them. Two minutes in all are always granted.
        batch_tokens: Bound on the tokens of a batch; found if left out.
        workers: Processes that prepare items ahead of the model; found if left out.
        cache_bytes: Bound on the memory that prepared items take between evaluations, a rank.
        feature_bytes: The same for what a frozen vision tower said.
        replica: Where several ranks hold one copy of the model together in a way that its parameters do not show, of which copy
            this rank is a part; see :class:`radar_callback.evaluator.RadarEvaluator`.
        collective_forward: Whether a forward exchanges something between ranks though no weight is sharded; see there.
        on_finding: Called on rank zero with each :class:`radar_callback.diagnosis.Finding`: alarms when something broke, notes
            on how abilities develop. Alarms also go to the log and to W&B's alerts.
        stop_on: Alarms that end training: any of `"regression"`, `"collapse"`, `"blind"`, `"part_stopped"`. None by default.
        on_error: `"log"`: an evaluation that raises is logged and counted, and training goes on. `"raise"`: it ends the run.
            What can never work (no processor, unknown benchmark) raises before the first step either way.
        progress: Show a progress bar during an evaluation, where the Trainer shows one.
        name: Name of this callback in checkpoints, and in keys and files unless it is the first; that of the benchmark if left
            out. Callbacks of one name are told apart by the options in which they differ.
        weights: `"current"`, which is what is scored if left out: the weights that training steps on, at the last point too.
            `"averaged"`: those of Lightning's weight averaging or of a schedule-free optimizer, put into the model for the
            evaluation and taken out again, bit for bit. A function `(trainer, module) -> context manager` for averages of
            one's own.

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
        replica: Replica | None = None,
        collective_forward: bool = False,
        on_finding: Callable[[Finding], None] | None = None,
        stop_on: Collection[Kind | str] = (),
        on_error: Literal["log", "raise"] = "log",
        progress: bool = True,
        name: str | None = None,
        weights: Weights | None = None,
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
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[\w.= -]+", name)):
            raise ConfigError(f"Expected name to be letters, digits, '.', '_' and '-', but got {name!r}.")
        if not (weights in (None, "current", "averaged") or callable(weights)):
            raise ConfigError(
                "Expected weights to be 'current', 'averaged' or a function (trainer, module) -> context manager, but got "
                f"{weights!r}."
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
        self._replica = replica
        self._collective_forward = collective_forward
        self._progress = progress
        self._evaluator: RadarEvaluator | None = None
        self._chronicle: Chronicle | None = None
        self._weights = weights
        self._base_name = name or self.benchmark.name + ("" if weights in (None, "current") else "_averaged")
        self._name: str | None = None
        self._old_key: str | None = None
        self._number = self._free_number()
        self._trainer_id: int | None = None
        self._gates: list[Gate] = []
        self._place = 0
        self._begin_run()
        self._publisher: Publisher | None = None
        self._last_attempt: int | None = None
        self._watch: Watch | None = None
        self._length = RunLength(float("inf"))
        self._announced = False

    _alive: ClassVar[weakref.WeakSet[RadarCallback]] = weakref.WeakSet()

    def _free_number(self) -> int:
        """Tells it from others of its name until a Trainer shows which of them it runs beside."""
        taken = {other._number for other in self._alive if other._base_name == self._base_name}
        self._alive.add(self)
        return next(n for n in range(1, len(taken) + 2) if n not in taken)

    def _begin_run(self) -> None:
        """Forgets everything about an earlier run."""
        self._run = uuid.uuid4().hex[:8]
        self._records: list[dict[str, Any]] = []
        self.errors = 0
        self._requested = False
        self._given_label: str | None = None
        self._marks: dict[str, int | None] = {}
        self._latest = LatestEvaluation()
        self._said: set[str] = set()

    @property
    def _label(self) -> str:
        """Stands in keys and file names; empty for the first callback of a run."""
        return self._given_label or ""

    @property
    def name(self) -> str:
        """This callback's own name in its run."""
        return self._name or (self._base_name if self._number == 1 else f"{self._base_name}-{self._number}")

    @property
    def state_key(self) -> str:
        """Under which checkpoints keep this callback's state: one for each name."""
        return self._generate_state_key(benchmark=self.name)

    @property
    def _legacy_state_key(self) -> Any:
        """Under which checkpoints of earlier releases, and of runs with this callback alone, keep the state."""
        return self._old_key or self.state_key

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
        run, label, marks = (state_dict.get(key) for key in ("run", "label", "monitors"))
        self._run = run if isinstance(run, str) else self._run
        self._given_label = label if isinstance(label, str) else None
        self._marks = dict(marks) if isinstance(marks, Mapping) else {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins anew with a run; a fit that continues one in the same Trainer goes on."""
        watching = self._watching(trainer)
        names = unique_names([one._base_name for one in watching], [one._options(pl_module) for one in watching])
        for one, name in zip(watching, names, strict=True):
            one._name = name
        alike = [one for one in watching if one.benchmark.name == self.benchmark.name and not one._averages]
        alone = all(one.name != self.benchmark.name for one in watching if one is not self)
        self._old_key = (
            self._generate_state_key(benchmark=self.benchmark.name) if alike[:1] == [self] and alone else None
        )
        if stage != "fit":
            return
        if not (trainer.global_step > 0 and self._trainer_id == id(trainer)):
            self._begin_run()
        self._trainer_id = id(trainer)
        if not any(isinstance(callback, _LastPoints) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            for place, one in enumerate(watching):
                one._place = place
            # Who scores an average comes after who updates it. A list of its own: Lightning is walking through the present one.
            after = [one for one in watching if one._averages]
            others = [one for one in trainer.callbacks if one not in after]  # type: ignore[attr-defined]
            end = next((i for i, one in enumerate(others) if isinstance(one, Checkpoint)), len(others))
            trainer.callbacks = [_LastPoints(), *others[:end], *after, *others[end:]]  # type: ignore[attr-defined]

    @property
    def _averages(self) -> bool:
        return self._weights not in (None, "current")

    def _options(self, pl_module: LightningModule) -> dict[str, str]:
        """What may tell this callback from another of the same benchmark, as parts of a name."""
        model = self._model
        if isinstance(model, nn.Module):
            model = next((name for name, module in pl_module.named_modules() if module is model), "")
        prompt = self._prompt if self._prompt in ("plain", "chat") else getattr(self._prompt, "__name__", self._prompt)
        if not re.fullmatch(r"\w+", str(prompt)):
            prompt = f"prompt{zlib.crc32(str(prompt).encode()):08x}"
        return {
            # Anything else that was handed over is refused in a line of its own, later.
            "model": model.replace(".", "_") if isinstance(model, str) and model else "model",
            "prompt": str(prompt),
            "scorer": str(self._scorer),
            "items": f"{self._items_per_ability or 'all'}",
        }

    @staticmethod
    def _watching(trainer: Trainer) -> list[RadarCallback]:
        return [callback for callback in trainer.callbacks if isinstance(callback, RadarCallback)]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds model and processor, so that what can never work is said before the first step."""
        model = find_model(pl_module, self._model)
        self._scored_model = model
        self._evaluator = self._make_evaluator(trainer, pl_module, model)
        self._say_which_weights(trainer)

    def _make_evaluator(self, trainer: Trainer, pl_module: LightningModule, model: nn.Module) -> RadarEvaluator:
        return RadarEvaluator(
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
            collective_forward=self._collective_forward,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the history; scores the model as it is before the first step."""
        self._last_attempt = None
        self._publisher = Publisher(trainer.loggers) if trainer.is_global_zero else None
        for one in sorted(self._watching(trainer), key=lambda one: one._place):
            if one._given_label is None:
                taken = any(other._given_label == "" for other in self._watching(trainer))
                one._given_label = one.name if taken else ""
        self._open_history(trainer)
        self._show_monitors(trainer)
        schedule = self._schedule
        automatic = schedule is None and self._every_seconds is None
        self._length = RunLength.of(trainer, pl_module, own_schedule=not automatic)
        if automatic:
            schedule = Schedule(every=automatic_interval(self._length.total))
        assert self._evaluator is not None
        self._watch = Watch(
            schedule or Schedule(),
            self._budget,
            every_seconds=self._every_seconds,
            subsets=subsets_of(
                Counter(item.ability for item in self._evaluator.benchmark.items).values(), self._blind_share
            ),
            total=self._length.total,
            seconds=self._length.seconds,
            at_end=self.at_end,
            say=rank_zero_info,
            # A file is taken away by whoever looks first, so only the first rank looks.
            requested=lambda: trainer.is_global_zero and self._take_request(),
            broadcast=trainer.strategy.broadcast,
        )
        self._watch.start(self._length.position(trainer))
        self._announced = False
        assert trainer.strategy.model is not None
        # Only now has the strategy sharded what it shards.
        self._evaluator.model = through_root(self._evaluator.model, trainer.strategy.model)
        self._evaluator.replica = self._replica or replica_of(trainer.strategy)
        self._ended = False
        with self._guarded("looking at the weights"), self._weights_to_score(trainer):
            self._evaluator.look_at_weights()
        if self.at_start:
            self._evaluate(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Evaluates when the schedule says so, or on request."""
        assert self._watch is not None
        # Not in a batch in which Lightning logs: W&B would count two more rows, and a user's own row may stand between them.
        own_log = trainer.log_every_n_steps > 1 and trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        if self._publisher is not None and not own_log:
            self._publisher.deliver()
        if self._watch.due(self._length.position(trainer)) or self._requested:
            self._evaluate(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the model as it is after the last step."""
        self._finish(trainer)
        self._deliver_all()
        if self._watch is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_info(f"{'/'.join(filter(None, ('radar', self._label)))}: {self._watch.summary()}")

    def _finish(self, trainer: Trainer) -> None:
        """Makes the last evaluation, once."""
        if self.at_end and not self._ended:
            self._ended = True
            self._evaluate(trainer, last=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves Lightning's callbacks as they were."""
        self._release(trainer)

    def _release(self, trainer: Trainer) -> None:
        self._marks |= {gate.key: gate.mark for gate in self._gates}
        for gate in self._gates:
            gate.remove()
        self._gates = []
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [one for one in callbacks if not isinstance(one, _LastPoints)]  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives loggers what is still to be given, before they are closed."""
        self._deliver_all()
        self._release(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The history, in builtin types that `torch.load(weights_only=True)` accepts."""
        marks = self._marks | {gate.key: gate.mark for gate in self._gates}
        state = {"version": STATE_VERSION, "history": list(self._records), "errors": self.errors, "run": self._run}
        return state | {"label": self._given_label, "monitors": marks}

    def _open_history(self, trainer: Trainer) -> None:
        """Joins what the checkpoint carried and what the file holds up to this step; each point once."""
        self._records = [record for record in self._records if record["step"] <= trainer.global_step]
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert self._evaluator is not None
        folder = log_folder(trainer)
        if trainer.is_global_zero and folder.is_relative_to(Path("radar_runs").absolute()):
            log.warning("This run's own folder is remote: its history is kept in %s.", folder)
        self.history_path = history_path(folder, self._label)
        self._chronicle = None
        if trainer.is_global_zero:
            self._chronicle = Chronicle(
                folder, self._label, self._evaluator, self._records, trainer.global_step, self._guarded, self._run
            )
            self._records = list(self._chronicle.records)
            self.history_path = self._chronicle.history_path
        # The file is rank 0's; the others must skip the same steps as it.
        shared = (self._records, self._run, self.history_path)
        self._records, self._run, self.history_path = trainer.strategy.broadcast(shared)

    def _show_monitors(self, trainer: Trainer) -> None:
        """Gives monitors the latest evaluation's values, or NaN, and lets Lightning's callbacks count evaluations."""
        mine = [record for record in self._records if record["benchmark"] == self.benchmark.name]
        self._latest.step = mine[-1]["step"] if mine else None
        self._set_metrics(trainer, record_metrics(mine[-1]) if mine else {})
        trainer.callback_metrics[labelled("radar/errors", self._label)] = _scalar(self.errors)
        keys = {labelled(key, self._label) for key in metric_keys(self.benchmark.taxonomy)}
        self._gates = count_evaluations(trainer, keys, self._latest, self._marks)
        if self._gates and trainer.is_global_zero:
            log.info(
                "Monitors of this run count evaluations of %s: %s.", self.benchmark.name, [g.key for g in self._gates]
            )

    def _set_metrics(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        for key in dict.fromkeys([*metric_keys(self.benchmark.taxonomy), *metrics]):
            trainer.callback_metrics[labelled(key, self._label)] = _scalar(metrics.get(key, math.nan))

    def _say_which_weights(self, trainer: Trainer) -> None:
        """Tells once which weights are scored where there are two kinds; refuses what there is none of."""
        known = averaging_in(trainer)
        if self._weights == "averaged" and not known:
            raise ConfigError(
                "Expected something that averages weights for weights='averaged' (Lightning's WeightAveraging or "
                "StochasticWeightAveraging, or an optimizer with train() and eval()), but this run has none: leave it out, or "
                "pass a function (trainer, module) -> context manager."
            )
        names = [*known, *other_averaging_in(trainer)]
        if self._weights is None and names and trainer.is_global_zero:
            log.warning(
                "%s averages weights: scored are those that training steps on, at every point. Pass "
                "RadarCallback(weights='averaged') to score the average, or weights='current' to hide this line.",
                " and ".join(names),
            )

    @contextmanager
    def _weights_to_score(self, trainer: Trainer) -> Iterator[None]:
        module = trainer.lightning_module
        if callable(self._weights):
            with self._weights(trainer, module):
                yield
        elif self._weights == "averaged":
            with averaged_weights(trainer, module, self._scored_model):
                yield
        else:
            yield

    def _follow_model(self, trainer: Trainer) -> None:
        """Notices that the LightningModule has put another model in the place of the one that was scored."""
        assert trainer.strategy.model is not None
        model = find_model(trainer.lightning_module, self._model)
        if model is self._scored_model:
            return
        if "replaced" not in self._said and trainer.is_global_zero:
            self._said.add("replaced")
            log.warning(
                "The model was replaced in training: the new one is scored from step %d on.", trainer.global_step
            )
        self._evaluator = self._make_evaluator(trainer, trainer.lightning_module, model)
        self._evaluator.model = through_root(model, trainer.strategy.model)
        self._evaluator.replica = replica_of(trainer.strategy)
        self._scored_model = model

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
        if not self._announced:
            self._announced = True
            self._size(trainer)
        share = self._watch.subset.share if asked else self._watch.share(self._length.position(trainer), last)
        if share == 0:
            return
        self._last_attempt = step
        begun = time.monotonic()
        visible = self._progress and trainer.is_global_zero and trainer.progress_bar_callback is not None
        bar = progress_bar("radar") if visible else nullcontext()
        errors = self.errors
        try:
            with self._guarded(f"evaluating at step {step}"), bar as progress:
                self._follow_model(trainer)
                with self._weights_to_score(trainer):
                    result = self._evaluator.evaluate(
                        step,
                        share=share,
                        at_least=LEAST_ITEMS,
                        progress=progress,
                        cancelled=lambda: trainer.received_sigterm,
                    )
                self._publish(trainer, result, self._watch.overhead(also=time.monotonic() - begun))
        finally:
            # One that failed has taken its time too.
            self._watch.took(time.monotonic() - begun, whole=self.errors == errors)
        if self.errors:
            self._log_errors(trainer)

    def _size(self, trainer: Trainer) -> None:
        """Settles how many items an evaluation scores, and says so before the first."""
        assert self._evaluator is not None and self._watch is not None
        earlier = [record for record in self._records if record["benchmark"] == self.benchmark.name]
        if not (earlier and self._watch.keep(earlier[-1].get("share", 1.0))) and self._watch.to_be_sized:
            begun, seconds = time.monotonic(), None
            try:
                seconds = time_items(
                    self._evaluator, trainer.strategy.broadcast, cancelled=lambda: trainer.received_sigterm
                )
            except RanksApartError:
                raise
            except Exception as error:  # the evaluation will say it, as one that failed
                log.debug("Could not time items: %s", error)
            self._watch.size(seconds, took=time.monotonic() - begun)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_info(f"{'/'.join(filter(None, ('radar', self._label)))}: {self._watch.announcement()}")

    def _publish(self, trainer: Trainer, result: RadarResult, overhead: float) -> None:
        """History first: what is on disk survives whatever a logger does."""
        metrics = {labelled(key, self._label): value for key, value in result.metrics(overhead).items()}
        self._set_metrics(trainer, result.metrics(overhead))
        self._latest.step = result.step
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
        entry = None
        if self._chronicle is not None:
            entry = self._chronicle.add(result, metrics.get(labelled("radar/overhead", self._label)))
            self.history_path = self._chronicle.history_path
        self._records.append(result.to_record() if entry is None else entry.record)
        if self._publisher is not None:
            items = entry.items if entry is not None else None
            # As in the history: comparing items and diagnosing are a part of what an evaluation takes.
            metrics = {**metrics, labelled("radar/seconds", self._label): self._records[-1]["seconds"]}
            self._publisher.publish(result, metrics, self._records, items, self._label)
            rank_zero_info(summary_line(result))
        if entry is None:
            return []
        send(entry.findings, self._tell_loggers(result.step), self._on_finding)
        return entry.findings

    def _tell_loggers(self, step: int) -> Callable[[Callable[[Any], None]], None]:
        publisher = self._publisher
        return lambda function: publisher.call(function, "alert", step) if publisher is not None else None

    def _deliver_all(self) -> None:
        """Waits for pictures that are still being drawn."""
        if self._publisher is not None:
            with self._guarded("publishing what has been drawn"):
                self._publisher.deliver(wait=LAST_PATIENCE)

    def _log_errors(self, trainer: Trainer) -> None:
        key = labelled("radar/errors", self._label)
        trainer.callback_metrics[key] = _scalar(self.errors)
        if self._publisher is not None:
            with self._guarded("logging the number of errors"):
                self._publisher.publish_scalars(trainer.global_step, {key: self.errors})

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


class _LastPoints(Callback):
    """Stands first in the Trainer's list, so that the last evaluations come before a callback changes weights at the end."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets every callback make its last evaluation."""
        for callback in RadarCallback._watching(trainer):
            callback._finish(trainer)


def _scalar(value: float) -> torch.Tensor:
    """A number as monitors get it, whatever the default dtype and device are."""
    return torch.tensor(value, dtype=torch.float64, device="cpu")
