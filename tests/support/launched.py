"""What launched workers do, past the CLI, for this is asked often."""

from hpo.storage import slots, studies
from hpo.storage.engine import open_engine
from hpo.storage.slots import Slot


def search_slots(url: str) -> list[Slot]:
    """The search's slots of the study `ws`."""
    engine = open_engine(url)
    try:
        return slots.list_slots(engine, studies.get_study(engine, "ws").id, "search")
    finally:
        engine.dispose()


def in_training(url: str, epoch: int) -> list[Slot]:
    """Those that run and have reported this epoch."""
    return [slot for slot in search_slots(url) if slot.state == "running" and slot.epoch >= epoch]


def pid_of(slot: Slot) -> int:
    """The process of the worker that has, or had, this slot."""
    return int(str(slot.worker).split(":")[-2])
