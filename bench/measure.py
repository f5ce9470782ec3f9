"""Timing in turns, and what was measured written down with its machine."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def two_or_more(text: str) -> int:
    """A count for argparse: of a single value there is no spread."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 2 on")
    return int(text)


def in_turns(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall seconds of each case, `repeats` times; each turn runs all, beginning with another one."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for case in cases.values():
        case()  # warm: caches, allocators, kernels to choose
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begun = time.perf_counter()
            cases[name]()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "q1": low, "q3": high, "n": len(values)}


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times faster, turn by turn: median and quartiles."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def machine() -> dict[str, Any]:
    """Where it was measured."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    about: dict[str, Any] = {"cpu": cpu, "python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        about |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return about


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def store(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result with its machine and the time as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path.write_text(json.dumps({"when": when, "machine": machine(), **result}, indent=2) + "\n")
    print(path)
