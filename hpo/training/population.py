"""The population: P trainings in lockstep on one device, each lane with a trial of its own.

Every lane has its own parameters, hyperparameters, Adam state, step count, data draw and epoch; lanes start and
stop at epoch boundaries while their neighbours train on. A lane's numbers depend on its task alone.

Shapes: P lanes, B items of a batch, S items of an epoch, E items that are evaluated, n parameters.
"""

import logging
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hpo.training import streams
from hpo.training.dropout import dropouts
from hpo.training.generators import seeded
from hpo.training.initialisation import initial_parameters
from hpo.training.kernels import selection
from hpo.training.lockstep import Layout, Lockstep
from hpo.training.mapped import CannotMap, MappedTwin, module_initialisation, twin_of
from hpo.training.memory import check_device, is_out_of_memory
from hpo.training.recipe import Inputs, LossColumns, Recipe, to_tensor
from hpo.training.stacked import read_windows

logger = logging.getLogger(__name__)

EVALUATION_CHUNK = 1000  # items a forward pass outside of training, of each lane
EVALUATION_ITEMS = 64_000  # and of all lanes together
ItemMetric = Callable[[Any, LossColumns], Tensor]  # of the recipe's outputs (P, E, ...) and the columns: (P, E)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training, as a lane needs it."""

    key: int  # the caller's identifier for it
    params: Mapping[str, float]  # hyperparameters by name
    seed: int  # keys initialisation, order, dropout
    epochs: int
    training: Any  # S items, as the recipe's inputs and columns read them
    validation: Any  # items that are evaluated after every epoch; None: nothing is


