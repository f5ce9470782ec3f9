"""The population: P trainings in lockstep on one device, each lane with a trial of its own.

Every lane has its own parameters, hyperparameters, Adam state, step count, data draw and epoch; lanes start and
stop at epoch boundaries while their neighbours train on. A lane's numbers depend on its task alone.

Shapes: P lanes, B pairs of a batch, S samples of an epoch, E evaluation pairs, n parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo.training import models, streams
from hpo.training.data import PairTable
from hpo.training.stacked import WindowTable, first_convolution, stack

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam's (Kingma, Ba, ICLR 2015), as torch.optim.Adam has them
EVALUATION_CHUNK = 1000  # pairs a forward pass outside of training


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training, as a lane needs it."""

    key: int  # the caller's name for it
    params: Mapping[str, float]  # learning_rate, weight_decay, dropout; ws-aux: aux_weight, main_weight
    seed: int  # keys initialisation, order, dropout
    epochs: int
    training: PairTable  # S samples
    validation: PairTable | None  # evaluated after every epoch; None: nothing is


@dataclass(frozen=True, kw_only=True)
class LaneState:
    """Everything that a lane needs to go on elsewhere; tensors on the CPU."""

    epoch: int  # epochs trained
    parameters: Tensor  # (n,)
    first_moment: Tensor  # (n,)
    second_moment: Tensor  # (n,)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch of one lane gave."""

    lane: int
    key: int
    epoch: int  # epochs trained, from 1
    train_loss: float  # cross entropy of the comparison, mean over the epoch, dropout active
    validation_loss: float | None
    validation_accuracy: float | None  # fraction
    diverged: bool  # NaN or inf in a loss
    last: bool  # the task's epochs are done


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A lane's answers on a table of pairs, dropout off; on the CPU."""

    loss: float  # cross entropy of the comparison
    accuracy: float  # fraction
    answer: Tensor  # (E,) 0 or 1
    digits: Tensor | None  # (E, 2) what the model takes the digits for, where it is trained to


@dataclass
class _Lane:
    task: Task
    epoch: int  # epochs trained


