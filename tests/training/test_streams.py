"""Streams: the hash is plain splitmix64, every number a function of (seed, purpose, step), and none may ever change."""

import hashlib
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hpo.digits import models
from hpo.training import initialisation, streams
from hpo.training.seeds import derive

FEW = settings(deadline=None, max_examples=25)
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15

seeds = st.integers(0, 2**63 - 1)
purposes = st.text("abcdefghijklmnopqrstuvwxyz 0123456789", max_size=20)
steps = st.integers(0, 10**7)
int64s = st.integers(-(2**63), 2**63 - 1)


def reference_mix(z: int) -> int:
    """splitmix64's finalizer on an unsigned 64-bit integer, as its authors write it."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def reference_words(key: int, n: int) -> list[int]:
    """The first n outputs of the generator splitmix64 whose state is the key."""
    state, out = key & MASK, []
    for _ in range(n):
        state = (state + GAMMA) & MASK
        out.append(reference_mix(state))
    return out


def reference_step_key(key: int, step: int) -> int:
    return reference_mix((key & MASK) ^ reference_mix((step + 1) * GAMMA & MASK))


def reference_key(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}".encode() + b"\0" + purpose.encode()).digest()[:8], "big")


def unsigned(numbers: Tensor) -> list[int]:
    return [int(number) & MASK for number in numbers.flatten()]


def order_of(key: int) -> Tensor:
    return torch.tensor([key], dtype=torch.int64)


# --- The hash is splitmix64 ---------------------------------------------------------------------------------


def test_the_reference_is_splitmix64() -> None:
    """Outputs for seed 1234567 as published with the reference generator: the oracle is right itself."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert reference_words(1234567, 4) == published


@given(int64s, st.integers(1, 300))
@FEW
def test_words_are_splitmix64(key: int, n: int) -> None:
    """The tensor version, on wrapping signed integers, equals the unsigned one bit for bit."""
    assert unsigned(streams.words(order_of(key), streams.counters(n))) == reference_words(key, n)


@given(st.lists(st.tuples(int64s, steps), min_size=1, max_size=20))
@FEW
def test_step_keys_are_the_references(pairs: list[tuple[int, int]]) -> None:
    """Each lane's key is hashed with its own step."""
    keys, at = (torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))
    assert unsigned(streams.step_keys(keys, at)) == [reference_step_key(key, step) for key, step in pairs]


@given(seeds, purposes)
@FEW
def test_keys_are_sha256_of_seed_and_purpose(seed: int, purpose: str) -> None:
    """The 64 bits come from SHA-256, so that near seeds and near purposes have unrelated keys."""
    key = streams.key(seed, purpose)
    assert -(2**63) <= key < 2**63
    assert key & MASK == reference_key(seed, purpose)


@given(int64s, st.integers(1, 200))
@FEW
def test_uniforms_are_the_words_upper_53_bits(key: int, n: int) -> None:
    """Each number is one word's upper bits times 2^-53: in [0, 1), and exact in float64."""
    numbers = streams.uniform(key, n)
    assert numbers.dtype == torch.float64
    assert numbers.tolist() == [(word >> 11) * 2.0**-53 for word in reference_words(key, n)]
    assert all(0 <= number < 1 for number in numbers.tolist())


@given(int64s, st.integers(1, 400))
@FEW
def test_permutations_sort_words_with_the_index_in_their_low_bits(key: int, n: int) -> None:
    """Equal to a stable sort of signed integers in pure Python."""
    bits = max(1, (n - 1).bit_length())
    marked = [(word >> bits << bits) | i for i, word in enumerate(reference_words(key, n))]
    expected = sorted(range(n), key=lambda i: marked[i] - (1 << 64) if marked[i] >> 63 else marked[i])
    assert streams.permutation(key, n).tolist() == expected


@given(st.lists(st.tuples(int64s, st.floats(0, 1)), min_size=1, max_size=5), st.integers(1, 60))
@FEW
def test_keep_masks_compare_the_four_quarters_of_a_word(lanes: list[tuple[int, float]], n: int) -> None:
    """A decision is one 16-bit quarter, read as signed and little-endian, against the rounded threshold."""
    keys = torch.tensor([key for key, _ in lanes])
    drop = torch.tensor([rate for _, rate in lanes], dtype=torch.float64)
    masks = streams.keep_masks(keys, streams.counters(n), streams.thresholds(drop))
    assert masks.dtype == torch.float32
    for mask, (key, rate) in zip(masks, lanes, strict=True):
        threshold = min(round(rate * 65536), 65535)
        scale = torch.tensor(65536 / (65536 - threshold), dtype=torch.float32).item()
        quarters = [(word >> shift) & 0xFFFF for word in reference_words(key, n) for shift in (0, 16, 32, 48)]
        kept = [(quarter ^ 0x8000) >= threshold for quarter in quarters]
        assert mask.tolist() == [scale if keep else 0.0 for keep in kept]


