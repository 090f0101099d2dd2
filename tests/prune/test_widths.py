import json

import pytest
import torch
import torch_pruning as tp
from tiny import ARCHITECTURES, model_inputs, tiny_model
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from cahp_plugin import CAHPImportance, CAHPPruner, load_pruned, save_pruned
from cahp_plugin.cli.inspect import inspect_folder
from cahp_plugin.errors import CheckpointError
from cahp_plugin.prune.origin import set_origin
from cahp_plugin.prune.widths import linear_shapes, narrow_linears, narrowed_linears
from cahp_plugin.units import attention_layers

KEPT = {0: (1, 3), 1: (), 2: (0, 1, 2, 3)}
INNER = ("intermediate.dense", "ffn.lin1")


def logits(model):
    with torch.no_grad():
        return model(**model_inputs()).logits


def remove_heads(model, kept=KEPT):
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    return model


def stock(model, roots, share=0.5, **more):
    """Torch-Pruning's own pruner on the layers whose names end so."""
    chosen = {module for name, module in model.named_modules() if name.endswith(roots)}
    others = [
        module
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)) and module not in chosen
    ]
    tp.pruner.BasePruner(
        model,
        model_inputs(),
        importance=tp.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        pruning_ratio=share,
        ignored_layers=others,
        in_channel_groups={},
        out_channel_groups={},
        **{"num_heads": {}} | more,
    ).step()
    return model


def widths(model):
    return [module.out_features for name, module in model.named_modules() if name.endswith(INNER)]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
def test_heads_and_feed_forward_reload_exactly_and_again(name, tmp_path):
    model = stock(remove_heads(tiny_model(name)), INNER)
    assert max(widths(model)) < 48
    save_pruned(model, tmp_path / "a")
    loaded = load_pruned(tmp_path / "a", attn_implementation="eager")
    assert widths(loaded) == widths(model) and torch.equal(logits(loaded), logits(model))
    # once more, heads and widths, on the loaded model
    remove_heads(loaded, {0: (3,)})
    stock(loaded, INNER, share=0.3)
    assert sum(widths(loaded)) < sum(widths(model))
    save_pruned(loaded, tmp_path / "b")
    again = load_pruned(tmp_path / "b", attn_implementation="eager")
    assert {layer.index: layer.heads for layer in attention_layers(again)} == KEPT | {0: (3,)}
    assert widths(again) == widths(loaded) and torch.equal(logits(again), logits(loaded))


def test_feed_forward_alone(tmp_path):
    model = stock(tiny_model(), INNER)
    save_pruned(model, tmp_path / "a")
    loaded = load_pruned(tmp_path / "a", attn_implementation="eager")
    assert torch.equal(logits(loaded), logits(model))
    assert "pruned_heads" not in json.loads((tmp_path / "a" / "config.json").read_text())


def test_uneven_widths_are_recorded_with_both_sides(tmp_path):
    model = remove_heads(tiny_model(), {0: (1,)})
    for index, width in enumerate((48, 7, 1)):
        layer = model.bert.encoder.layer[index]
        tp.prune_linear_out_channels(layer.intermediate.dense, list(range(width, 48)))
        tp.prune_linear_in_channels(layer.output.dense, list(range(width, 48)))
    save_pruned(model, tmp_path / "a")
    assert linear_shapes(json.loads((tmp_path / "a" / "config.json").read_text())) == {
        "bert.encoder.layer.1.intermediate.dense": (7, 32),
        "bert.encoder.layer.1.output.dense": (32, 7),
        "bert.encoder.layer.2.intermediate.dense": (1, 32),
        "bert.encoder.layer.2.output.dense": (32, 1),
    }
    assert torch.equal(logits(load_pruned(tmp_path / "a", attn_implementation="eager")), logits(model))
    # plain saving of a loaded model keeps the record, and removing heads does
    model = remove_heads(load_pruned(tmp_path / "a", attn_implementation="eager"), {1: (0,)})
    model.save_pretrained(tmp_path / "b")
    assert torch.equal(logits(load_pruned(tmp_path / "b", attn_implementation="eager")), logits(model))


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")
def test_inspect_shows_them_from_the_files(tmp_path):
    model = stock(remove_heads(tiny_model()), INNER)
    inspection = inspect_folder(save_pruned(model, tmp_path / "a"))
    assert {path: tuple(model.get_submodule(path).weight.shape) for path in inspection.linear_shapes} == dict(
        inspection.linear_shapes
    )
    assert len(inspection.linear_shapes) == 6 and not linear_shapes(model.config)  # the model's own config stays
    assert inspection.parameters == model.num_parameters()
    assert f"bert.encoder.layer.0.intermediate.dense  {widths(model)[0]} x 32" in str(inspection)
    assert json.loads(json.dumps(inspection.to_dict()))["linear_shapes"]


