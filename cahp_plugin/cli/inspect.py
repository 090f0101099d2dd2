"""``cahp inspect``: the map of kept heads and neurons of a checkpoint, from its files alone."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cahp_plugin.cli.common import add_output_options, print_result
from cahp_plugin.errors import CheckpointError
from cahp_plugin.units.kept import KeptSet

if TYPE_CHECKING:
    from cahp_plugin.prune import Stage
    from cahp_plugin.prune.certificate import Certificate

HELP = "show the kept heads and neurons, parameters and origin of a pruned checkpoint"
DESCRIPTION = (
    "Reads a pruned checkpoint's config (kept heads and neurons, widths), tensors and selection; the model is not "
    "built."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of a pruned checkpoint")
    add_output_options(parser)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What the files of a pruned checkpoint say.

    Attributes:
        folder: The folder.
        architecture: Class of the model.
        version: Version of cahp-plugin that wrote it.
        num_original_heads: Attention layer -> heads before any pruning.
        num_original_neurons: Feed-forward layer -> neurons before any pruning; empty where none were removed.
        kept: The heads and neurons that are there, by their original indices.
        linear_shapes: Path -> ``(out_features, in_features)`` of the linear layers that were narrowed as well.
        parameters: Number of parameters in the safetensors files; ``None`` of graphs.
        mebibytes: Size of those files, MiB.
        note: How the number of heads came about, from ``selection.json`` where it is there.
        stages: Scores and parameters of each stage, from the report where it is there.
        certificate: What was certified, where that is on record.
        certified: What is to be said of it: that it is of other weights, or what it says.
    """

    folder: str
    architecture: str
    version: str
    num_original_heads: dict[int, int]
    num_original_neurons: dict[int, int]
    kept: KeptSet
    linear_shapes: dict[str, tuple[int, int]]
    parameters: int | None
    mebibytes: float
    note: str | None
    stages: tuple[Stage, ...]
    certificate: Certificate | None = None
    certified: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the inspection as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"kept": dict(self.kept.heads), "kept_neurons": self.kept.to_dict()["neurons"]}
        values |= {"certificate": self.certificate and self.certificate.to_dict(), "certified": list(self.certified)}
        return values | {"stages": [stage.to_dict() for stage in self.stages]}

    def __str__(self) -> str:
        total = sum(self.num_original_heads.values())
        count = self.kept.num_heads
        lines = [
            f"{self.folder}: {self.architecture}, pruned by cahp-plugin {self.version}",
            f"{count} of {total} heads kept ({100 * count / total:.1f} %), "
            + ("" if self.parameters is None else f"{self.parameters:,} parameters, ")
            + f"{self.mebibytes:.1f} MiB",
        ]
        for layer, heads in self.kept.heads.items():
            cells = "".join("#" if head in heads else "." for head in range(self.num_original_heads[layer]))
            lines.append(f"  layer {layer:>2}  {cells}  {len(heads):>2} kept: {', '.join(map(str, heads)) or 'none'}")
        if self.num_original_neurons:
            every = sum(self.num_original_neurons.values())
            neurons = self.kept.num_neurons
            share = f"{neurons:,} of {every:,} neurons kept ({100 * neurons / every:.1f} %)"
            lines.append(f"{share} in the feed-forward layers on record")
            lines += [
                f"  layer {layer:>2}  {len(self.kept.neurons[layer]):>5,} of {number:,}"
                for layer, number in self.num_original_neurons.items()
            ]
        if self.linear_shapes:
            lines.append("narrowed linear layers (outputs x inputs):")
            width = max(map(len, self.linear_shapes))
            lines += [f"  {path.ljust(width)}  {out} x {into}" for path, (out, into) in self.linear_shapes.items()]
        if self.note:
            lines.append(self.note)
        lines += self.certified
        for stage in self.stages:
            told = [str(score) for score in stage.scores]
            told += [f"loss {stage.loss:.3f}"] if stage.loss is not None else []
            told += [f"{stage.heads} heads", f"{stage.parameters:,} parameters"]
            told += [f"{stage.num_examples:,} examples"] if stage.num_examples is not None else []
            lines.append(f"  {stage.name:>10}: {', '.join(told)}")
        return "\n".join(lines)


def inspect_folder(folder: Path) -> Inspection:
    """Reads what :func:`cahp_plugin.save_pruned` wrote.

    Raises:
        CheckpointError: The folder holds no pruned checkpoint, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    from cahp_plugin.files import load, read_json
    from cahp_plugin.prune import Stage
    from cahp_plugin.prune.certificate import read_certificate, told_of
    from cahp_plugin.prune.widths import linear_shapes
    from cahp_plugin.units.record import RECORD_KEY, head_entries, kept_set, neuron_entries

    config = read_json(folder / "config.json")
    if config is None:
        raise CheckpointError(f"There is no config.json in {folder}; is it a model's folder?")
    if RECORD_KEY not in config:
        raise CheckpointError(
            f"{folder} is not a checkpoint that cahp-plugin pruned: config.json has no `{RECORD_KEY}`."
        )
    entries = head_entries(config)
    files, graphs = sorted(folder.glob("*.safetensors")), sorted(folder.glob("*.onnx"))
    if not files and not graphs:
        raise CheckpointError(f"{folder} has no .safetensors file, and no graph (.onnx).")
    parameters = 0
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dict
                    parameters += math.prod(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} can't be read: {error}. It may be cut off; copy it again.") from error
    try:
        certificate = read_certificate(folder)
    except CheckpointError:  # which `told_of` says
        certificate = None
    stages = load(
        folder / "cahp_report.json",
        lambda values: tuple(Stage.from_dict(stage) for stage in values.get("stages", ())),
    )
    return Inspection(
        folder=str(folder),
        architecture=", ".join(config.get("architectures") or ["unknown"]),
        version=str(config[RECORD_KEY].get("version")),
        num_original_heads={layer: entry.num_heads for layer, entry in entries.items()},
        num_original_neurons={layer: entry.num_neurons for layer, entry in neuron_entries(config).items()},
        kept=kept_set(config),
        linear_shapes=linear_shapes(config),
        parameters=parameters if files else None,
        mebibytes=sum(file.stat().st_size for file in files or graphs) / 2**20,
        note=(read_json(folder / "selection.json") or {}).get("note"),
        stages=stages or (),
        certificate=certificate,
        certified=tuple(told_of(folder)),
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs the subcommand."""
    print_result(arguments, inspect_folder(Path(arguments.folder)))
