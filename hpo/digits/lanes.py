"""The digits as the lanes of a population train and test on them."""

from hpo.digits.pools import Digits, FinalPermit, to_network_images
from hpo.training.draws import ImagePool


def training_pool(digits: Digits) -> ImagePool:
    """Pool A."""
    return ImagePool.from_numpy("A", to_network_images(digits.pool_a_images()), digits.pool_a_labels())


def test_pool(digits: Digits, *, slot_id: int, attempt: int, worker: str) -> ImagePool:
    """Pool B, for an attempt at a final slot whose opening is on record."""
    opened = digits.open_pool_b(FinalPermit(slot_id=slot_id, attempt=attempt, worker=worker))
    return ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)
