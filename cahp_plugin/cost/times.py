"""Measured times: of whole models, and of each layer by its size, kept on disk by machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.files import from_plain, load, write_text
from cahp_plugin.latency import measure_latency
from cahp_plugin.machine import cpu_flags, cpu_name

logger = logging.get_logger(__name__)

#: Shares of a layer's units that are timed besides all of them.
_SHARES = (0.5, 0.25, 0.1, 0.0)
_ROUNDS, _WARMUP = 40, 5
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class How:
    """What times are measured with.

    Attributes:
        runtime: ``"onnxruntime"`` or ``"torch"``.
        precision: ``"fp32"`` or ``"int8"``, and how the graphs are optimized.
        sequence_lengths: Tokens an example; times are the mean over them. ``None`` for images and speech.
        batch_size: Examples a call.
        threads: Threads inside an operator.
        device: ``"cpu"`` or ``"cuda"``.
    """

    runtime: str
    precision: str
    sequence_lengths: tuple[int, ...] | None
    batch_size: int
    threads: int
    device: str = "cpu"

    def __str__(self) -> str:
        tokens = "" if self.sequence_lengths is None else f", {_told(self.sequence_lengths)} tokens"
        return (
            f"{self.runtime} {self.precision} on {self.device}{tokens}, batch {self.batch_size}, {self.threads} "
            f"thread{'s' if self.threads > 1 else ''}"
        )


@dataclasses.dataclass(frozen=True)
class Speed:
    """One model's time against another's.

    Attributes:
        ratio: How many times as fast it is: the median over rounds, both run in each.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        dense_ms: Milliseconds of the other.
        pruned_ms: Milliseconds of this one.
        how: What it was measured with.
        corrections: How often the plan was corrected to come nearer to what was asked.
    """

    ratio: float
    low: float
    high: float
    dense_ms: float
    pruned_ms: float
    how: str
    corrections: int = 0

    def __str__(self) -> str:
        return (
            f"{self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}] times as fast: {self.dense_ms:.2f} -> "
            f"{self.pruned_ms:.2f} ms ({self.how})"
        )


@dataclasses.dataclass(frozen=True)
class TimeTable:
    """What a model's layers take, in milliseconds of a call of the whole model.

    Attributes:
        whole: The whole dense model.
        layers: For each layer, what each of its sizes takes more than none.
    """

    whole: float
    layers: tuple[tuple[float, ...], ...]

    @property
    def rest(self) -> float:
        """What is left of the model without any unit."""
        return self.whole - sum(layer[0] for layer in self.layers)


def timed(
    folders: Sequence[Path], how: How, *, rounds: int = _ROUNDS
) -> list[list[tuple[float, float, float, float]]]:
    """Times models side by side.

    Returns:
        For each, at each length: milliseconds, and the ratio to the first with its interval.
    """
    report = measure_latency(
        folders,
        batch_sizes=(how.batch_size,),
        sequence_lengths=how.sequence_lengths,
        device=how.device,
        threads=how.threads,
        rounds=rounds,
        warmup=_WARMUP,
        memory=False,
    )
    entries = [(entry.p50_ms, entry.ratio, entry.ratio_low, entry.ratio_high) for entry in report.measurements]
    return [entries[place :: len(folders)] for place in range(len(folders))]


def speed_of(dense: Path, pruned: Path, how: How) -> Speed:
    """How many times as fast one model is as another, both run in every round; a model is once as fast as itself."""
    if dense == pruned:
        alone = float(np.mean([entry[0] for entry in timed([dense], how)[0]]))
        return Speed(1.0, 1.0, 1.0, alone, alone, str(how))
    first, second = timed([dense, pruned], how, rounds=2 * _ROUNDS)
    before = np.array([entry[0] for entry in first])
    # The times of each length by the paired ratio there: what the machine did meanwhile befell both.
    middle, low, high = (before.sum() / (before * np.array([entry[i] for entry in second])).sum() for i in (1, 3, 2))
    dense_ms = float(before.mean())
    return Speed(float(middle), float(low), float(high), dense_ms, dense_ms / float(middle), str(how))


def time_table(
    layers: Sequence[tuple[str, tuple[int, ...]]], how: How, make: Callable[[Sequence[int]], Path], model: str
) -> TimeTable:
    """What each size of each layer takes: measured on whole models of which all layers of one kind have one size.

    Of these the time of a layer is the share of one; between the measured sizes it is interpolated, and it never falls
    with the size. Tables are kept in a folder (``CAHP_CACHE``, or ``cahp`` in the user's cache), by the machine, the
    versions and the model's shape, for it is measured where it will run.

    Args:
        layers: Path of each layer's output projection, and the numbers of units that it may have, descending, all of
            them first.
        how: What it is measured with.
        make: Writes a model whose layers have these sizes into a folder, which it returns.
        model: What tells the model's shape.

    Returns:
        The table.

    Raises:
        CheckpointError: The table that was kept is damaged.
    """
    told = {
        "format": _FORMAT, "how": dataclasses.asdict(how), "cpu": cpu_name(), "flags": list(cpu_flags()),
        "cores": os.cpu_count(), "versions": package_versions("onnxruntime", "onnxruntime-gpu"), "model": model,
        "layers": layers,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]
    place = cache_folder() / "times" / f"{key}.json"
    known = load(place, lambda values: from_plain(TimeTable, values["table"]))
    if known is not None:
        logger.info(f"Times of the layers are those in {place}; delete it to have them measured anew.")
        return known
    full = [sizes[0] for _, sizes in layers]
    alike: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for number, (path, sizes) in enumerate(layers):
        alike.setdefault((re.sub(r"\d+", "*", path), sizes), []).append(number)
    wanted = [(own, size) for own in alike.values() for size in _some(layers[own[0]][1])]
    logger.info(f"Measuring {len(wanted) + 1} models for the times of the layers ({how}).")
    folders = [make(full)]
    for own, size in logging.tqdm(wanted, desc="Writing models to time", unit="model"):
        folders.append(make([size if number in own else full[number] for number in range(len(layers))]))
    first, *others = timed(folders, how)
    whole = float(np.mean([entry[0] for entry in first]))
    # Paired with the first: what the machine did meanwhile befell both.
    taken = [float(np.mean([a[0] * b[1] for a, b in zip(first, entries, strict=True)])) for entries in others]
    found: list[tuple[float, ...]] = [()] * len(layers)
    for own in alike.values():
        at = [full[own[0]], *(size for numbers, size in wanted if numbers is own)]
        ms = [whole, *(own_ms for (numbers, _), own_ms in zip(wanted, taken, strict=True) if numbers is own)]
        rising = np.maximum.accumulate(np.array(ms[::-1]))
        share = (rising - rising[0]) / len(own)
        for number in own:
            found[number] = tuple(np.interp(layers[number][1], at[::-1], share).tolist())
    table = TimeTable(whole, tuple(found))
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, json.dumps({"table": dataclasses.asdict(table), **told}, indent=1) + "\n")
    return table


def _some(sizes: Sequence[int]) -> list[int]:
    """Sizes to time besides the whole, descending: those nearest to some shares."""
    nearest = {min(sizes, key=lambda size: abs(size - share * sizes[0])) for share in _SHARES}
    return sorted(nearest - {sizes[0]}, reverse=True)


def cache_folder() -> Path:
    """Where measured tables are kept."""
    own = os.environ.get("CAHP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cahp"


def _told(numbers: Sequence[int]) -> str:
    return " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))
