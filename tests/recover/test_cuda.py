"""The repair on a GPU is the repair on the CPU."""

import copy

import pytest
import torch
from zoo import outputs, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet, recover_least_squares
from cahp_plugin.units import prunable_layers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "llama", "gpt-neox", "vit", "t5", "whisper", "clip"])
@torch.no_grad()
def test_cuda_and_cpu_agree(name):
    dense = zoo_model(name)
    kept = {"heads": {}, "neurons": {}}
    for layer in prunable_layers(dense):
        kept[layer.noun][layer.index] = sum(layer.units[: len(layer.units) // 2], ()) if layer.index != 1 else ()
    model = copy.deepcopy(dense)  # halves, and nothing in second layers
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(KeptSet(**kept))).step()
    data = [zoo_inputs(name, batch=16, seed=seed) for seed in range(10)]
    on_gpu, dense_on_gpu = copy.deepcopy(model).cuda(), copy.deepcopy(dense).cuda()
    report = recover_least_squares(model, dense, data, num_examples=160)
    other = recover_least_squares(on_gpu, dense_on_gpu, data, num_examples=160)
    assert report.accepted and other.accepted
    assert other.divergence == pytest.approx(report.divergence, rel=1e-3)
    inputs = zoo_inputs(name)
    found = outputs(on_gpu, {key: value.cuda() for key, value in inputs.items()}).cpu()
    wanted = outputs(model, inputs)
    assert float((found - wanted).abs().max()) <= 1e-3 * max(1.0, float(wanted.abs().max()))
