"""Layers, and what can't be pruned, with the reason."""

import copy

import pytest
import torch
import transformers
from torch import nn
from zoo import FAMILIES, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet
from cahp_plugin.errors import ConfigError, PruningError, SelectionError, UnsupportedModelError
from cahp_plugin.observe import only_kept
from cahp_plugin.units import (
    AttentionSpec,
    FeedForwardSpec,
    feed_forward_layers,
    prunable_layers,
    register_architecture,
    spec,
)


def prune(model, kept, name="bert"):
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(kept)).step()
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_both_kinds_in_the_order_of_its_modules(name):
    model = zoo_model(name)
    layers, order = prunable_layers(model), [path for path, _ in model.named_modules()]
    kinds = {kind: [layer for layer in layers if layer.kind == kind] for kind in ("attention", "feed-forward")}
    for own in kinds.values():
        assert [layer.index for layer in own] == list(range(len(own)))
        assert [order.index(layer.name) for layer in own] == sorted(order.index(layer.name) for layer in own)
    crosses = sum(layer.pattern == "cross" for layer in kinds["attention"])
    assert len(kinds["feed-forward"]) == len(kinds["attention"]) - crosses > 0
    for layer in kinds["feed-forward"]:
        inner = layer.output.weight.shape[0 if type(layer.output).__name__ == "Conv1D" else 1]
        assert layer.units == tuple((neuron,) for neuron in range(inner)) and layer.num_original == inner
        assert layer.unit_dim == 1 and str(layer) == f"Feed-forward layer {layer.index} ({layer.name})"


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (KeptSet(neurons={3: (0,)}), r"layers \[3\] for neurons; the model has layers 0 to 2"),
        (
            KeptSet(neurons={0: (47, 48)}),
            r"no neuron 48 \(indices go from 0 to 47\); it has the neurons 0-47",
        ),
        (KeptSet(heads={0: (4,)}, neurons={0: (1,)}), "Layer 0 has no head 4"),
    ],
)
def test_units_that_are_not_there(kept, message):
    model = zoo_model("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SelectionError, match=message):
        prune(model, kept)
    with pytest.raises(SelectionError, match=message), only_kept(model, kept):
        pass
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_neurons_that_were_removed_before():
    model = prune(zoo_model("bert"), KeptSet(neurons={1: range(4)}))
    with pytest.raises(SelectionError, match=r"no neuron 4-5 \(removed before\); it has the neurons 0-3"):
        prune(model, KeptSet(neurons={1: (3, 4, 5)}))
    with pytest.raises(PruningError, match=r"keeps all 12 heads and 100 neurons"):
        prune(model, KeptSet(neurons={1: range(4)}))


def test_neurons_are_not_for_the_stock_pruner():
    import torch_pruning as tp

    model = zoo_model("bert")
    importance = CAHPImportance(KeptSet(neurons={0: (1,)}))
    pruner = tp.pruner.BasePruner(
        model, zoo_inputs("bert"), importance=importance, global_pruning=True, pruning_ratio=0.5,
        head_pruning_ratio=1e-3, prune_num_heads=True, num_heads=importance.stock_num_heads(model),
        out_channel_groups={}, in_channel_groups={},
    )  # fmt: skip
    with pytest.raises(PruningError, match="names neurons"):
        pruner.step()


def test_an_unknown_feed_forward_is_named_and_heads_still_go(monkeypatch):
    for block in ("ViTLayer", "ViTMLP"):  # transformers 4.57, 5.x
        monkeypatch.delitem(spec._SPECS, block)
    model = zoo_model("vit")
    with pytest.raises(UnsupportedModelError, match=r"layers are ViTLayer, .*register_architecture\(FeedForwardSpec"):
        prune(model, KeptSet(neurons={0: (0,)}), "vit")
    assert {layer.kind for layer in prunable_layers(prune(model, {0: (1, 2)}, "vit"))} == {"attention"}


def test_a_mixture_of_experts_keeps_its_neurons():
    register_architecture(
        AttentionSpec(
            name="mixtral", block=("MixtralAttention",), query="q_proj", key="k_proj", value="v_proj",
            output="o_proj", group="num_key_value_groups", causal=True, residual="input_layernorm",
            output_in_core=True,
        )
    )  # fmt: skip
    config = transformers.MixtralConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, num_local_experts=2, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.MixtralForCausalLM(config).eval()
    with pytest.raises(UnsupportedModelError, match=r"mixture of experts \(.*\).*heads can"):
        prune(model, KeptSet(heads={0: (0, 1)}, neurons={0: (0,)}), "llama")
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        feed_forward_layers(model)


def test_rows_that_do_not_fit_or_are_taken():
    with pytest.raises(ConfigError, match=r"BertLayer is registered already, by 'bert'"):
        register_architecture(FeedForwardSpec("other", ("BertLayer",), ("intermediate.dense",), "output.dense"))
    for wrong in ({"block": "OddMLP"}, {"inputs": "up"}, {"inputs": ()}, {"parts": 0}, {"inputs": ("down",)}):
        with pytest.raises(ConfigError, match="FeedForwardSpec 'odd'"):
            FeedForwardSpec(**{"name": "odd", "block": ("OddMLP",), "inputs": ("up",), "output": "down"} | wrong)
    with pytest.raises(ConfigError, match="Expected an AttentionSpec"):
        register_architecture("mine")
    model = zoo_model("bert")
    torch.nn.utils.parametrizations.weight_norm(model.bert.encoder.layer[2].intermediate.dense)
    with pytest.raises(UnsupportedModelError, match="reparametrized"):
        prune(model, KeptSet(neurons={0: (0,)}))
    model = zoo_model("bert")
    model.bert.encoder.layer[1].output.dense = nn.Sequential(nn.Linear(48, 8), nn.Linear(8, 32))
    with pytest.raises(UnsupportedModelError, match=r"layer\.1\.output\.dense is a Sequential"):
        prune(model, KeptSet(neurons={0: (0,)}))
    model = zoo_model("bert")
    model.bert.encoder.layer[1].intermediate.dense = nn.Linear(32, 47)
    with pytest.raises(UnsupportedModelError, match=r"layer\.1\.intermediate\.dense is 47 channels wide"):
        prune(model, KeptSet(neurons={0: (0,)}))
