"""Whether a graph computes what its source computes, at several shapes, with and without padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from cahp_plugin.errors import DataError, ExportError
from cahp_plugin.export.parts import MODEL
from cahp_plugin.export.session import run_session
from cahp_plugin.export.source import Source

#: (batch size, sequence length, padded): none is the shape that the graph was traced with.
SHAPES = ((1, 1, False), (1, 8, False), (2, 16, True), (3, 33, True), (5, 64, False), (4, 128, True))
#: Numbers of images or of recordings, whose length is fixed and which know no padding.
BATCH_SIZES = (1, 2, 3, 4)

Tensors = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Parity:
    """Difference between a graph and its source, the model or the graph that was there, at one shape.

    Attributes:
        batch_size: Examples.
        sequence_length: Tokens of a text; of an encoder-decoder for speech, of its decoder; 0 for images.
        padded: Whether examples were padded.
        max_abs: Largest absolute difference of an output value, over all outputs and places.
        max_output: Largest absolute value of the source's outputs.
        graph: Which graph: ``"model"``, ``"encoder_model"`` or ``"decoder_model"``.
    """

    batch_size: int
    sequence_length: int
    padded: bool
    max_abs: float
    max_output: float
    graph: str = MODEL

    @property
    def where(self) -> str:
        """The shape in words."""
        length = f", {self.sequence_length} tokens" if self.sequence_length else ""
        graph = "" if self.graph == MODEL else f"{self.graph}: "
        return f"{graph}batch size {self.batch_size}{length}, {'padded' if self.padded else 'not padded'}"


def compare(source: Source, sessions: Mapping[str, Any], *, seed: int = 0) -> tuple[Parity, ...]:
    """Runs a source and its graphs on the same random inputs, of all of ``SHAPES`` that the source has positions for.

    A decoder's graph is given what the source's own encoder computes, so that each graph is compared by itself. Where
    texts are padded on the left the outputs at the padding, which nothing looks at, are not compared: there attention
    has no token to attend to.

    Args:
        source: What the graphs must compute.
        sessions: Name of a part -> the opened graph.
        seed: Seed of the numbers.

    Returns:
        One entry a shape and graph.

    Raises:
        ExportError: A graph can't be run at a shape, or gives outputs of another shape or not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for batch_size, length, padded in _shapes(source):
        given = source.random_inputs(batch_size, max(1, length), padded=padded, generator=generator)
        for part in source.parts:
            inputs = source.part_inputs(part, given)
            expected = source.run(part, inputs)
            empty = Parity(batch_size, length, padded, 0.0, 0.0, part.name)
            found.append(_difference(empty, inputs, expected, sessions[part.name], source.called, left=source.left))
            given = {**given, **expected}
    return tuple(found)


def _shapes(source: Source) -> list[tuple[int, int, bool]]:
    if source.has_text:
        shapes = [(batch, min(length, source.longest), padded) for batch, length, padded in SHAPES]
    else:
        length = 12 if len(source.parts) > 1 else 0
        shapes = [(batch, min(batch * length, source.longest), False) for batch in BATCH_SIZES]
    return list(dict.fromkeys(shapes))


def _difference(at: Parity, inputs: Tensors, expected: Tensors, session: Any, against: str, *, left: bool) -> Parity:
    try:
        computed = run_session(session, inputs)
    except DataError as error:
        raise ExportError(f"The graph has another input than {against}: {error}") from error
    except Exception as error:  # onnxruntime raises classes of its own, without a common root but Exception
        raise ExportError(f"The graph fails at {at.where}: {str(error).splitlines()[0]}") from error
    real = inputs["attention_mask"].bool() if left and at.padded and "attention_mask" in inputs else None
    difference, largest = 0.0, 0.0
    for name, ours in expected.items():
        theirs = computed[name]
        if ours.shape != theirs.shape:
            raise ExportError(
                f"`{name}` has shape {tuple(theirs.shape)} from the graph and {tuple(ours.shape)} from {against} at "
                f"{at.where}."
            )
        if real is not None and ours.shape[:2] == real.shape:
            ours, theirs = ours[real], theirs[real]
        for values, maker in ((theirs, "the graph"), (ours, against)):
            if not bool(torch.isfinite(values).all()):
                raise ExportError(f"`{name}` from {maker} is not finite at {at.where}.")
        difference = max(difference, float((ours - theirs).abs().max()))
        largest = max(largest, float(ours.abs().max()))
    return dataclasses.replace(at, max_abs=difference, max_output=largest)


def require_parity(parity: tuple[Parity, ...], tolerance: float, what: str, against: str = "the model") -> None:
    """Checks that no difference exceeds the tolerance.

    Args:
        parity: The differences.
        tolerance: Largest absolute difference allowed, for outputs up to 1; relative to the largest output above.
        what: What was compared, for the message.
        against: What with, for the message.

    Raises:
        ExportError: One does.
    """
    worst = max(parity, key=lambda entry: entry.max_abs / max(1.0, entry.max_output))
    if worst.max_abs > tolerance * max(1.0, worst.max_output):
        raise ExportError(
            f"{what} differs from {against} by {worst.max_abs:.2e} at {worst.where}; the tolerance is "
            f"{tolerance:.1e}. Nothing was written."
        )