# --- A function of (seed, purpose, step) alone --------------------------------------------------------------


@given(st.lists(int64s, min_size=2, max_size=6, unique=True), st.integers(2, 50))
@FEW
def test_a_lane_does_not_depend_on_its_neighbours(keys: list[int], n: int) -> None:
    """Words, permutation and mask of a lane are the same alone, in a crowd, and with fewer numbers asked for."""
    counters = streams.counters(n)
    crowd = torch.tensor(keys)
    drop = torch.linspace(0, 0.9, len(keys))
    for lane, key in enumerate(keys):
        assert torch.equal(streams.words(crowd, counters)[lane], streams.words(order_of(key), counters)[0])
        assert torch.equal(streams.permutations(crowd, counters)[lane], streams.permutation(key, n))
        alone = streams.keep_masks(order_of(key), counters, streams.thresholds(drop[lane : lane + 1]))[0]
        assert torch.equal(streams.keep_masks(crowd, counters, streams.thresholds(drop))[lane], alone)
        fewer = streams.words(order_of(key), streams.counters(n // 2))[0]
        assert torch.equal(streams.words(crowd, counters)[lane, : n // 2], fewer)


def test_no_stream_touches_or_reads_the_global_generator() -> None:
    """Whatever the state of torch's own generator: the same numbers, and the state stays."""

    def everything() -> list[Tensor]:
        key = streams.key(5, "order")
        masks = streams.keep_masks(order_of(key), streams.counters(50), streams.thresholds(torch.tensor([0.4])))
        parameters = initialisation.initial_parameters(models.ARCHITECTURES["ws"](), 5)
        return [streams.uniform(key, 50), streams.permutation(key, 50), masks, *parameters.values()]

    model = models.ARCHITECTURES["ws"]()  # its own initialisation draws from torch's generator
    torch.manual_seed(1)
    first = everything()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    streams.uniform(3, 5)
    streams.keep_masks(order_of(3), streams.counters(5), streams.thresholds(torch.tensor([0.5])))
    initialisation.initial_parameters(model, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, everything(), strict=True))


@given(seeds, steps)
@FEW
def test_seeds_purposes_and_steps_make_different_streams(seed: int, step: int) -> None:
    """Neighbouring seeds, purposes and steps share no word among their first ones."""
    other = (seed + 1) % 2**63
    keys = [streams.key(s, p) for s in (seed, other) for p in ("order", "dropout", "shifts")]
    lanes = [streams.step_keys(order_of(k), torch.tensor([t])) for k in keys for t in (step, step + 1)]
    lanes += [order_of(key) for key in keys]
    words = [word for lane in lanes for word in unsigned(streams.words(lane, streams.counters(30)))]
    assert len(set(words)) == len(words)


@given(seeds.filter(lambda seed: seed > 0), st.integers(0, 100))
@FEW
def test_a_seed_is_not_its_neighbour_moved_by_one(seed: int, index: int) -> None:
    """Seed s, index i is not seed s-1, index i+1, as it would be if the key were only added to the index."""
    here = streams.words(order_of(streams.key(seed, "order")), streams.counters(101))[0]
    there = streams.words(order_of(streams.key(seed - 1, "order")), streams.counters(102))[0]
    assert here[index] != there[index + 1]
    assert not set(unsigned(here)) & set(unsigned(there))


def test_a_step_is_not_its_neighbour_moved_by_one() -> None:
    """The same between the steps of one stream: 200 steps of 50 words are 10,000 different words."""
    keys = streams.step_keys(order_of(streams.key(1, "dropout")).expand(200), torch.arange(200))
    words = unsigned(streams.words(keys, streams.counters(50)))
    assert len(set(words)) == 200 * 50


# --- derive -------------------------------------------------------------------------------------------------


@given(seeds, st.lists(st.text(max_size=5) | st.integers(0, 99), max_size=3))
@FEW
def test_derived_seeds_have_63_bits(seed: int, labels: list[str | int]) -> None:
    """They fit a signed 64-bit column and are the same each time."""
    assert 0 <= derive(seed, *labels) < 2**63
    assert derive(seed, *labels) == derive(seed, *labels)


def test_derived_seeds_differ_by_every_label_and_its_type() -> None:
    """A path of labels is no concatenation: neither a type nor the boundary between two labels is lost."""
    paths: list[tuple[str | int, ...]] = [
        *[(), ("a",), ("a", "b"), ("ab",), ("b", "a"), ("a", ""), ("", "a"), (1,), ("1",), (1, 1), (11,), ("final", 3)],
        *[("final", 4), ("confirm", 3), ("slot", 3), ("sampler",)],
    ]
    derived = [derive(seed, *path) for seed in (1, 2, 11) for path in paths]
    assert len(set(derived)) == len(derived)


def test_ten_thousand_derived_seeds_all_differ() -> None:
    """Slots of a long study share no seed."""
    assert len({derive(1, "slot", index) for index in range(10_000)}) == 10_000


# --- They look random ---------------------------------------------------------------------------------------


def test_uniforms_have_the_moments_and_the_cells_of_the_uniform_distribution() -> None:
    """Mean, variance, lag correlation and 100 cells of 30,000 numbers are within five standard errors."""
    n = 30_000
    numbers = streams.uniform(streams.key(7, "moments"), n)
    assert abs(float(numbers.mean()) - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(float(numbers.var()) - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    centred = numbers - 0.5
    assert abs(float((centred[1:] * centred[:-1]).mean())) < 5 / 12 / math.sqrt(n)
    cells = torch.bincount((numbers * 100).long(), minlength=100).to(torch.float64)
    chi_squared = float(((cells - n / 100) ** 2 / (n / 100)).sum())  # 99 degrees of freedom
    assert abs(chi_squared - 99) < 5 * math.sqrt(2 * 99)


@given(int64s, st.integers(1, 3000))
@FEW
def test_permutations_are_permutations(key: int, n: int) -> None:
    """Every index once, int64, whatever the size; the words that are sorted have no ties."""
    order = streams.permutation(key, n)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(n))


def test_permutations_send_every_element_everywhere() -> None:
    """Over 4,000 keys each of 5 elements is about 800 times at each place, and each of 120 orders turns up."""
    keys = streams.step_keys(order_of(streams.key(3, "orders")).expand(4000), torch.arange(4000))
    orders = streams.permutations(keys, streams.counters(5))
    for place in range(5):
        counts = torch.bincount(orders[:, place], minlength=5)
        assert (counts - 800).abs().max() < 5 * math.sqrt(800 * 0.8)
    assert len({tuple(order) for order in orders.tolist()}) == math.factorial(5)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.15, 0.5, 0.6, 0.95])
def test_masks_drop_at_their_rate_and_keep_the_mean(rate: float) -> None:
    """32,000 decisions: the dropped share and the mean are within five standard errors."""
    n = 32_000
    mask = streams.keep_masks(
        order_of(streams.key(1, "dropout")), streams.counters(n // 4), streams.thresholds(torch.tensor([rate]))
    )[0]
    assert len(mask) == n
    dropped = float((mask == 0).to(torch.float64).mean())
    assert abs(dropped - rate) <= 5 * math.sqrt(rate * (1 - rate) / n) + 1 / 65536
    spread = math.sqrt(rate / (1 - rate) / n)  # of the mean of n entries, each 0 or 1 / (1 - rate)
    assert abs(float(mask.to(torch.float64).mean()) - 1) <= 5 * spread + 1e-4 * rate
    assert len(mask.unique()) <= 2


def test_masks_of_no_dropout_are_ones_and_full_dropout_stays_finite() -> None:
    """Rate 0 changes nothing; rate 1 is taken as the largest rate below it, never as a division by zero."""
    masks = streams.keep_masks(
        torch.tensor([1, 1]), streams.counters(100), streams.thresholds(torch.tensor([0.0, 1.0]))
    )
    assert torch.equal(masks[0], torch.ones(400))
    assert masks[1].isfinite().all()


def test_the_four_decisions_of_a_word_are_independent() -> None:
    """Quarters of one word agree as often as chance says."""
    n = 8_000
    mask = (
        streams.keep_masks(order_of(9), streams.counters(n), streams.thresholds(torch.tensor([0.5])))[0].view(n, 4) > 0
    )
    for a in range(4):
        for b in range(a):
            agree = float((mask[:, a] == mask[:, b]).to(torch.float64).mean())
            assert abs(agree - 0.5) < 5 * 0.5 / math.sqrt(n)


# --- Initialisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["simple", "ws"])
def test_initial_parameters_fill_torchs_own_bounds(name: str) -> None:
    """U(-b, b) with b = 1 / sqrt(fan in), as torch.nn initialises: bounds, spread, and one stream a parameter."""
    model = models.ARCHITECTURES[name]()
    values = initialisation.initial_parameters(model, 11)
    assert {key: value.shape for key, value in values.items()} == {
        key: value.shape for key, value in model.named_parameters()
    }
    for prefix, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            torchs = [layer.weight, layer.bias]
            for torch_layer, value in zip(torchs, (values[f"{prefix}.weight"], values[f"{prefix}.bias"]), strict=True):
                assert value.dtype == torch.float32
                assert value.abs().max() <= bound
                assert torch_layer is not None
                assert torch_layer.abs().max() <= bound  # torch still does the same
                sigma = bound / math.sqrt(3 * value.numel())  # of the mean
                assert abs(float(value.mean())) < 5 * sigma
                if value.numel() >= 100:
                    assert float(value.std()) == pytest.approx(bound / math.sqrt(3), rel=0.2)
    flat = [tuple(value.flatten()[:5].tolist()) for value in values.values()]
    assert len(set(flat)) == len(flat)


def test_initial_parameters_are_a_function_of_seed_and_name() -> None:
    """Another seed changes every number; `ws` and `ws-aux`, one network, begin alike."""
    first, again, other = (initialisation.initial_parameters(models.ARCHITECTURES["ws"](), seed) for seed in (3, 3, 4))
    aux = initialisation.initial_parameters(models.ARCHITECTURES["ws-aux"](), 3)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value, aux[name])
        assert not (value == other[name]).any()


# --- Golden values: results in databases rest on these; a change here makes them irreproducible -------------


def digest(*tensors: Tensor) -> str:
    """Of the bytes, so of every bit."""
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()[:16]


def goldens() -> Iterator[tuple[str, object]]:
    key = streams.key(2019, "order")
    yield "derive", [derive(2019, "final", 3), derive(1, "slot", 0), derive(7)]
    yield "key", [key, streams.key(0, "training images"), streams.key(2**63 - 1, "shifts")]
    yield "step_keys", streams.step_keys(order_of(key).expand(3), torch.tensor([0, 1, 7200])).tolist()
    yield "words", streams.words(order_of(key), streams.counters(3))[0].tolist()
    yield "uniform", streams.uniform(key, 3).tolist()
    yield "permutation", streams.permutation(key, 12).tolist()
    yield "permutation of 18,000", digest(streams.permutation(key, 18_000))
    mask = streams.keep_masks(order_of(key), streams.counters(4), streams.thresholds(torch.tensor([0.3])))[0]
    yield "keep_masks", "".join("01"[int(keep)] for keep in mask > 0)
    rates = torch.tensor([0.0, 0.15, 0.6], dtype=torch.float64)
    yield (
        "many keep_masks",
        digest(streams.keep_masks(order_of(key).expand(3), streams.counters(1000), streams.thresholds(rates))),
    )
    for name, make in models.ARCHITECTURES.items():
        yield f"initial_parameters {name}", digest(*initialisation.initial_parameters(make(), 2019).values())


GOLDEN: dict[str, object] = {
    "derive": [569302102195831683, 5535606917400478448, 4359823973405836615],
    "key": [-3517163598619918602, -5218303120864277777, 3082141305414672042],
    "step_keys": [-5864157332910056447, 6689105776281948487, 4858083345666800610],
    "words": [8373107387095468573, -388265854194007655, 7555210205346246055],
    "uniform": [0.4539070609771666, 0.9789520658690458, 0.4095687659110526],
    "permutation": [8, 4, 11, 6, 1, 9, 7, 3, 5, 2, 10, 0],
    "permutation of 18,000": "db988ea501c88592",
    "keep_masks": "1111110101111011",
    "many keep_masks": "7a858473c383de28",
    "initial_parameters simple": "a6e540718457f779",
    "initial_parameters ws": "1e64173d77f32b75",
    "initial_parameters ws-aux": "1e64173d77f32b75",
}


def test_streams_are_golden() -> None:
    """Whoever changes a stream changes every result that was ever stored: then this must be meant."""
    assert dict(goldens()) == GOLDEN
