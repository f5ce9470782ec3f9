"""The population: P trainings in lockstep on one device, each lane with a trial of its own.

Every lane has its own parameters, hyperparameters, Adam state, step count, data draw and epoch; lanes start and
stop at epoch boundaries while their neighbours train on. A lane's numbers depend on its task alone.

Shapes: P lanes, B pairs of a batch, S samples of an epoch, E evaluation pairs, n parameters.
"""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.training import models, streams
from hpo.training.draws import PairTable
from hpo.training.lockstep import Layout, Lockstep, losses
from hpo.training.memory import is_out_of_memory
from hpo.training.stacked import WindowTable, first_convolution, stack

EVALUATION_CHUNK = 1000  # pairs a forward pass outside of training


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training, as a lane needs it."""

    key: int  # the caller's identifier for it
    params: Mapping[str, float]  # learning_rate, weight_decay, dropout; ws-aux: aux_weight, main_weight
    seed: int  # keys initialisation, order, dropout
    epochs: int
    training: PairTable  # S samples
    validation: PairTable | None  # evaluated after every epoch; None: nothing is


@dataclass(frozen=True, kw_only=True)
class LaneState:
    """Everything needed to continue a lane elsewhere; tensors on the CPU."""

    epoch: int  # epochs trained
    parameters: Tensor  # (n,)
    first_moment: Tensor  # (n,)
    second_moment: Tensor  # (n,)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The result of one epoch of one lane."""

    lane: int
    key: int
    epoch: int  # epochs trained, from 1
    train_loss: float  # cross entropy of the comparison, mean over the epoch, dropout active
    validation_loss: float | None
    validation_accuracy: float | None  # fraction
    diverged: bool  # NaN or inf in a loss
    last: bool  # the task's epochs are done


