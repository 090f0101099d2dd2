"""A certificate of what a model loses at most: what it says, and whether it is of the weights that lie beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cahp_plugin.errors import CheckpointError
from cahp_plugin.files import checked, from_plain, read_json, write_text
from cahp_plugin.prune.model_card import CARD_NAME, MARK, is_generated

CERTIFICATE_KEY = "cahp_certificate"
INT8 = "int8 graph"
_PIECE = 2**20
#: Entries of a config that say nothing of what the model computes.
_STAMPS = (CERTIFICATE_KEY, "transformers_version", "_name_or_path")
_WEIGHTS = (".safetensors", ".bin", ".onnx", ".onnx_data", ".data")


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was certified of one model, on examples that nothing else had touched.

    Attributes:
        metric: Name of the number, a mean of scores in [0, 1].
        drop: Points of it that may be lost.
        confidence: That no more is lost on the mean of such examples.
        certified: Whether it is so.
        examples: Examples that it was tested on.
        groups: Groups of them, by a column or of equal inputs, each of which counts as one; ``None`` without.
        dropped: Further examples that were left out, for they were in the training or evaluation set.
        differing: Examples, or groups, whose score differs from the dense model's.
        observed: Points that were lost on them.
        bound: Points that can be certified, at the same confidence; ``None`` where none can.
        share: Share of the layers' multiply-accumulates that is left.
        seed: Seed of the order of the examples.
        data: Fingerprint of the examples' file.
        precision: What was certified: ``"fp32"``, or ``"int8 graph"``.
        used_before: Other certificates that the same examples have been used for.
        stopped: Share of the first smaller model that could not be certified; ``None`` where all asked for were.
        enough: About how many examples would do for that one, or for this one where it is not certified; ``None``
            where it is not known.
        weights: SHA-256 of the weights, and of the config.
        group_column: Column whose values are the groups.

    Raises:
        ValueError: A number is out of its range.
    """

    metric: str
    drop: float
    confidence: float
    certified: bool
    examples: int
    groups: int | None
    dropped: int
    differing: int
    observed: float
    bound: float | None
    share: float | None
    seed: int
    data: str
    precision: str
    used_before: int = 0
    stopped: float | None = None
    enough: int | None = None
    weights: str | None = None
    group_column: str | None = None

    def __post_init__(self) -> None:
        count = self.examples if self.groups is None else self.groups
        if not (0 < self.drop <= 100 and 0.5 < self.confidence < 1 and 0 <= self.differing <= count <= self.examples):
            raise ValueError(f"numbers out of their range: {self.to_dict()}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the certificate as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Certificate:
        """Builds a certificate from what :meth:`to_dict` returned.

        Raises:
            KeyError: A part is missing.
            TypeError: A part is of another type.
            ValueError: A number is out of its range.
        """
        return from_plain(cls, values)

    def sentences(self) -> list[str]:
        """The certificate in words."""
        sure = f"{100 * self.confidence:g} % confidence"
        what = "the int8 graph" if self.precision == INT8 else f"these {self.precision} weights"
        number = self.metric.replace("_", " ")
        points = "point" if self.drop == 1 else "points"
        asked = f"at most {self.drop:g} {points} of {number} lost, with {sure}"
        if self.certified:
            tighter = self.bound is not None and self.bound < self.drop
            told = [f"Certified: {asked}{f' (and {self.bound:.1f} as well)' if tighter else ''}. "
                    "It holds for the mean over examples drawn as these were."]  # fmt: skip
        else:
            can = "nothing" if self.bound is None else f"at most {self.bound:.1f} points lost"
            told = [f"NOT certified: {asked}. What can be certified, at the same confidence: {can}."]
        grouped = f" in {self.groups:,} groups, each of which counts as one" if self.groups is not None else ""
        less = f" ({self.dropped:,} more are in --train or --eval and were left out)" if self.dropped else ""
        told.append(
            f"Tested on {self.examples:,} examples{grouped}{less}: {self.differing:,} differ in their score, "
            f"{self.observed:.2f} points are lost. Test by betting, order drawn by seed {self.seed}; data {self.data}."
        )
        if self.stopped is not None:
            told.append(f"The next smaller model, {100 * self.stopped:.0f} % of the layers' work, was not certified.")
        if self.stopped is not None or not self.certified:
            told.append(would_do(self.enough, self.groups is not None))
        if self.used_before:
            told.append(
                f"These examples were used for {self.used_before} other certificate"
                f"{'s' if self.used_before > 1 else ''} before: the confidence holds for each alone, not for all "
                "together nor for a choice among them."
            )
        if self.certified:
            told.append(f"It is of {what} alone: what is fine-tuned, quantized or converted later has none.")
        return told


def would_do(enough: int | None, grouped: bool) -> str:
    """How many examples would do, in words."""
    what = "groups" if grouped else "examples"
    if enough is None:
        return f"More {what} would not help: on these as much is lost as may be, or more."
    rough = 10 ** max(0, len(str(enough)) - 2)
    return f"About {-(-enough // rough) * rough:,} {what} like these would do."


def weights_hash(folder: Path) -> str:
    """SHA-256 of the files with weights in a folder, by their names and what they hold, and of the model's config.

    Raises:
        CheckpointError: There is none, or one can't be read.
    """
    files = sorted(path for path in folder.iterdir() if path.name.endswith(_WEIGHTS) and path.is_file())
    if not files:
        raise CheckpointError(f"{folder} has no file of weights.")
    digest = hashlib.sha256()
    try:
        for path in files:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
        config = {
            name: value for name, value in (read_json(folder / "config.json") or {}).items() if name not in _STAMPS
        }
        digest.update(json.dumps(config, sort_keys=True).encode())
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}.") from error
    return digest.hexdigest()


