"""What the models cost: multiply-adds and parameters against numbers worked out by hand, latency by a made-up clock."""

import pytest
import torch
from torch import nn

from hpo.digits.model_cost import BATCHES, cost_of, latencies_of, multiply_adds
from hpo.study.spec import MODELS


def test_multiply_adds_by_hand() -> None:
    """Outputs times the weights of a sum: kernel and channels of a group, or features; each use counts."""
    conv = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2)  # (4, 9, 8) to (6, 5, 5)
    assert multiply_adds(conv, torch.zeros(1, 4, 9, 8)) == 6 * 5 * 5 * (4 // 2 * 3 * 2)
    layer = nn.Linear(7, 7)
    assert multiply_adds(layer, torch.zeros(3, 7)) == 3 * 7 * 7
    assert multiply_adds(nn.Sequential(layer, nn.SELU(), layer), torch.zeros(1, 7)) == 2 * 7 * 7
    assert not layer._forward_hooks


def test_the_three_models() -> None:
    """Worked out from the table: 5x5 kernels give 10x10, pooled 5x5; 3x3 kernels give 3x3, pooled 1x1."""
    second = 64 * 3 * 3 * (32 * 9)
    simple = 32 * 10 * 10 * (2 * 25) + second + 64 * 230 + 230 * 100 + 100 * 2
    image = 32 * 10 * 10 * 25 + second + 64 * 120 + 120 * 10
    sharing = 2 * image + 20 * 230 + 230 * 100 + 100 * 2
    assert (simple, sharing) == (363_808, 537_336)
    costs = {model: cost_of(model) for model in MODELS}
    assert {model: cost.multiply_adds for model, cost in costs.items()} == {
        "simple": simple,
        "ws": sharing,
        "ws-aux": sharing,
    }
    assert [costs[model].parameters for model in MODELS] == [58_380, 56_470, 56_470]


def test_latency_is_the_median_pass() -> None:
    """By a clock that a pass moves by 7, 1 or 40 seconds: three passes, then the time is over."""
    times = iter([0.0, 0.0, 7.0, 7.0, 8.0, 8.0, 48.0, 48.0] * 4)
    threads = torch.get_num_threads()
    latencies = latencies_of(["simple", "ws", "ws-aux"], clock=lambda: next(times))
    assert torch.get_num_threads() == threads
    assert [(latency.model, latency.pairs) for latency in latencies.measured] == [
        (m, n) for m in MODELS for n in BATCHES
    ]
    assert {(latency.seconds, latency.repeats) for latency in latencies.measured} == {(7.0, 3)}
    assert latencies.of("ws-aux", 1000).a_pair == pytest.approx(0.007)
    assert next(times, None) is None  # ws and ws-aux are one network, measured once
    assert torch.__version__ in latencies.device


def test_latency_is_measured() -> None:
    (single, many) = latencies_of(["simple"]).measured
    assert single.seconds > 0
    assert many.seconds > 0
    assert min(single.repeats, many.repeats) >= 3