@dataclass(frozen=True, kw_only=True)
class LaneState:
    """Everything needed to continue a lane elsewhere; tensors on the CPU."""

    epoch: int  # epochs trained
    parameters: Tensor  # (n,)
    first_moment: Tensor  # (n,)
    second_moment: Tensor  # (n,)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # the module's, as BatchNorm's running statistics


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The result of one epoch of one lane."""

    lane: int
    key: int
    epoch: int  # epochs trained, from 1
    train_loss: float  # that the recipe shows, mean over the epoch, dropout active
    diverged: bool  # NaN or inf in a loss or a metric
    last: bool  # the task's epochs are done
    validation: Mapping[str, float] = field(default_factory=dict)  # metrics by name; empty where there are no items


class LanesFailed(Exception):
    """Lanes whose training raised even when tried alone; they stay as they were."""

    def __init__(self, reports: list[EpochReport], errors: dict[int, str]) -> None:
        """`reports` are the other lanes', `errors` the tracebacks by lane."""
        super().__init__("\n".join(f"lane {lane}: {why}" for lane, why in errors.items()))
        self.reports, self.errors = reports, errors


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a table's items give, dropout off; on the population's device."""

    outputs: Any  # the recipe's: a tensor (E, ...), or several by name
    scores: Mapping[str, Tensor]  # by metric, (E,)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Items on the device: (S, ...) of one training, or (P, S, ...)."""

    index: Tensor  # what of the inputs they are
    columns: Mapping[str, Tensor]  # what the loss needs of them

    @classmethod
    def stacked(cls, tables: Sequence["Table"]) -> "Table":
        """Tables of equally many items as one (P, S, ...)."""
        names = tables[0].columns
        return cls(
            index=torch.stack([table.index for table in tables]),
            columns={name: torch.stack([table.columns[name] for table in tables]) for name in names},
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Table":
        """Each tensor changed."""
        columns = {name: change(values) for name, values in self.columns.items()}
        return Table(index=change(self.index), columns=columns)

    def put(self, lane: int, table: "Table") -> None:
        """Take a training's items for one lane."""
        self.index[lane] = table.index
        for name, values in table.columns.items():
            self.columns[name][lane] = values


@dataclass
class _Lane:
    task: Task
    epoch: int  # epochs trained


class Population:
    """Up to `lanes` trainings by one recipe on one device; all tasks have the same number of items and batch size.

    The busy lanes are trained an epoch at a time, `width` of them in one program; idle lanes cost nothing. A lane's
    state changes only when its epoch is complete: an epoch that is abandoned leaves no trace.
    """

    def __init__(
        self,
        recipe: Recipe,
        lanes: int,
        pool: Any,
        *,
        samples: int,
        batch: int,
        metrics: Mapping[str, ItemMetric] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`pool` is what the recipe's inputs are made from; the last batch of `samples` items may be smaller.

        `metrics` are what evaluations measure of each item.
        """
        self.recipe, self.lanes, self.samples, self.batch = recipe, lanes, samples, batch
        self.metrics = dict(metrics or {})
        self.width = lanes  # lanes in one program; halved where memory runs out
        self.apart = ""  # why lanes train one at a time, where the module cannot be run for several
        self.device, self.dtype = torch.device(device), dtype
        self.plain = recipe.module()
        self.layout = Layout(self.plain)
        self.inputs = self.inputs_of(pool)
        self._evaluator = twin_of(self.plain, windows=self.inputs.windows is not None).to(self.device, dtype).eval()
        self._needed = {*recipe.optimizer.names, *(layer.rate for layer in dropouts(self.plain))}
        n = sum(self.layout.sizes)
        self.parameters, self.first, self.second = (
            torch.zeros(lanes, n, device=self.device, dtype=dtype) for _ in range(3)
        )
        self.buffers = self.layout.buffers(lanes, self.device, self.dtype)
        self._hyper: dict[str, Tensor] = {}  # (P,) by name
        self._order_key, self._dropout_key = (
            torch.zeros(lanes, dtype=torch.int64, device=self.device) for _ in range(2)
        )
        self._tables: Table | None = None  # all lanes' training items, (P, S, ...)
        self._sample_counters = streams.counters(samples, self.device)
        self._lockstep: Lockstep | None = None
        self._kernel_calls = 0  # by its steps
        self._lanes: list[_Lane | None] = [None] * lanes
        self._validation: dict[int, Table] = {}  # by lane, (E, ...)

    @property
    def kernels(self) -> str:
        """Which kernels its steps have used, or why none, in words."""
        return selection.used(self.device, self._kernel_calls)

    # -- lanes ---------------------------------------------------------------------------------------------

    @property
    def free(self) -> list[int]:
        """Lanes that can take a task: those without one, but no more than one program holds."""
        idle = [lane for lane, at in enumerate(self._lanes) if at is None]
        return idle[: max(0, self.width - len(self.busy))]

    @property
    def busy(self) -> list[int]:
        """Lanes that train."""
        return [lane for lane, at in enumerate(self._lanes) if at is not None]

    def _at(self, lane: int) -> _Lane:
        at = self._lanes[lane]
        if at is None:
            raise ValueError(f"lane {lane} is free")
        return at

    def start(self, lane: int, task: Task, state: LaneState | None = None) -> None:
        """Put a task on a free lane, from its beginning or from a saved state."""
        if self._lanes[lane] is not None:
            raise ValueError(f"lane {lane} is busy")
        if missing := sorted(self._needed.difference(task.params)):
            raise ValueError(f"the recipe needs the hyperparameter {missing[0]!r}, there is {sorted(task.params)}")
        table = self._table(task.training)
        if len(table.index) != self.samples:
            raise ValueError(f"{len(table.index)} items in a population of {self.samples}")
        if state is None:
            mapped = isinstance(self._evaluator, MappedTwin)
            values = (
                module_initialisation(self.recipe.module, task.seed)
                if mapped
                else initial_parameters(self.plain, task.seed)
            )
            start = torch.cat([values[name].flatten() for name in self.layout.shapes])
            state = LaneState(
                epoch=0,
                parameters=start,
                first_moment=torch.zeros_like(start),
                second_moment=torch.zeros_like(start),
                buffers={name: values[name] for name in self.buffers},
            )
        self.parameters[lane], self.first[lane], self.second[lane] = (
            t.to(self.device, self.dtype) for t in (state.parameters, state.first_moment, state.second_moment)
        )
        for name, of_lanes in self.buffers.items():
            of_lanes[lane] = state.buffers[name].to(self.device)
        for name in task.params.keys() - self._hyper.keys():
            self._hyper[name] = torch.zeros(self.lanes, dtype=torch.float64, device=self.device)
        for name, values_P in self._hyper.items():
            values_P[lane] = task.params.get(name, 0.0)
        self._order_key[lane] = streams.key(task.seed, "order")
        self._dropout_key[lane] = streams.key(task.seed, "dropout")
        self._reserve(table).put(lane, table)
        if task.validation is not None:
            self._validation[lane] = self._table(task.validation)
        self._lanes[lane] = _Lane(task, state.epoch)

    def reserve(self, training: Any) -> None:
        """Take the memory for all lanes' training items, which are like these; else it is taken when one starts."""
        self._reserve(self._table(training))

    def _reserve(self, table: Table) -> Table:
        if self._tables is None:
            self._tables = table.map(lambda values: values.new_zeros(self.lanes, *values.shape))
        return self._tables

    def _table(self, items: Any, inputs: Inputs | None = None, *, with_columns: bool = True) -> Table:
        """Items on the device: what they are of the inputs, and their columns in the precision of the population."""
        columns = {
            name: values.to(self.device, self.dtype if values.is_floating_point() else None)
            for name, column in (self.recipe.columns(items) if with_columns else {}).items()
            for values in [to_tensor(column, f"column {name}")]
        }
        return Table(index=(inputs or self.inputs).index(items), columns=columns)

    def stop(self, lane: int) -> None:
        """Free a lane; its parameters stay readable until the next start."""
        self._lanes[lane] = None
        self._validation.pop(lane, None)

    def state(self, lane: int) -> LaneState:
        """A busy lane's state at this epoch boundary."""
        return LaneState(
            epoch=self._at(lane).epoch,
            parameters=self.parameters[lane].cpu().clone(),
            first_moment=self.first[lane].cpu().clone(),
            second_moment=self.second[lane].cpu().clone(),
            buffers={name: values[lane].cpu().clone() for name, values in self.buffers.items()},
        )

    # -- training ------------------------------------------------------------------------------------------

    def train_epoch(
        self, lanes: Sequence[int] | None = None, *, stop: Callable[[], bool] = lambda: False
    ) -> list[EpochReport]:
        """Train every busy lane, or those named, for one epoch, evaluate their validation pairs, and report.

        `stop` is called before every step: once it returns true, lanes whose epoch is not complete stay as they were
        and are not reported. Where memory runs out, `width` is halved and the epoch repeated in more parts.
        Raises LanesFailed where a lane raises even alone; all other lanes have trained their epoch. Raises DeviceLost
        where the device is not to be used again; the lanes' states can then not be read.
        """
        reports: list[EpochReport] = []
        errors: dict[int, str] = {}
        suspects: set[int] = set()  # lanes of a group that raised: each is tried alone
        together = ""  # why lanes cannot be trained at once
        waiting = self.busy if lanes is None else list(lanes)
        while waiting:
            group = waiting[: 1 if waiting[0] in suspects else self.width]
            try:
                numbers = self._train(group, stop)
            except Exception as error:  # kept as text: its traceback holds the tensors
                memory, why = is_out_of_memory(error), traceback.format_exc()
                if not isinstance(error, CannotMap) and isinstance(self._evaluator, MappedTwin):
                    error = CannotMap(why.strip().splitlines()[-1])
                apart = str(error) if isinstance(error, CannotMap) else ""
            else:
                if numbers is None:
                    break
                waiting = waiting[len(group) :]
                reports += self._report(group, numbers)
                continue
            self._lockstep = None
            check_device(self.device)
            if len(group) == 1:
                errors[group[0]] = why
                waiting = waiting[1:]
            elif memory:
                self.width = (len(group) + 1) // 2
            else:
                suspects.update(group)
                together = together or apart
        if together and not errors:
            logger.warning("lanes train one at a time from now on: the module cannot be run for several (%s)", together)
            self.width = 1
            self.apart = together
        if errors:
            raise LanesFailed(reports, errors)
        return reports

    def _train(self, group: list[int], stop: Callable[[], bool]) -> Tensor | None:
        """One epoch of these lanes, and their validation; (2 + metrics, P) on the CPU, the one wait for the device."""
        if self._lockstep is None or self._lockstep.width < len(group):
            self._lockstep = self._program(len(group))
        tasks = [self._at(lane) for lane in group]
        at = torch.tensor([group, [at.epoch for at in tasks], [at.task.epochs for at in tasks]])
        lanes, epochs, whole = at.to(self.device).unbind()  # one copy to the device
        order = streams.permutations(streams.step_keys(self._order_key[lanes], epochs), self._sample_counters)
        assert self._tables is not None  # a lane has started
        ordered = self._tables.map(lambda values: values[lanes[:, None], order])
        self._lockstep.load(
            self.parameters[lanes],
            self.first[lanes],
            self.second[lanes],
            {name: values[lanes] for name, values in self.buffers.items()},
        )
        steps_an_epoch = math.ceil(self.samples / self.batch)
        fast = selection.for_device(self.device, self.dtype)
        before = fast.calls if fast else 0
        first = tasks[0]
        with seeded(streams.key(first.task.seed, f"generators, epoch {first.epoch}"), self.device) as drawn:
            means = self._lockstep.epoch(
                ordered.index,
                ordered.columns,
                {name: values[lanes] for name, values in self._hyper.items()},
                epochs * steps_an_epoch,
                whole * steps_an_epoch,
                self._dropout_key[lanes],
                stop,
            )
            self._check_alone(len(group), drawn())
        self._kernel_calls += fast.calls - before if fast else 0
        if means is None:
            return None
        trained = self._lockstep
        numbers = torch.cat([means, self._validate(group, trained.parameters, trained.buffers)]).cpu()
        self.parameters[lanes], self.first[lanes], self.second[lanes] = (
            trained.parameters,
            trained.first,
            trained.second,
        )
        for name, values in self.buffers.items():
            values[lanes] = trained.buffers[name]
        return numbers

    def _check_alone(self, lanes: int, drawn: bool) -> None:
        """Raise CannotMap where several lanes have drawn from one generator: none would be what it is alone."""
        if drawn and lanes > 1:
            raise CannotMap(f"{type(self.plain).__name__} (the module): its forward draws from torch's generator")

    def _program(self, width: int) -> Lockstep:
        return Lockstep(
            self.recipe, self.plain, width, self.inputs, batch=self.batch, device=self.device, dtype=self.dtype
        )

    def _report(self, group: list[int], numbers: Tensor) -> list[EpochReport]:
        """Reports from (2 + metrics, P): the loss that is shown, the objective, and the metrics of the validation."""
        reports = []
        for lane, (loss, objective, *scores) in zip(group, numbers.T.tolist(), strict=True):
            at = self._at(lane)
            at.epoch += 1
            validation = {} if at.task.validation is None else dict(zip(self.metrics, scores, strict=True))
            reports.append(
                EpochReport(
                    lane=lane,
                    key=at.task.key,
                    epoch=at.epoch,
                    train_loss=loss,
                    validation=validation,
                    diverged=not all(map(math.isfinite, [loss, objective, *validation.values()])),
                    last=at.epoch >= at.task.epochs,
                )
            )
        return reports

    # -- evaluation ----------------------------------------------------------------------------------------

    def inputs_of(self, pool: Any) -> Inputs:
        """The recipe's inputs from a pool, on the device: for `predict` on other items than the training's."""
        return self.recipe.inputs(pool).to(self.device, self.dtype)

    @torch.no_grad()
    def predict(
        self,
        parameters: Tensor,
        items: Any,
        inputs: Inputs | None = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> Prediction:
        """What a lane's parameters (n,) and buffers give for items, of the population's inputs or another pool's."""
        inputs = inputs or self.inputs
        table = self._table(items, inputs, with_columns=bool(self.metrics)).map(lambda values: values[None])
        of_lane = {name: values.to(self.device)[None] for name, values in (buffers or {}).items()}
        outputs, scores = self._evaluate(parameters.to(self.device)[None], of_lane, inputs, table)
        return Prediction(
            outputs=_mapped(outputs, lambda values: values[0]),
            scores={name: values[0] for name, values in scores.items()},
        )

    def validate(self, lane: int) -> dict[str, float]:
        """A busy lane's validation metrics, as its last epoch's report has them, evaluated again."""
        rows = slice(lane, lane + 1)
        buffers = {name: values[rows] for name, values in self.buffers.items()}
        values = self._validate([lane], self.parameters[rows], buffers)[:, 0].tolist()
        return dict(zip(self.metrics, values, strict=True))

    @torch.no_grad()
    def evaluate_training(self) -> None:
        """Evaluate training items of all lanes as validation items are after an epoch: it takes as much memory."""
        assert self._tables is not None  # a lane has started
        for begin in range(0, self.lanes, self.width):
            rows = slice(begin, begin + self.width)
            items = self._tables.map(lambda values, rows=rows: values[rows, :EVALUATION_CHUNK])  # type: ignore[misc]  # mypy knows no lambda's defaults
            buffers = {name: values[rows] for name, values in self.buffers.items()}
            self._evaluate(self.parameters[rows], buffers, self.inputs, items)

    @torch.no_grad()
    def _validate(self, group: list[int], parameters: Tensor, buffers: Mapping[str, Tensor]) -> Tensor:
        """Validation metrics (metrics, P) of lanes with these parameters (P, n), buffers; NaN where there are no items.

        Lanes whose tables are equally long are evaluated in one pass.
        """
        result = torch.full((len(self.metrics), len(group)), torch.nan, device=self.device, dtype=torch.float64)
        lengths = {at: len(self._validation[lane].index) for at, lane in enumerate(group) if lane in self._validation}
        for length in set(lengths.values()) if self.metrics else ():
            rows = [at for at, have in lengths.items() if have == length]
            table = Table.stacked([self._validation[group[at]] for at in rows])
            together = len(rows) == len(group)  # as they usually are; a list that chooses rows is a copy to the device
            of_rows = parameters if together else parameters[rows]
            buffers_of_rows = {name: values if together else values[rows] for name, values in buffers.items()}
            _, scores = self._evaluate(of_rows, buffers_of_rows, self.inputs, table)
            means = torch.stack(list(scores.values())).to(torch.float64).mean(-1)
            if together:
                return means
            result[:, rows] = means
        return result

    def _evaluate(
        self, parameters: Tensor, buffers: Mapping[str, Tensor], inputs: Inputs, table: Table
    ) -> tuple[Any, dict[str, Tensor]]:
        """Outputs (P, E, ...) and the metrics of every item (P, E), under parameters (P, n) and buffers (P, ...)."""
        self.layout.bind(self._evaluator, parameters, buffers)
        read_windows(self._evaluator, inputs.windows)
        outputs, scores = [], []
        size = max(1, min(EVALUATION_CHUNK, EVALUATION_ITEMS // len(parameters)))
        with seeded(0, self.device) as drawn:
            for at in range(0, table.index.shape[1], size):
                part = slice(at, at + size)
                chunk = table.map(lambda values, part=part: values[:, part])  # type: ignore[misc]  # mypy knows no lambda's defaults
                given = self.recipe.outputs(self._evaluator(inputs.batch(chunk.index)))
                outputs.append(given)
                scores.append({name: metric(given, chunk.columns) for name, metric in self.metrics.items()})
            self._check_alone(len(parameters), drawn())
        return _joined(outputs), _joined(scores)


def _mapped(outputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor changed, or each of several."""
    if isinstance(outputs, Mapping):
        return {name: change(values) for name, values in outputs.items()}
    return change(outputs)


def _joined(chunks: Sequence[Any]) -> Any:
    """Tensors of chunks (P, B, ...), or several by name, along their items."""
    if isinstance(chunks[0], Mapping):
        return {name: torch.cat([chunk[name] for chunk in chunks], 1) for name in chunks[0]}
    return torch.cat(list(chunks), 1)
