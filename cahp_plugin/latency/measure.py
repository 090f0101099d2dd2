"""Times several models in one interleaved run."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from transformers.utils import logging

from cahp_plugin._compat import package_versions
from cahp_plugin.errors import ConfigError
from cahp_plugin.export.session import PROVIDERS
from cahp_plugin.latency.macs import CONVENTION, ENCODER_DECODER_NOTE, Work, work_of
from cahp_plugin.latency.measurement import Measurement
from cahp_plugin.latency.memory import peak_memory
from cahp_plugin.latency.report import LatencyReport
from cahp_plugin.latency.statistics import CONFIDENCE, paired_ratio, percentiles
from cahp_plugin.latency.targets import (
    Call,
    Target,
    check_device,
    check_inputs,
    example_inputs,
    find_targets,
    load_target,
    sequence_lengths_of,
)
from cahp_plugin.machine import cpu_flags, cpu_name

logger = logging.get_logger(__name__)

Shape = tuple[int, int]  # examples and tokens


def measure_latency(
    targets: Sequence[str | os.PathLike[str]],
    *,
    batch_sizes: Sequence[int] = (1,),
    sequence_lengths: Sequence[int] | None = None,
    device: str = "cpu",
    threads: int = 1,
    rounds: int = 50,
    warmup: int = 10,
    seed: int = 0,
    attn_implementation: str | None = None,
    memory: bool = True,
) -> LatencyReport:
    """Measures models side by side: in every round each runs once, in an order that is drawn anew.

    Args:
        targets: Folders or Hub ids: checkpoints, pruned or not, run by torch; folders with a graph, by onnxruntime.
            Ratios are to the first.
        batch_sizes: Examples a call.
        sequence_lengths: Tokens an example, without padding. Without it 128, or as many as the model has positions
            for; images and speech have one length, their own, and no other is taken. An encoder-decoder's encoder
            gets this length and its decoder one token: the way to the first token.
        device: ``"cpu"`` or ``"cuda"``.
        threads: Threads inside an operator, in torch and in onnxruntime.
        rounds: Timed calls of each target at each shape; below 50 the intervals are wide.
        warmup: Calls before them that are not timed.
        seed: Seed of the token ids, of the order and of the bootstrap.
        attn_implementation: Attention of the checkpoints that torch runs; transformers' own choice without it (sdpa
            where the model has it).
        memory: Whether each target's peak memory is measured, in a process of its own at the largest shape.

    Returns:
        The times and what they were measured on.

    Raises:
        ConfigError: A number is out of range, the device is absent, a sequence is too long for a model, or the
            targets can't be given the same inputs.
        CheckpointError: A target is no model.
        ExportError: A folder holds several graphs.
        MissingDependencyError: onnxruntime is needed and not installed.
    """
    if isinstance(targets, (str, os.PathLike)) or not targets:
        raise ConfigError("`targets` must be a list of at least one folder or Hub id.")
    for name, values in (("batch_sizes", batch_sizes), ("sequence_lengths", sequence_lengths)):
        _check_counts(name, values, 1)
    for name, value, least in (("threads", threads, 1), ("rounds", rounds, 2), ("warmup", warmup, 0)):
        _check_counts(name, [value], least)
    found = find_targets(targets)
    check_device(found, device)
    check_inputs(found)
    sequence_lengths = sequence_lengths_of(found, sequence_lengths)
    work = [work_of(target.config, sequence_lengths, target.name) for target in found]
    how: dict[str, Any] = {"device": device, "threads": threads, "attn_implementation": attn_implementation}
    load_before = round(psutil.getloadavg()[0], 2)
    with contextlib.ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads)
        prepare = [load_target(target, **how) for target in found]
        shapes = [(batch, length) for length in sequence_lengths for batch in batch_sizes]
        generator = np.random.default_rng(seed)
        times = {}
        with logging.tqdm(total=len(shapes) * rounds, desc="Measuring latency", unit="round") as bar:
            for shape in shapes:
                inputs = example_inputs(found, *shape, seed)
                times[shape] = _interleaved([make(inputs) for make in prepare], rounds, warmup, generator, bar)
        del prepare
    load_after = round(psutil.getloadavg()[0], 2)
    largest = (max(batch_sizes), max(sequence_lengths))
    peaks = [peak_memory(target.path, *largest, **how) if memory else None for target in found]
    return LatencyReport(
        tuple(_summaries(found, work, times, peaks, seed)),
        settings={
            **how,
            "rounds": rounds,
            "warmup": warmup,
            "seed": seed,
            "confidence": CONFIDENCE,
            "memory_shape": list(largest) if memory else None,
        },
        environment=_environment(device) | {"load_before": load_before, "load_after": load_after},
        convention=CONVENTION + (f" {ENCODER_DECODER_NOTE}" if "decoder_input_ids" in found[0].inputs else ""),
    )


def _check_counts(name: str, values: Sequence[int] | None, least: int) -> None:
    if values is not None and (not values or any(int(value) != value or value < least for value in values)):
        raise ConfigError(f"`{name}` must be whole numbers of at least {least}; got {values}.")


def _interleaved(calls: list[Call], rounds: int, warmup: int, generator: np.random.Generator, bar: Any) -> np.ndarray:
    """Seconds of every call in every round, of shape ``(calls, rounds)``."""
    for call in calls:
        for _ in range(warmup):
            call()
    seconds = np.empty((len(calls), rounds))
    for turn in range(rounds):
        for index in generator.permutation(len(calls)):
            start = time.perf_counter()
            calls[index]()
            seconds[index, turn] = time.perf_counter() - start
        bar.update()
    return seconds


def _summaries(
    targets: Sequence[Target], work: Sequence[Work], times: Mapping[Shape, np.ndarray], peaks: Sequence[Any], seed: int
) -> Iterator[Measurement]:
    for (batch_size, length), series in times.items():
        for target, own, seconds, peak in zip(targets, work, series, peaks, strict=True):
            spread = percentiles(seconds)
            yield Measurement(
                target=target.name,
                backend=target.backend,
                precision=target.precision,
                num_heads=own.num_heads,
                batch_size=batch_size,
                sequence_length=length,
                **spread,
                **paired_ratio(seconds, series[0], seed=seed),
                theory=own.macs[length] / work[0].macs[length],
                macs=batch_size * own.macs[length],
                throughput=1000 * batch_size / spread["p50_ms"],
                mib=target.mib,
                peak_mib=peak,
            )


def _environment(device: str) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cpu_flags": list(cpu_flags()),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "provider": PROVIDERS[device],
        "versions": package_versions("onnxruntime", "onnxruntime-gpu", "onnx"),
    }
