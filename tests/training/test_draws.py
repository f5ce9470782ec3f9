"""Draws: which images meet in which pairs, under which shifts, and that the seed alone decides it."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from hpo.digits import draws, load
from hpo.digits.draws import ImagePool, PairTable
from hpo.digits.pools import Digits, FinalPermit, to_network_images
from hpo.training.augmentation import NO_SHIFT, SAMPLES_PER_PAIR, SHIFTS

FEW = settings(deadline=None, max_examples=25)

seeds = st.integers(0, 2**63 - 1)


def pool_of(size: int, name: str = "A") -> ImagePool:
    """Blank images under labels that are in no order."""
    labels = torch.arange(size) * 7919 % 1009 % 10
    return ImagePool(name=name, images=torch.zeros(size, draws.SIDE, draws.SIDE), labels=labels)


@pytest.fixture(scope="module")
def bundled() -> Digits:
    """The real digits."""
    return load.load()


@pytest.fixture(scope="module")
def pool_a(bundled: Digits) -> ImagePool:
    """Pool A as a worker has it."""
    return ImagePool.from_numpy("A", to_network_images(bundled.pool_a_images()), bundled.pool_a_labels())


@pytest.fixture(scope="module")
def pool_b(bundled: Digits) -> ImagePool:
    """Pool B as the worker of a final slot has it."""
    opened = bundled.open_pool_b(FinalPermit(slot_id=1, attempt=1, worker="test"))
    return ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)


def same(table: PairTable, other: PairTable) -> bool:
    return all(torch.equal(getattr(table, name), getattr(other, name)) for name in ("image", "shift", "digit"))


def moved(image: NDArray[np.float32], dy: int, dx: int) -> NDArray[np.float32]:
    """An image moved down by dy and right by dx, pixel by pixel; what moves in is 0."""
    out = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if 0 <= row - dy < image.shape[0] and 0 <= column - dx < image.shape[1]:
                out[row, column] = image[row - dy, column - dx]
    return out


# --- Training -----------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 60), st.integers(0, 30))
@FEW
def test_no_image_is_twice_in_a_training_draw(seed: int, pairs: int, more: int) -> None:
    """The training images are all different, the left-over ones are exactly the others."""
    pool = pool_of(2 * pairs + more)
    samples, left = draws.draw_training(pool, seed, pairs)
    base = samples.image[:pairs].flatten().tolist()
    assert len(set(base)) == 2 * pairs
    assert sorted(base + left.tolist()) == list(range(len(pool.labels)))
    assert set(samples.image.flatten().tolist()) == set(base)


@given(seeds, st.integers(1, 60))
@FEW
def test_a_pair_becomes_eighteen_samples(seed: int, pairs: int) -> None:
    """Nine samples of a pair in its own order and nine swapped; in each half each image has every shift once."""
    samples, _ = draws.draw_training(pool_of(2 * pairs), seed, pairs)
    assert len(samples) == 18 * pairs == SAMPLES_PER_PAIR * pairs
    half = 9 * pairs
    for pair in range(pairs):
        half_of_pair = slice(pair, half, pairs)
        assert torch.equal(samples.image[half_of_pair], samples.image[pair].expand(9, 2))
        assert sorted(samples.shift[half_of_pair, 0].tolist()) == list(range(9))
        assert sorted(samples.shift[half_of_pair, 1].tolist()) == list(range(9))
    for of_sample in (samples.image, samples.shift, samples.digit):
        assert of_sample.shape == (18 * pairs, 2)
        assert of_sample.dtype == torch.int64
        assert torch.equal(of_sample[half:], of_sample[:half].flip(1))


def test_the_two_images_of_a_pair_are_shifted_independently() -> None:
    """Of the 81 combinations each comes about as often; no pair shares its order of shifts with all others."""
    pairs = 1000
    samples, _ = draws.draw_training(pool_of(2 * pairs), 1, pairs)
    shift = samples.shift[: 9 * pairs]
    counts = torch.bincount(shift[:, 0] * 9 + shift[:, 1], minlength=81).to(torch.float64)
    expected = 9 * pairs / 81
    assert float(((counts - expected) ** 2 / expected).sum()) < 64 + 5 * (2 * 64) ** 0.5  # 64 degrees of freedom
    orders = shift.view(9, pairs, 2).permute(1, 2, 0).reshape(2 * pairs, 9)
    assert len({tuple(order) for order in orders.tolist()}) > 0.98 * 2 * pairs


@given(seeds, st.integers(1, 40))
@FEW
def test_targets_are_right_after_swapping(seed: int, pairs: int) -> None:
    """Digits stay with their images; the target is worked out anew, so that only equal digits keep theirs."""
    pool = pool_of(2 * pairs + 5)
    samples, _ = draws.draw_training(pool, seed, pairs)
    assert torch.equal(samples.digit, pool.labels[samples.image])
    expected = [int(first <= second) for first, second in samples.digit.tolist()]
    assert samples.target.tolist() == expected
    assert samples.target.dtype == torch.int64
    straight, swapped = samples.target.view(2, -1)
    equal = samples.digit[: 9 * pairs, 0] == samples.digit[: 9 * pairs, 1]
    assert torch.equal(straight + swapped, 1 + equal.long())


# --- Validation ---------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 40), st.integers(1, 200))
@FEW
def test_validation_goes_round_the_left_over_images_equally(seed: int, half: int, pairs: int) -> None:
    """Only left-over images, none paired with itself, none used more than once more than another."""
    pool = pool_of(2 * half + 20)
    _, left = draws.draw_training(pool, seed, 10)
    table = draws.draw_validation(pool, left, seed, pairs)
    assert len(table) == pairs
    assert set(table.image.flatten().tolist()) <= set(left.tolist())
    assert (table.image[:, 0] != table.image[:, 1]).all()
    assert (table.shift == NO_SHIFT).all()
    assert torch.equal(table.digit, pool.labels[table.image])
    uses = torch.bincount(table.image.flatten(), minlength=len(pool.labels))[left]
    assert uses.max() - uses.min() <= 1
    if pairs <= half:
        assert uses.max() == 1


@given(seeds, st.integers(1, 20), st.integers(1, 100))
@FEW
def test_an_odd_left_over_image_waits_for_the_next_round(seed: int, half: int, pairs: int) -> None:
    """With an odd number one image misses each round, another one every time: still nobody meets itself."""
    pool = pool_of(2 * half + 1)
    left = torch.arange(2 * half + 1)
    table = draws.draw_validation(pool, left, seed, pairs)
    assert len(table) == pairs
    assert (table.image[:, 0] != table.image[:, 1]).all()
    for turn in table.image.split(half):
        assert len(set(turn.flatten().tolist())) == turn.numel()


def test_each_round_of_validation_makes_new_pairs() -> None:
    """The images go round in a new order: 500 images give 2,000 pairs with few repeated ones."""
    pool = pool_of(1000)
    table = draws.draw_validation(pool, torch.arange(1000), 5, 2000)
    assert torch.equal(torch.bincount(table.image.flatten()), torch.full((1000,), 4))
    assert len({tuple(sorted(pair)) for pair in table.image.tolist()}) > 1980


# --- Test ---------------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 60), st.integers(0, 10))
@FEW
def test_no_image_is_twice_in_a_test_draw(seed: int, pairs: int, more: int) -> None:
    """Test pairs are unshifted, disjoint pairs; a pool of just enough images serves whole."""
    pool = pool_of(2 * pairs + more, "B")
    table = draws.draw_test(pool, seed, pairs)
    used = table.image.flatten().tolist()
    assert len(table) == pairs
    assert len(set(used)) == 2 * pairs
    assert (table.shift == NO_SHIFT).all()
    assert torch.equal(table.digit, pool.labels[table.image])
    if not more:
        assert sorted(used) == list(range(2 * pairs))


# --- The seed alone -----------------------------------------------------------------------------------------


def all_draws(pool: ImagePool, seed: int) -> tuple[PairTable, PairTable, PairTable]:
    samples, left = draws.draw_training(pool, seed, 30)
    return samples, draws.draw_validation(pool, left, seed, 50), draws.draw_test(pool, seed, 40)


@given(seeds)
@FEW
def test_draws_are_a_function_of_the_seed_alone(seed: int) -> None:
    """The same seed gives the same draws whatever torch's and numpy's generators do; the next seed gives others."""
    pool = pool_of(100)
    torch.manual_seed(1)
    first = all_draws(pool, seed)
    torch.manual_seed(2)
    torch.rand(3)
    for one, again, other in zip(first, all_draws(pool, seed), all_draws(pool, (seed + 1) % 2**63), strict=True):
        assert same(one, again)
        assert not torch.equal(one.image, other.image)


@given(seeds)
@FEW
def test_images_do_not_sway_a_draw(seed: int) -> None:
    """Draws are of indices: other pictures and labels under the same numbers make the same pairs."""
    pool = pool_of(100)
    other = ImagePool(name="A", images=torch.ones(100, 14, 14), labels=pool.labels.flip(0))
    for one, another in zip(all_draws(pool, seed), all_draws(other, seed), strict=True):
        assert torch.equal(one.image, another.image)
        assert torch.equal(one.shift, another.shift)


def test_training_validation_and_test_have_streams_of_their_own() -> None:
    """One seed keys all three draws of a round; equal pools of equal size are still drawn differently."""
    pool = pool_of(100)
    samples, _ = draws.draw_training(pool, 9, 50)
    test = draws.draw_test(pool, 9, 50)
    validation = draws.draw_validation(pool, torch.arange(100), 9, 50)
    tables = [samples.image[:50], test.image, validation.image]
    for i, one in enumerate(tables):
        for other in tables[:i]:
            assert (one == other).to(torch.float64).mean() < 0.1


def digest(*tables: PairTable) -> str:
    parts = [t.contiguous().numpy().astype("<i8").tobytes() for p in tables for t in (p.image, p.shift, p.digit)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def golden_draws() -> dict[str, str]:
    a, b = pool_of(3000), pool_of(2000, "B")
    samples, left = draws.draw_training(a, 2019, 1000)
    validation = draws.draw_validation(a, left, 2019, 2000)
    return {
        "training": digest(samples),
        "validation": digest(validation),
        "test": digest(draws.draw_test(b, 2019, 1000)),
    }


GOLDEN = {"training": "77977cd17a11225d", "validation": "8fc2cfdaeed07c8f", "test": "8ef79f50efd028e5"}


def test_draws_are_golden() -> None:
    """Rounds in databases rest on these very draws, and reports recompute them: no change by accident."""
    assert golden_draws() == GOLDEN


# --- Shifts -------------------------------------------------------------------------------------------------


def test_the_nine_shifts_are_eight_directions_and_none() -> None:
    """Each pixel step by at most one in both directions, once."""
    assert sorted(SHIFTS) == [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert SHIFTS[NO_SHIFT] == (0, 0)


@given(st.integers(0, 2**31), st.lists(st.integers(0, 8), min_size=1, max_size=4))
@FEW
def test_shifted_moves_pixels_and_fills_with_zeros(seed: int, shifts: list[int]) -> None:
    """Equal to moving pixel by pixel in numpy; images without a zero show that what moves in is 0."""
    images = np.random.default_rng(seed).uniform(0.1, 1, (len(shifts), 14, 14)).astype(np.float32)
    expected = np.stack([moved(image, *SHIFTS[shift]) for image, shift in zip(images, shifts, strict=True)])
    assert np.array_equal(draws.shifted(torch.from_numpy(images), torch.tensor(shifts)).numpy(), expected)


def test_shifted_takes_pairs_and_leaves_its_input_alone() -> None:
    """Leading dimensions are free: (S, 2, 14, 14) under (S, 2)."""
    images = torch.rand(5, 2, 14, 14, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    shift = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [8, 4]])
    out = draws.shifted(images, shift)
    for sample in range(5):
        for side in range(2):
            expected = moved(images[sample, side].numpy(), *SHIFTS[int(shift[sample, side])])
            assert np.array_equal(out[sample, side].numpy(), expected)
    assert torch.equal(images, before)


# --- Real digits --------------------------------------------------------------------------------------------


def test_the_bundled_pools_are_balanced_and_share_no_picture(pool_a: ImagePool, pool_b: ImagePool) -> None:
    """300 and 200 images a class; no picture twice, not even as the network sees it, at 14x14."""
    assert torch.bincount(pool_a.labels).tolist() == [300] * 10
    assert torch.bincount(pool_b.labels).tolist() == [200] * 10
    seen: list[Tensor] = [*pool_a.images, *pool_b.images]
    assert len({image.numpy().tobytes() for image in seen}) == 5000


def test_shifting_makes_no_training_sample_into_a_test_image(pool_a: ImagePool, pool_b: ImagePool) -> None:
    """None of the 27,000 shifted images of pool A is an image of pool B: augmentation leaks nothing either."""
    test = {image.numpy().tobytes() for image in pool_b.images}
    for shift in range(len(SHIFTS)):
        turned = draws.shifted(pool_a.images, torch.full((len(pool_a.images),), shift))
        assert not test & {image.numpy().tobytes() for image in turned}


def test_a_default_round_on_real_digits(pool_a: ImagePool, pool_b: ImagePool) -> None:
    """1,000 training pairs, 2,000 validation pairs of the 1,000 images left over, all of B as 1,000 test pairs."""
    samples, left = draws.draw_training(pool_a, 2019, 1000)
    validation = draws.draw_validation(pool_a, left, 2019, 2000)
    test = draws.draw_test(pool_b, 2019, 1000)
    assert len(samples) == 18_000
    assert torch.equal(torch.bincount(validation.image.flatten(), minlength=3000)[left], torch.full((1000,), 4))
    assert sorted(test.image.flatten().tolist()) == list(range(2000))
    for pool, table in ((pool_a, samples), (pool_a, validation), (pool_b, test)):
        assert torch.equal(table.digit, pool.labels[table.image])
        share = float(table.target.to(torch.float64).mean())
        assert 0.5 < share < 0.6  # 55 of the 100 combinations of digits have digit 1 <= digit 2


def test_training_and_validation_pictures_never_meet(pool_a: ImagePool) -> None:
    """By pixels, not only by number, and under all shifts of the training images."""
    samples, left = draws.draw_training(pool_a, 1, 1000)
    validation = draws.draw_validation(pool_a, left, 1, 2000)
    used = samples.image.flatten().unique()
    trained = {
        image.numpy().tobytes()
        for shift in range(len(SHIFTS))
        for image in draws.shifted(pool_a.images[used], torch.full((len(used),), shift))
    }
    judged = {pool_a.images[i].numpy().tobytes() for i in validation.image.flatten().unique()}
    assert len(judged) == 1000
    assert not trained & judged


def test_pools_keep_the_arrays_values_and_labels() -> None:
    """from_numpy takes bytes as labels, for indexing; images stay float32."""
    images = np.linspace(0, 1, 3 * 196, dtype=np.float32).reshape(3, 14, 14)
    pool = ImagePool.from_numpy("A", images, np.array([7, 0, 9], dtype=np.uint8))
    assert pool.labels.dtype == torch.int64
    assert pool.labels.tolist() == [7, 0, 9]
    assert np.array_equal(pool.images.numpy(), images)
