"""How many slots a worker takes when few are left: so many that the workers which train a group end together."""

from collections.abc import Mapping, Sequence

from hpo.storage.claims import Running


def dealt(
    wanted: int, waiting: int, running: Sequence[Running], *, worker: str, width: int, steps: Mapping[int, int]
) -> int:
    """How many of the slots that wait a worker takes: at most `wanted`, at least one if it trains nothing.

    What is left, in trainings (those that run by the epochs or folds that they still have, of `steps` by study), is
    shared out by the lanes of the workers that train now, `width` being this one's. With enough for all lanes that is
    no limit.
    """
    left = dict.fromkeys((worker, *(slot.worker for slot in running)), 0.0)
    lanes = dict.fromkeys(left, 0)
    for slot in running:
        left[slot.worker] += max(0.0, 1 - slot.epoch / max(1, steps.get(slot.study_id, slot.epoch)))
        lanes[slot.worker] = max(slot.lanes or 0, lanes[slot.worker] + (slot.lanes is None))
    idle, lanes[worker] = not any(slot.worker == worker for slot in running), width
    share = round((waiting + sum(left.values())) * width / sum(lanes.values()) - left[worker])
    return min(wanted, max(share, 1 if idle else 0))