def read_certificate(folder: Path) -> Certificate | None:
    """The certificate in a folder's ``config.json``, of whatever weights it is; ``None`` where there is none.

    Raises:
        CheckpointError: It is damaged.
    """
    path = folder / "config.json"
    values = (read_json(path) or {}).get(CERTIFICATE_KEY)
    return None if values is None else checked(f"`{CERTIFICATE_KEY}` in {path}", lambda: Certificate.from_dict(values))


def trouble(folder: Path) -> str | None:
    """Why the certificate in a folder is not of the weights there; ``None`` where it is, or where there is none."""
    try:
        found = read_certificate(folder)
        if found is None or found.weights == weights_hash(folder):
            return None
    except CheckpointError as error:
        return f"Its certificate can't be relied on: {error}"
    if found.precision == INT8 and not any(folder.glob("*_quantized.onnx")):
        return f"Not these weights were certified, but the {INT8} that was made of them."
    return "Its certificate is VOID: it is of other weights, before they were fine-tuned, quantized or changed."


def told_of(folder: Path) -> list[str]:
    """What is to be said of the certificate in a folder; nothing where there is none."""
    wrong = trouble(folder)
    try:
        found = read_certificate(folder)
    except CheckpointError:
        found = None
    said = [] if found is None else found.sentences()
    return [wrong, *(f"It says: {line}" for line in said[:1])] if wrong else said


def write_certificate(folder: Path, certificate: Certificate, *, name: str) -> Certificate:
    """Writes a certificate into a folder's ``config.json`` and its generated model card, made where there is none.

    Args:
        folder: The folder, with its weights.
        certificate: The certificate; one that names its weights already is of others.
        name: What the folder is called in a card that is made.

    Returns:
        The certificate with the hash of the weights.
    """
    if certificate.weights is None:
        certificate = dataclasses.replace(certificate, weights=weights_hash(folder))
    path = folder / "config.json"
    values = (read_json(path) or {}) | {CERTIFICATE_KEY: certificate.to_dict()}
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
    card = folder / CARD_NAME
    text = card.read_text(encoding="utf-8") if card.is_file() else f"{MARK}\n\n# {name}\n"
    if is_generated(text):
        section = "\n".join(["## Certificate", "", *(f"- {line}" for line in told_of(folder)), ""])
        before, use, after = text.partition("## Use\n")
        write_text(card, f"{before.rstrip()}\n\n{section}" + (f"\n{use}{after}" if use else ""))
    return certificate
