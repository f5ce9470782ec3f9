"""Trainings by recipes side by side in one child process, in the lanes of populations, an epoch of all at a time.

A training joins a population of the same model and structure with equally many items and the same batch size; where
the recipe's inputs are its own, of the very same training items too, which is so for all trials of a search. What a
lane gives does not depend on its neighbours.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpo.experiment.messages import Message
from hpo.experiment.recipes import RecipePredictor, RecipeTraining, batch_size, loss_of, population_of, step_error
from hpo.training.population import EpochReport, LanesFailed, Population
from hpo.training.recipe import Recipe, Tensors

if TYPE_CHECKING:
    from hpo.experiment.child import Child, Ordered


@dataclass(kw_only=True, eq=False)
class Lane:
    """A training, and where it is trained."""

    ordered: "Ordered"
    population: Population
    number: int
    epochs: Iterator[int]
    seconds: float = 0.0  # its share of those that its population has trained

    @property
    def predictor(self) -> RecipePredictor:
        """What it has trained by now."""
        return RecipePredictor(self.population, self.number)


@dataclass
class LaneServer:
    """Trains what the worker orders until nothing is left in training."""

    child: "Child"
    width: int  # lanes
    _populations: dict[Any, Population] = field(default_factory=dict)  # by what their trainings have in common
    _lanes: list[Lane] = field(default_factory=list)
    _waiting: deque[Message] = field(default_factory=deque)  # for a lane: memory has run out for as many

    def serve(self, first: Message) -> None:
        """Train, and take further orders between two epochs."""
        self._waiting.append(first)
        while self._waiting or self._lanes:
            for _ in range(len(self._waiting)):
                self._start(self._waiting.popleft())
            for population in {id(lane.population): lane.population for lane in self._lanes}.values():
                self._train_epoch(population)
            self._waiting.extend(self.child.orders_for_lanes())

    def _start(self, order: Message) -> None:
        """Put a training on a lane; it waits where there is none for it now."""
        values: Mapping[str, Any] = order.values
        ordered = None
        try:
            ordered = self.child.order(values)
            recipe, run = ordered.model.train, ordered.run
            assert isinstance(recipe, Recipe)  # the description says so
            same_items = () if recipe.inputs is Tensors else (values["draw_seed"], values["fold"], values["folds"])
            structure = tuple(run.params[name] for name in recipe.structure)
            shared = (values["model"], structure, len(run.training), batch_size(recipe, run.params), *same_items)
            if shared not in self._populations:
                self._populations = {key: one for key, one in self._populations.items() if one.busy}
                self._populations[shared] = population_of(recipe, run, self.width)
            population = self._populations[shared]
            if not population.free:
                self._waiting.append(order)
                return
            number = population.free[0]
            lane = Lane(ordered=ordered, population=population, number=number, epochs=run.epochs())
            self._lanes.append(lane)
            run.checkpoint(RecipeTraining(population, number, run))
        except BaseException as error:
            self._fail(values["id"], ordered, error)
        else:
            self._go_on(lane)

    def _train_epoch(self, population: Population) -> None:
        """An epoch of all lanes of a population, and what is to be said of each."""
        lanes = {lane.number: lane for lane in self._lanes if lane.population is population}
        begun, errors, apart = time.monotonic(), {}, population.apart
        try:
            reports = population.train_epoch()
        except LanesFailed as failed:
            reports, errors = failed.reports, failed.errors
        if population.apart != apart:
            self.child.tell(next(iter(lanes.values())).ordered.id, Message("apart", {"why": population.apart}))
        share = (time.monotonic() - begun) / len(lanes)
        for number, traceback in errors.items():
            self._fail(lanes[number].ordered.id, lanes[number].ordered, step_error(traceback))
        for report in reports:
            lanes[report.lane].seconds += share
            self._report(lanes[report.lane], report)

    def _report(self, lane: Lane, report: EpochReport) -> None:
        try:
            lane.ordered.run.report(lane.predictor, loss=loss_of(report))
        except BaseException as error:
            self._fail(lane.ordered.id, lane.ordered, error)
        else:
            self._go_on(lane)

    def _go_on(self, lane: Lane) -> None:
        """Begin its next epoch, or end it where there is none."""
        try:
            if next(lane.epochs, None) is not None:
                return
            answer = self.child.ended(lane.ordered, lane.predictor, lane.seconds)
        except BaseException as error:
            self._fail(lane.ordered.id, lane.ordered, error)
        else:
            self._leave(lane)
            self.child.tell(lane.ordered.id, answer)

    def _fail(self, name: str, ordered: "Ordered | None", error: BaseException) -> None:
        answer = self.child.ending(error, ordered)
        for lane in [lane for lane in self._lanes if lane.ordered is ordered]:
            self._leave(lane)
        self.child.tell(name, answer)

    def _leave(self, lane: Lane) -> None:
        """Its lane is free."""
        self._lanes.remove(lane)
        lane.population.stop(lane.number)
        lane.ordered.run.close()