def test_a_smaller_hidden_size_is_refused_before_anything_is_written(tmp_path):
    model = remove_heads(tiny_model())
    model.bert.encoder.layer[0].output.LayerNorm = torch.nn.LayerNorm(16)
    with pytest.raises(CheckpointError, match=r"output.LayerNorm.* \[16\] \(expected \[32\]\).*ignored_layers"):
        save_pruned(model, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_wider_layers_and_added_modules_are_refused(tmp_path):
    model = remove_heads(tiny_model())
    model.classifier = torch.nn.Linear(32, 9)
    with pytest.raises(CheckpointError, match=r"classifier.weight \[9, 32\] \(expected \[3, 32\]\)"):
        save_pruned(model, tmp_path / "a")
    model = remove_heads(tiny_model())
    model.adapter = torch.nn.Linear(32, 9)
    with pytest.raises(CheckpointError, match=r"adapter.bias, adapter.weight.*Merge adapters"):
        save_pruned(model, tmp_path / "a")


def test_heads_that_left_without_the_map_are_refused(tmp_path):
    model = tiny_model()
    for layer in model.bert.encoder.layer:  # half of each head's channels
        attention = layer.attention
        for module in (attention.self.query, attention.self.key, attention.self.value):
            tp.prune_linear_out_channels(module, list(range(0, 32, 2)))
        tp.prune_linear_in_channels(attention.output.dense, list(range(0, 32, 2)))
    with pytest.raises(CheckpointError, match=r"query has the shape \[16, 32\].*update_model"):
        save_pruned(model, tmp_path / "a")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"nowhere": [3, 3]}, "names nowhere, which is no linear layer"),
        ({"bert.embeddings.LayerNorm": [3, 3]}, "which is no linear layer"),
        ({"bert.pooler.dense": [99, 32]}, r"the shape \[99, 32\]; unpruned it has \[32, 32\]"),
        ({"bert.pooler.dense": [0, 32]}, "damaged"),
        ({"bert.pooler.dense": 5}, "damaged"),
        ([1], "damaged"),
        ({"bert.pooler.dense": [5, 32]}, "can't be loaded.*do not belong together"),
    ],
)
def test_damaged_records(shapes, message, tmp_path):
    path = save_pruned(remove_heads(tiny_model()), tmp_path / "a") / "config.json"
    values = json.loads(path.read_text())
    values["cahp_config"]["linear_shapes"] = shapes
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        load_pruned(tmp_path / "a")


class Block(torch.nn.Module):
    """A feed-forward of GPT-2's kind of layers."""

    def __init__(self, inner, bias=True):
        super().__init__()
        self.up, self.down = Conv1D(inner, 8), torch.nn.Linear(inner, 8, bias=bias)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("bias", [True, False])
def test_conv1d_is_stored_the_other_way_round(bias, monkeypatch):
    for place in ("widths.find_layers", "origin.find_layers", "origin.find_feed_forward"):  # there is none in it
        monkeypatch.setattr(f"cahp_plugin.prune.{place}", lambda model: ())
    small, full = Block(5, bias), Block(12, bias)
    small.config = full.config = PretrainedConfig()
    shapes = narrowed_linears(small, set_origin(small, full))
    assert shapes == {"up": (5, 8), "down": (8, 5)}
    narrow_linears(full, shapes)
    full.load_state_dict(small.state_dict())
    x = torch.randn(2, 3, 8)
    assert torch.equal(full(x), small(x)) and (full.up.nf, full.up.nx) == (5, 8)
