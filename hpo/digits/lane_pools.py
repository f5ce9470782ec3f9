"""The images of the two pools as the lanes of a population train and are tested on them; loads torch."""

from hpo.digits.pools import Digits, FinalPermit, to_network_images
from hpo.training.draws import ImagePool


def pool_a(digits: Digits) -> ImagePool:
    """Pool A, for training and validation."""
    return ImagePool.from_numpy("A", to_network_images(digits.pool_a_images()), digits.pool_a_labels())


def pool_b(digits: Digits, *, slot_id: int, attempt: int, worker: str) -> ImagePool:
    """Pool B, for one attempt at a final slot whose opening is on record."""
    opened = digits.open_pool_b(FinalPermit(slot_id=slot_id, attempt=attempt, worker=worker))
    return ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)
