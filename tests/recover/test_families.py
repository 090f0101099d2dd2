"""The closed-form repair on every family of the table."""

import copy

import pytest
import torch
from zoo import FAMILIES, outputs, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, recover_least_squares
from cahp_plugin.errors import PruningError
from cahp_plugin.recover import recover_bias
from cahp_plugin.units import attention_layers

WITHOUT_BIAS = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "t5", "modernbert")


def batches(name, count=10):
    return [zoo_inputs(name, batch=16, seed=seed) for seed in range(count)]


def pair(name):
    """A dense model and a copy without the last unit of every layer, and without any of the second."""
    dense = zoo_model(name)
    model = copy.deepcopy(dense)
    kept = {layer.index: sum(layer.units[:-1], ()) for layer in attention_layers(dense)} | {1: ()}
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(kept)).step()
    return model, dense


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_come_closer_on_new_examples(name):
    model, dense = pair(name)
    inputs = zoo_inputs(name, batch=16, seed=99)
    target, before = outputs(dense, inputs), outputs(model, inputs)
    report = recover_least_squares(model, dense, batches(name), num_examples=160, ridge=0.01)
    assert report.accepted and report.divergence[1] < report.divergence[0]
    assert all(after <= first * (1 + 1e-9) for first, after in report.errors.values())
    assert (outputs(model, inputs) - target).square().mean() < (before - target).square().mean()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_that_has_a_copy_is_made_up_for(name):
    """The last unit of the first layer is made a copy of the first: what it adds is linear in what is left."""
    dense = zoo_model(name)
    layer = attention_layers(dense)[0]
    if layer.spec.shared_bias or layer.spec.reused or name in ("bloom", "falcon-alibi"):
        pytest.skip("heads with a position bias each have no copies; a reused block has no first layer")
    with torch.no_grad():
        for path, module in layer.projections().items():
            transposed = type(module).__name__ == "Conv1D"
            for source, place in zip(
                layer.outputs(path, layer.units[0]), layer.outputs(path, layer.units[-1]), strict=True
            ):
                if transposed:
                    module.weight[:, place] = module.weight[:, source]
                else:
                    module.weight[place] = module.weight[source]
                if module.bias is not None:
                    module.bias[place] = module.bias[source]
    model = copy.deepcopy(dense)
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance({0: sum(layer.units[:-1], ())})).step()
    report = recover_least_squares(model, dense, batches(name), num_examples=160, ridge=0.0)
    assert report.divergence[0] > 1e-6 and report.divergence[1] < 1e-3 * report.divergence[0]


@pytest.mark.parametrize("name", WITHOUT_BIAS)
def test_bias_needs_a_bias(name):
    model, dense = pair(name)
    with pytest.raises(PruningError, match="has no bias to put"):
        recover_bias(model, dense, batches(name), num_examples=40)
