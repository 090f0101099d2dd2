"""Whether a graph computes what the model computes, at several shapes, with and without padding."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from cahp_plugin.errors import DataError, ExportError
from cahp_plugin.export.session import run_session
from cahp_plugin.export.source import Source

#: (batch size, sequence length, padded): none is the shape that the graph was traced with.
SHAPES = ((1, 1, False), (1, 8, False), (2, 16, True), (3, 33, True), (5, 64, False), (4, 128, True))


@dataclasses.dataclass(frozen=True)
class Parity:
    """Difference between the graph and the model at one shape.

    Attributes:
        batch_size: Examples.
        sequence_length: Tokens.
        padded: Whether examples were padded.
        max_abs: Largest absolute difference of an output value, over all outputs and places.
        max_output: Largest absolute value of the model's outputs.
    """

    batch_size: int
    sequence_length: int
    padded: bool
    max_abs: float
    max_output: float


def compare(source: Source, session: Any, *, seed: int = 0) -> tuple[Parity, ...]:
    """Runs a source and a graph on the same random inputs, of all of ``SHAPES`` that the source has positions for.

    Args:
        source: What the graph must compute.
        session: The opened graph.
        seed: Seed of the token ids.

    Returns:
        One entry a shape.

    Raises:
        ExportError: The graph can't be run at a shape, or gives outputs of another shape or not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = dict.fromkeys((batch, min(length, source.longest), padded) for batch, length, padded in SHAPES)
    return tuple(_compare_at(source, session, *shape, generator) for shape in shapes)


def _compare_at(
    source: Source, session: Any, batch_size: int, length: int, padded: bool, generator: torch.Generator
) -> Parity:
    where = f"batch size {batch_size}, {length} tokens, {'padded' if padded else 'not padded'}"
    inputs = source.random_inputs(batch_size, length, padded=padded, generator=generator)
    expected = source.run(inputs)
    try:
        computed = run_session(session, inputs)
    except DataError as error:
        raise ExportError(f"The graph has another input than the model: {error}") from error
    except Exception as error:  # onnxruntime raises classes of its own, without a common root but Exception
        raise ExportError(f"The graph fails at {where}: {str(error).splitlines()[0]}") from error
    difference, largest = 0.0, 0.0
    for name, ours in expected.items():
        theirs = computed[name]
        if ours.shape != theirs.shape:
            raise ExportError(
                f"`{name}` has shape {tuple(theirs.shape)} from the graph and {tuple(ours.shape)} from the model at "
                f"{where}."
            )
        if not bool(torch.isfinite(theirs).all()):
            raise ExportError(f"`{name}` from the graph is not finite at {where}.")
        difference = max(difference, float((ours - theirs).abs().max()))
        largest = max(largest, float(ours.abs().max()))
    return Parity(batch_size, length, padded, difference, largest)


def require_parity(parity: tuple[Parity, ...], tolerance: float, what: str) -> None:
    """Checks that no difference exceeds the tolerance.

    Args:
        parity: The differences.
        tolerance: Largest absolute difference allowed, for outputs up to 1; relative to the largest output above.
        what: What was compared, for the message.

    Raises:
        ExportError: One does.
    """
    worst = max(parity, key=lambda entry: entry.max_abs / max(1.0, entry.max_output))
    if worst.max_abs > tolerance * max(1.0, worst.max_output):
        raise ExportError(
            f"{what} differs from the model by {worst.max_abs:.2e} at batch size {worst.batch_size}, "
            f"{worst.sequence_length} tokens, {'padded' if worst.padded else 'not padded'}; the tolerance is "
            f"{tolerance:.1e}. Nothing was written."
        )
