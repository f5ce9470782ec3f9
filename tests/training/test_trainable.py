"""What `hpo study create` accepts can be trained; what cannot is refused with the reason."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.digits import draws
from hpo.digits.pools import Digits, make_digits, to_network_images
from hpo.digits.study_data import DigitsData
from hpo.errors import HpoError, SpecError
from hpo.study.digits_spec import MOST_BATCH
from hpo.study.spec import StudySpec
from hpo.training.population import Task
from tests.support.handmade import small_spec
from tests.support.specs import specs
from tests.support.training import digit_population

IMAGES = 20  # of each pool: no epoch has more than 162 samples

# To a little above what these pools allow, so that some specs are refused.
SAMPLES, PAIRS = st.integers(1, 200), st.integers(1, 11)


def digits(images: int = IMAGES) -> Digits:
    """Two pools with so many images of noise each."""
    noise = np.random.default_rng(1).integers(0, 256, (2 * images, 28, 28), dtype=np.uint8)
    labels = (np.arange(2 * images) % 10).astype(np.uint8)
    return make_digits("noise", noise, labels, np.arange(images), np.arange(images, 2 * images))


def check(source: Digits, spec: StudySpec) -> None:
    """As `hpo study create` does."""
    DigitsData(lambda: source).check(spec)


def train_an_epoch(spec: StudySpec, source: Digits) -> None:
    """As a worker does: draw, train the paper's configuration and the corners of the space, evaluate."""
    protocol = spec.protocol
    pool = draws.ImagePool.from_numpy("A", to_network_images(source.pool_a_images()), source.pool_a_labels())
    training, left = draws.draw_training(pool, spec.seed, protocol.training_pairs)
    validation = draws.draw_validation(pool, left, spec.seed, protocol.validation_pairs)
    corners = [{name: getattr(bounds, end) for name, bounds in spec.space.items()} for end in ("low", "high")]
    lanes = digit_population(spec.model, 3, pool, samples=protocol.samples, batch=protocol.batch_size)
    for lane, params in enumerate([spec.paper, *corners]):
        lanes.start(
            lane, Task(key=lane, params=params, seed=spec.seed, epochs=1, training=training, validation=validation)
        )
    assert [(report.epoch, report.last) for report in lanes.train_epoch()] == [(1, True)] * 3
    draws.draw_test(pool, spec.seed, protocol.test_pairs)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(batch_size=SAMPLES, training_pairs=PAIRS, validation_pairs=PAIRS, test_pairs=PAIRS))
def test_what_is_accepted_trains(spec: StudySpec) -> None:
    """Any spec that can be stored is refused or trains every batch of an epoch."""
    try:
        check(digits(), spec)
    except HpoError:
        return
    train_an_epoch(spec, digits())


@pytest.mark.parametrize("model", ["simple", "ws", "ws-aux"])
@pytest.mark.parametrize("batch", [1, 25, 64, 162])
def test_every_batch_size_trains(model: str, batch: int) -> None:
    """Odd ones too, whose dropout decisions do not fill whole words, and such that leave one sample over."""
    spec = small_spec(model, batch_size=batch, training_pairs=9, validation_pairs=10, test_pairs=10)
    check(digits(), spec)
    train_an_epoch(spec, digits())


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"batch_size": 163}, "protocol.batch_size: must be at most 162 "),
        (
            {"batch_size": MOST_BATCH + 1, "training_pairs": 1000},
            f"protocol.batch_size: must be at most {MOST_BATCH} ",
        ),
        ({"validation_pairs": 10_000_000}, "protocol.validation_pairs: must be at most 100000 "),
        ({"training_pairs": 10}, "pool A has 20 images, but 10 training pairs need 20 and the validation pairs"),
        ({"test_pairs": 11}, "pool B has 20 images, but 11 test pairs need 22"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_limit(protocol: dict[str, int], message: str) -> None:
    """And a stored study that breaks a rule of today is read all the same."""
    usual = {"batch_size": 100, "training_pairs": 9, "validation_pairs": 10, "test_pairs": 10}
    spec = small_spec("ws", **(usual | protocol))
    with pytest.raises(HpoError, match=message) as refused:
        check(digits(), spec)
    assert isinstance(refused.value, SpecError) == message.startswith("protocol")
    assert "\n" not in str(refused.value)
    assert StudySpec.from_canonical(spec.canonical()) == spec