class LanesFailed(Exception):
    """Lanes whose training raised even when tried alone; they stay as they were."""

    def __init__(self, reports: list[EpochReport], errors: dict[int, str]) -> None:
        """`reports` are the other lanes', `errors` the tracebacks by lane."""
        super().__init__("\n".join(f"lane {lane}: {why}" for lane, why in errors.items()))
        self.reports, self.errors = reports, errors


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Answers on a table of pairs, dropout off; on the CPU."""

    loss: float  # cross entropy of the comparison
    accuracy: float  # fraction
    answer: Tensor  # (E,) 0 or 1
    digits: Tensor | None  # (E, 2) the predicted digits, where the model is trained to classify them


@dataclass
class _Lane:
    task: Task
    epoch: int  # epochs trained


class Population:
    """Up to `lanes` trainings of one model on one device; all tasks have the same number of samples and batch size.

    The busy lanes are trained an epoch at a time, `width` of them in one program; idle lanes cost nothing. A lane's
    state changes only when its epoch is complete: an epoch that is abandoned leaves no trace.
    """

    def __init__(
        self,
        model: str,
        lanes: int,
        images: Tensor,
        *,
        samples: int,
        batch: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`images` (N, 14, 14) are pool A's; the last batch of an epoch is smaller where samples are left over."""
        self.name, self.lanes, self.samples, self.batch = model, lanes, samples, batch
        self.width = lanes  # lanes in one program; halved where memory runs out
        self.device, self.dtype = torch.device(device), dtype
        self.plain = models.ARCHITECTURES[model]()
        self.auxiliary = model in models.CLASSIFIES_DIGITS
        self.layout = Layout(self.plain)
        self._evaluator = stack(self.plain).to(self.device, dtype).eval()
        self.windows = self.cut(images)
        n = sum(self.layout.sizes)
        self.parameters, self.first, self.second = (
            torch.zeros(lanes, n, device=self.device, dtype=dtype) for _ in range(3)
        )
        self._hyper = {
            name: torch.zeros(lanes, dtype=torch.float64, device=self.device)
            for name in ("learning_rate", "weight_decay", "dropout", "aux_weight", "main_weight")
        }
        self._order_key, self._dropout_key = (
            torch.zeros(lanes, dtype=torch.int64, device=self.device) for _ in range(2)
        )
        self._corner, self._digit = (
            torch.zeros(lanes, samples, 2, dtype=torch.int64, device=self.device) for _ in range(2)
        )
        self._sample_counters = streams.counters(samples, self.device)
        self._lockstep: Lockstep | None = None
        self._lanes: list[_Lane | None] = [None] * lanes
        self._validation: dict[int, tuple[Tensor, Tensor]] = {}

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
        if len(task.training) != self.samples:
            raise ValueError(f"{len(task.training)} samples in a population of {self.samples}")
        if state is None:
            values = models.initial_parameters(self.plain, task.seed)
            start = torch.cat([values[name].flatten() for name in self.layout.shapes])
            state = LaneState(
                epoch=0,
                parameters=start,
                first_moment=torch.zeros_like(start),
                second_moment=torch.zeros_like(start),
            )
        self.parameters[lane], self.first[lane], self.second[lane] = (
            t.to(self.device, self.dtype) for t in (state.parameters, state.first_moment, state.second_moment)
        )
        for name, values_P in self._hyper.items():
            values_P[lane] = task.params.get(name, 1.0 if name == "main_weight" else 0.0)
        self._order_key[lane] = streams.key(task.seed, "order")
        self._dropout_key[lane] = streams.key(task.seed, "dropout")
        self._corner[lane] = self.windows.corners(task.training)
        self._digit[lane] = task.training.digit.to(self.device)
        if task.validation is not None:
            self._validation[lane] = (
                self.windows.corners(task.validation),
                task.validation.digit.to(self.device),
            )
        self._lanes[lane] = _Lane(task, state.epoch)

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
        )

    # -- training ------------------------------------------------------------------------------------------

    def train_epoch(
        self, lanes: Sequence[int] | None = None, *, stop: Callable[[], bool] = lambda: False
    ) -> list[EpochReport]:
        """Train every busy lane, or those named, for one epoch, evaluate their validation pairs, and report.

        `stop` is called before every step: once it returns true, lanes whose epoch is not complete stay as they were
        and are not reported. Where memory runs out, `width` is halved and the epoch repeated in more parts.
        Raises LanesFailed where a lane raises even alone; all other lanes have trained their epoch.
        """
        reports: list[EpochReport] = []
        errors: dict[int, str] = {}
        suspects: set[int] = set()  # lanes of a group that raised: each is tried alone
        waiting = self.busy if lanes is None else list(lanes)
        while waiting:
            group = waiting[: 1 if waiting[0] in suspects else self.width]
            try:
                numbers = self._train(group, stop)
            except Exception as error:  # kept as text: its traceback holds the tensors
                memory, why = is_out_of_memory(error), traceback.format_exc()
            else:
                if numbers is None:
                    break
                waiting = waiting[len(group) :]
                reports += self._report(group, numbers)
                continue
            self._lockstep = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(group) == 1:
                errors[group[0]] = why
                waiting = waiting[1:]
            elif memory:
                self.width = (len(group) + 1) // 2
            else:
                suspects.update(group)
        if errors:
            raise LanesFailed(reports, errors)
        return reports

    def _train(self, group: list[int], stop: Callable[[], bool]) -> Tensor | None:
        """One epoch of these lanes, and their validation; (4, P) on the CPU, the one wait for the device."""
        if self._lockstep is None or self._lockstep.width < len(group):
            self._lockstep = self._program(len(group))
        epochs = torch.tensor([self._at(lane).epoch for lane in group], device=self.device)
        order = streams.permutations(streams.step_keys(self._order_key[group], epochs), self._sample_counters)
        rows = torch.tensor(group, device=self.device)[:, None]
        self._lockstep.load(self.parameters[group], self.first[group], self.second[group])
        means = self._lockstep.epoch(
            self._corner[rows, order],
            self._digit[rows, order],
            {name: values[group] for name, values in self._hyper.items()},
            epochs * math.ceil(self.samples / self.batch),
            self._dropout_key[group],
            stop,
        )
        if means is None:
            return None
        numbers = torch.cat([means, self._validate(group, self._lockstep.parameters)]).cpu()
        for kept, new in zip(
            (self.parameters, self.first, self.second),
            (self._lockstep.parameters, self._lockstep.first, self._lockstep.second),
            strict=True,
        ):
            kept[group] = new
        return numbers

    def _program(self, width: int) -> Lockstep:
        return Lockstep(
            self.plain,
            width,
            self.windows,
            batch=self.batch,
            auxiliary=self.auxiliary,
            device=self.device,
            dtype=self.dtype,
        )

    def _report(self, group: list[int], numbers: Tensor) -> list[EpochReport]:
        """Reports from (4, P): comparison's loss, objective, validation loss and accuracy."""
        reports = []
        for lane, (loss, objective, validation_loss, accuracy) in zip(group, numbers.T.tolist(), strict=True):
            at = self._at(lane)
            at.epoch += 1
            seen = at.task.validation is not None
            reports.append(
                EpochReport(
                    lane=lane,
                    key=at.task.key,
                    epoch=at.epoch,
                    train_loss=loss,
                    validation_loss=validation_loss if seen else None,
                    validation_accuracy=accuracy if seen else None,
                    diverged=not all(map(math.isfinite, [loss, objective, *([validation_loss] if seen else [])])),
                    last=at.epoch >= at.task.epochs,
                )
            )
        return reports

    # -- evaluation ----------------------------------------------------------------------------------------

    def cut(self, images: Tensor) -> WindowTable:
        """The window table of further images (N, 14, 14), for `predict`."""
        first = first_convolution(self._evaluator)
        return WindowTable(images.to(self.device, self.dtype), first.kernel, first.pool)

    @torch.no_grad()
    def predict(self, parameters: Tensor, table: PairTable, windows: WindowTable | None = None) -> Prediction:
        """Answers under a lane's parameters (n,) on a table of pairs, over pool A's images or those of `windows`."""
        windows = windows or self.windows
        corner, digit = windows.corners(table)[None], table.digit.to(self.device)[None]
        loss, answer, digits = self._answers(parameters.to(self.device)[None], windows, corner, digit)
        right = answer == (digit[..., 0] <= digit[..., 1])
        return Prediction(
            loss=float(loss.mean()),
            accuracy=float(right.to(torch.float64).mean()),
            answer=answer[0].cpu(),
            digits=digits[0].cpu() if self.auxiliary else None,
        )

    def validate(self, lane: int) -> tuple[float, float]:
        """A busy lane's validation loss and accuracy, as its last epoch's report has them, evaluated again."""
        loss, accuracy = self._validate([lane], self.parameters[lane : lane + 1]).flatten().tolist()
        return loss, accuracy

    @torch.no_grad()
    def _validate(self, group: list[int], parameters: Tensor) -> Tensor:
        """Validation loss and accuracy (2, P) of lanes with these parameters (P, n); NaN where there are no pairs.

        Lanes whose tables are equally long are evaluated in one pass.
        """
        result = torch.full((2, len(group)), torch.nan, device=self.device, dtype=torch.float64)
        lengths = {at: len(self._validation[lane][0]) for at, lane in enumerate(group) if lane in self._validation}
        for length in set(lengths.values()):
            rows = [at for at, have in lengths.items() if have == length]
            corner, digit = (torch.stack([self._validation[group[at]][i] for at in rows]) for i in (0, 1))
            loss, answer, _ = self._answers(
                parameters if len(rows) == len(group) else parameters[rows], self.windows, corner, digit
            )
            right = answer == (digit[..., 0] <= digit[..., 1])
            result[:, rows] = torch.stack([loss, right]).to(torch.float64).mean(-1)
        return result

    def _answers(
        self,
        parameters: Tensor,
        windows: WindowTable,
        corner: Tensor,
        digit: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (P, E), answers (P, E) as booleans, predicted digits (P, E, 2), under parameters (P, n)."""
        self.layout.bind(self._evaluator, parameters)
        parts = []
        for at in range(0, corner.shape[1], EVALUATION_CHUNK):
            part = slice(at, at + EVALUATION_CHUNK)
            target = (digit[:, part, 0] <= digit[:, part, 1]).to(torch.int64)
            logits, digit_logits = self._evaluator(windows.gather(corner[:, part]))
            loss, _ = losses(logits, None, target, digit)
            digits = torch.zeros_like(digit[:, part]) if digit_logits is None else digit_logits.argmax(-1)
            parts.append((loss, logits[..., 1] > logits[..., 0], digits))
        loss, answer, digits = (torch.cat(ts, 1) for ts in zip(*parts, strict=True))
        return loss, answer, digits