class Population:
    """P lanes of one model on one device; all tasks have the same number of samples and batch size."""

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
        """`images` (N, 14, 14) are pool A's; samples must be a multiple of batch."""
        if samples % batch:
            raise ValueError(f"{samples} samples do not make whole batches of {batch}")
        self.name, self.lanes, self.samples, self.batch = model, lanes, samples, batch
        self.device, self.dtype = torch.device(device), dtype
        self.plain = models.ARCHITECTURES[model]()
        self.auxiliary = model in models.SAYS_DIGITS
        self.shapes = {name: p.shape for name, p in self.plain.named_parameters()}
        self.model, self._evaluator = (stack(self.plain).to(self.device, dtype) for _ in range(2))
        self.windows = self.cut(images)
        n = sum(shape.numel() for shape in self.shapes.values())
        self.parameters, self.gradient, self.first, self.second = (
            torch.zeros(lanes, n, device=self.device, dtype=dtype) for _ in range(4)
        )
        self._bind(self.model, self.parameters)
        self._leaves = list(self.model.parameters())
        self._gradients = list(self._views(self.gradient).values())
        self._hyper = {
            name: torch.zeros(lanes, dtype=torch.float64, device=self.device)
            for name in ("learning_rate", "weight_decay", "dropout", "aux_weight", "main_weight")
        }
        self.steps, self._order_key, self._dropout_key = (
            torch.zeros(lanes, dtype=torch.int64, device=self.device) for _ in range(3)
        )
        self._corner, self._digit = (
            torch.zeros(lanes, samples, 2, dtype=torch.int64, device=self.device) for _ in range(2)
        )
        self._sample_counters = streams.counters(samples, self.device)
        self._mask_counters = streams.counters(models.decisions(self.plain, batch) // 4, self.device)
        self._lanes: list[_Lane | None] = [None] * lanes
        self._validation: dict[int, tuple[Tensor, Tensor]] = {}

    # -- lanes ---------------------------------------------------------------------------------------------

    @property
    def free(self) -> list[int]:
        """Lanes without a task."""
        return [lane for lane, at in enumerate(self._lanes) if at is None]

    @property
    def busy(self) -> list[int]:
        """Lanes that train."""
        return [lane for lane, at in enumerate(self._lanes) if at is not None]

    def task(self, lane: int) -> Task:
        """The task of a busy lane."""
        return self._at(lane).task

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
            start = torch.cat([values[name].flatten() for name in self.shapes])
            state = LaneState(
                epoch=0,
                parameters=start,
                first_moment=torch.zeros_like(start),
                second_moment=torch.zeros_like(start),
            )
        self.parameters[lane], self.first[lane], self.second[lane] = (
            t.to(self.device, self.dtype) for t in (state.parameters, state.first_moment, state.second_moment)
        )
        self.steps[lane] = state.epoch * (self.samples // self.batch)
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
        self._hyper["learning_rate"][lane] = 0.0
        self.parameters[lane] = 0.0  # an idle lane computes on zeros, never on the NaN of a diverged trial

    def state(self, lane: int) -> LaneState:
        """A busy lane's state at this epoch boundary."""
        return LaneState(
            epoch=self._at(lane).epoch,
            parameters=self.parameters[lane].cpu().clone(),
            first_moment=self.first[lane].cpu().clone(),
            second_moment=self.second[lane].cpu().clone(),
        )

    def state_dict(self, lane: int) -> dict[str, Tensor]:
        """A lane's parameters (n,) under the plain module's names."""
        return {name: value[0].clone() for name, value in self._views(self.parameters[lane : lane + 1]).items()}

    # -- training ------------------------------------------------------------------------------------------

    def train_epoch(self) -> list[EpochReport]:
        """Train every busy lane for one epoch, evaluate its validation pairs, and report; one host sync."""
        epochs = torch.tensor([at.epoch if at else 0 for at in self._lanes], device=self.device)
        order = streams.permutations(streams.step_keys(self._order_key, epochs), self._sample_counters)
        corner, digit = (t.gather(1, order[..., None].expand(-1, -1, 2)) for t in (self._corner, self._digit))
        target = (digit[..., 0] <= digit[..., 1]).to(torch.int64)
        total_P = torch.zeros(2, self.lanes, device=self.device, dtype=torch.float64)
        self.model.train()
        for at in range(0, self.samples, self.batch):
            part = slice(at, at + self.batch)
            total_P += self._step(corner[:, part], digit[:, part], target[:, part])
        mean_P = total_P / (self.samples // self.batch)
        validation = self._validate()
        return self._report(torch.cat([mean_P, validation]).cpu())

    def _step(self, corner: Tensor, digit: Tensor, target: Tensor) -> Tensor:
        """One Adam step of all lanes; returns (2, P): the comparison's loss and the objective."""
        drop = self._hyper["dropout"]
        masks = streams.keep_masks(streams.step_keys(self._dropout_key, self.steps), self._mask_counters, drop)
        models.set_masks(self.model, masks.to(self.dtype), self.batch)
        comparison_PB, digits = self._losses(self.model, self.windows.gather(corner), target, digit)
        comparison = comparison_PB.mean(1)
        objective = comparison
        if digits is not None:
            main, aux = (self._hyper[name].to(self.dtype) for name in ("main_weight", "aux_weight"))
            objective = main * comparison + aux * digits.mean(1).sum(-1)
        gradients = torch.autograd.grad(objective.sum(), self._leaves)
        torch._foreach_copy_(self._gradients, gradients)
        self._adam()
        return torch.stack([comparison, objective]).detach()

    def _losses(
        self,
        model: nn.Module,
        windows: Tensor,
        target: Tensor,
        digit: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Cross entropies, none summed: of the comparison (P, B) and, where it is trained, the digits (P, B, 2)."""
        logits, digit_logits = model(windows)
        comparison = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)
        if not self.auxiliary:
            return comparison, None
        digits = F.cross_entropy(digit_logits.flatten(0, -2), digit.flatten(), reduction="none")
        return comparison, digits.view(digit.shape)

    @torch.no_grad()
    def _adam(self) -> None:
        """Adam with coupled weight decay, each lane with its own rate, decay and step count.

        Bias corrections in float64: in float32 they cost 1e-5 after 200 steps.
        """
        self.steps += 1
        steps = self.steps.to(torch.float64)
        rate = (self._hyper["learning_rate"] / (1 - BETA1**steps)).to(self.dtype)[:, None]
        root = (1 - BETA2**steps).sqrt().to(self.dtype)[:, None]
        decay = self._hyper["weight_decay"].to(self.dtype)[:, None]
        gradient = self.gradient.addcmul_(self.parameters, decay)
        self.first.lerp_(gradient, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        step = self.second.sqrt().div_(root).add_(EPS)
        self.parameters.sub_(torch.div(self.first, step, out=step).mul_(rate))

    def _report(self, numbers: Tensor) -> list[EpochReport]:
        """Reports from (4, P): comparison's loss, objective, validation loss and accuracy."""
        reports = []
        for lane, at in enumerate(self._lanes):
            if at is None:
                continue
            at.epoch += 1
            loss, _, validation_loss, accuracy = (float(x) for x in numbers[:, lane])
            seen = at.task.validation is not None
            finite = bool(torch.isfinite(numbers[: 3 if seen else 2, lane]).all())
            reports.append(
                EpochReport(
                    lane=lane,
                    key=at.task.key,
                    epoch=at.epoch,
                    train_loss=loss,
                    validation_loss=validation_loss if seen else None,
                    validation_accuracy=accuracy if seen else None,
                    diverged=not finite,
                    last=at.epoch >= at.task.epochs,
                )
            )
        return reports

    # -- evaluation ----------------------------------------------------------------------------------------

    def cut(self, images: Tensor) -> WindowTable:
        """The window table of further images (N, 14, 14), for `predict`."""
        first = first_convolution(self.model)
        return WindowTable(images.to(self.device, self.dtype), first.kernel, first.pool)

    @torch.no_grad()
    def predict(self, lane: int, table: PairTable, windows: WindowTable | None = None) -> Prediction:
        """One lane's answers on a table of pairs, over pool A's images or over those of `windows`."""
        windows = windows or self.windows
        corner, digit = windows.corners(table)[None], table.digit.to(self.device)[None]
        loss, answer, said = self._answers([lane], windows, corner, digit)
        right = answer == (digit[..., 0] <= digit[..., 1])
        return Prediction(
            loss=float(loss.mean()),
            accuracy=float(right.to(torch.float64).mean()),
            answer=answer[0].cpu(),
            digits=said[0].cpu() if self.auxiliary else None,
        )

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """Validation loss and accuracy (2, P) of all lanes that have pairs for it; NaN for the others.

        Lanes whose tables are equally long are evaluated in one pass.
        """
        result = torch.full((2, self.lanes), torch.nan, device=self.device, dtype=torch.float64)
        lengths = {lane: len(corner) for lane, (corner, _) in self._validation.items()}
        for length in set(lengths.values()):
            lanes = [lane for lane, have in lengths.items() if have == length]
            corner, digit = (torch.stack([self._validation[lane][i] for lane in lanes]) for i in (0, 1))
            loss, answer, _ = self._answers(lanes, self.windows, corner, digit)
            right = answer == (digit[..., 0] <= digit[..., 1])
            result[:, lanes] = torch.stack([loss, right]).to(torch.float64).mean(-1)
        return result

    def _answers(
        self,
        lanes: Sequence[int],
        windows: WindowTable,
        corner: Tensor,
        digit: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (P, E), answers (P, E) as booleans, digits said (P, E, 2), for the named lanes."""
        every = list(lanes) == list(range(self.lanes))
        self._bind(self._evaluator, self.parameters if every else self.parameters[list(lanes)])
        self._evaluator.eval()
        parts = []
        for at in range(0, corner.shape[1], EVALUATION_CHUNK):
            part = slice(at, at + EVALUATION_CHUNK)
            target = (digit[:, part, 0] <= digit[:, part, 1]).to(torch.int64)
            logits, said = self._evaluator(windows.gather(corner[:, part]))
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
            digits = said.argmax(-1) if said is not None else torch.zeros_like(digit[:, part])
            parts.append((loss, logits[..., 1] > logits[..., 0], digits))
        loss, answer, digits = (torch.cat(ts, 1) for ts in zip(*parts, strict=True))
        return loss, answer, digits

    # -- parameters ----------------------------------------------------------------------------------------

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat buffer (P, n) as the plain module's parameters, each with P in front."""
        parts = torch.split(flat, [shape.numel() for shape in self.shapes.values()], dim=1)
        return {
            name: part.view(len(flat), *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def _bind(self, model: nn.Module, flat: Tensor) -> None:
        """Let a stacked module read its parameters from a flat buffer (P, n)."""
        values = self._views(flat)
        for name, parameter in model.named_parameters():
            parameter.data = values[name]
