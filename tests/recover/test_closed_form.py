import copy
import logging

import pytest
import torch
from tiny import ARCHITECTURES, model_inputs, tiny_batches, tiny_model
from zoo import zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, recover_least_squares
from cahp_plugin.errors import ConfigError, DataError, PruningError
from cahp_plugin.observe.normal_equations import NormalEquations
from cahp_plugin.recover import recover_bias
from cahp_plugin.units import attention_layers

KEPT = {0: (1, 3), 1: (0, 1, 2, 3), 2: (2,)}
EMPTY_LAYER = {0: (), 1: (1, 2), 2: (0, 1, 2, 3)}


def batches(count=160, **settings):
    return tiny_batches(count, 16, lengths=(6, 14), **settings)


def pair(name="bert", kept=KEPT, **changes):
    dense = tiny_model(name, **changes)
    model = copy.deepcopy(dense)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(kept)).step()
    return model, dense


def stream(model, index, batch):
    """Residual stream in front of and behind an attention layer, and its context, at the real tokens."""
    layer = attention_layers(model)[index]
    seen = {}
    first = layer.block.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(
            front=args[0] if args else kwargs.get("query", kwargs.get("hidden_states"))
        ),
        with_kwargs=True,
    )
    second = layer.output.register_forward_hook(lambda m, args, out: seen.update(context=args[0], out=out))
    with torch.no_grad():
        model(**{name: value for name, value in batch.items() if name != "labels"})
    first.remove()
    second.remove()
    mask = batch["attention_mask"].bool()
    return seen["front"][mask].double(), seen["context"][mask].double(), (seen["front"] + seen["out"])[mask].double()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kept", [KEPT, EMPTY_LAYER], ids=["uneven", "empty-layer"])
def test_each_layer_is_the_ridge_regression_onto_the_dense_stream(name, kept):
    """The first changed layer against an explicit regression over all rows at once."""
    model, dense = pair(name, kept)
    data = batches()
    fitted = [batch for position, batch in enumerate(data) if position % 5 != 4]
    before = copy.deepcopy(model)
    report = recover_least_squares(model, dense, data, num_examples=160, ridge=0.1)
    assert report.accepted and report.num_examples == 128
    assert report.num_tokens == sum(int(batch["attention_mask"].sum()) for batch in fitted)
    rows = [(*stream(before, 0, batch)[:2], stream(dense, 0, batch)[2]) for batch in fitted]
    front, context, target = (torch.cat(part) for part in zip(*rows, strict=True))
    output = attention_layers(before)[0].output
    present = output.weight.double() if len(kept[0]) else torch.zeros(32, 0, dtype=torch.float64)
    # Augmented least squares: rows of data, and rows that pull the change of the weights towards 0.
    centred = context - context.mean(0)
    pull = (0.1 * centred.square().sum(0).mean()).sqrt() * torch.eye(context.shape[1]) if len(kept[0]) else None
    x = torch.cat([context, torch.ones(len(context), 1)], dim=1)
    y = target - front - context @ present.T - output.bias.double()
    if pull is not None:
        x = torch.cat([x, torch.cat([pull, torch.zeros(len(pull), 1)], dim=1)])
        y = torch.cat([y, torch.zeros(len(pull), y.shape[1], dtype=y.dtype)])
    solution = torch.linalg.lstsq(x, y).solution
    found = attention_layers(model)[0].output
    assert torch.allclose(found.bias.double(), output.bias.double() + solution[-1], atol=1e-5)
    if pull is not None:
        assert torch.allclose(found.weight.double(), present + solution[:-1].T, atol=1e-5)
    residual = (front + context @ present.T + output.bias - target).square().sum()
    variance = (target - target.mean(0)).square().sum()
    paths = [layer.output_path for layer in attention_layers(model)]
    assert report.errors[paths[0]][0] == pytest.approx(float(residual / variance), rel=1e-4)
    assert set(report.errors) == {paths[layer] for layer, heads in kept.items() if len(heads) < 4}
    assert all(after <= before for before, after in report.errors.values())


def test_a_copy_of_a_head_is_recovered_exactly():
    """A removed head whose twin stays is a linear function of what is left: the repair is exact."""
    dense = tiny_model()
    layer = attention_layers(dense)[1]
    with torch.no_grad():
        for role in ("query", "key", "value"):
            module = layer.block.get_submodule(getattr(layer.spec, role))
            module.weight[8:16] = module.weight[0:8]
            module.bias[8:16] = module.bias[0:8]
    model = copy.deepcopy(dense)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({1: (0, 2, 3)})).step()
    report = recover_least_squares(model, dense, batches(), num_examples=160, ridge=0)
    assert report.divergence[0] > 1e-3 and report.divergence[1] < 1e-8
    inputs = model_inputs(seed=5)
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, dense(**inputs).logits, atol=1e-4)


def test_outputs_come_closer_on_new_examples():
    model, dense = pair()
    inputs = model_inputs(seed=9)
    with torch.no_grad():
        target, before = dense(**inputs).logits, model(**inputs).logits
        recover_least_squares(model, dense, batches(), num_examples=160)
        after = model(**inputs).logits
    assert (after - target).square().mean() < 0.7 * (before - target).square().mean()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bias_takes_the_mean_output_of_the_removed_heads(name):
    model, dense = pair(name)
    data = batches()
    before = {layer.index: layer.output.bias.clone() for layer in attention_layers(model)}
    report = recover_bias(model, dense, data, num_examples=160)
    fitted = [batch for position, batch in enumerate(data) if position % 5 != 4]
    for layer in attention_layers(dense):
        context = torch.cat([stream(dense, layer.index, batch)[1] for batch in fitted])
        gone = [head for head in range(4) if head not in KEPT[layer.index]]
        weight = layer.output.weight.double()
        mean = sum((weight[:, 8 * head : 8 * head + 8] @ context[:, 8 * head : 8 * head + 8].mean(0) for head in gone),
                   start=torch.zeros(32, dtype=torch.float64))  # fmt: skip
        expected = before[layer.index].double() + (mean if report.accepted else 0)
        assert torch.allclose(attention_layers(model)[layer.index].output.bias.double(), expected, atol=1e-5)


def test_worse_weights_are_not_kept(caplog):
    """A head that does next to nothing is gone; two sentences are too few to fit: the fit does more harm than good."""
    logging.getLogger("cahp_plugin").propagate = True
    dense = tiny_model()
    with torch.no_grad():
        attention_layers(dense)[0].output.weight[:, :8].mul_(1e-3)
    model = copy.deepcopy(dense)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance({0: (1, 2, 3)})).step()
    one = tiny_batches(2, 2, lengths=(6, 7), seed=1)[0]
    other = tiny_batches(64, 64, lengths=(8, 14), seed=2)[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = recover_least_squares(model, dense, [one, other], num_examples=66, ridge=0)
    assert not report.accepted and report.divergence[1] > report.divergence[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "It grew, so the weights stay" in str(report) and "would grow" in caplog.text
    assert "too few to fit them well" in caplog.text


def test_the_models_stay_otherwise_as_they_were():
    model, dense = pair()
    model.train()
    frozen = next(iter(model.parameters())).requires_grad_(False)
    outputs = {layer.output_path for layer in attention_layers(model)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dense_before = {name: value.clone() for name, value in dense.state_dict().items()}
    recover_least_squares(model, dense, batches(), num_examples=80)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and {name.rpartition(".")[0] for name in changed} <= outputs - {
        attention_layers(model)[1].output_path
    }
    assert all(torch.equal(value, dense_before[name]) for name, value in dense.state_dict().items())
    assert model.training and not dense.training and not frozen.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), *dense.modules())
    )


def test_the_same_examples_give_the_same_weights():
    results = []
    for _ in range(2):
        model, dense = pair()
        recover_least_squares(model, dense, batches(80), num_examples=80)
        results.append(model)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in results), strict=True))


def test_unlabelled_batches_will_do():
    model, dense = pair()
    other = copy.deepcopy(model)
    recover_least_squares(model, dense, batches(80))
    plain = [{name: value for name, value in batch.items() if name != "labels"} for batch in batches(80)]
    recover_least_squares(other, dense, plain)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_bad_input():
    model, dense = pair()
    with pytest.raises(PruningError, match="not the model that `model` was pruned from"):
        recover_least_squares(dense, model, batches())
    with pytest.raises(PruningError, match="not the model"):
        recover_bias(model, model, batches())
    with pytest.raises(ConfigError, match="`ridge` must be at least 0"):
        recover_least_squares(model, dense, batches(), ridge=-1)
    with pytest.raises(ConfigError, match="`num_examples` must be at least 2"):
        recover_least_squares(model, dense, batches(), num_examples=1)
    with pytest.raises(DataError, match="gave no batch"):
        recover_least_squares(model, dense, [])
    with pytest.raises(DataError, match="at least two batches"):
        recover_least_squares(model, dense, batches()[:1])


def test_activations_that_are_not_finite_name_the_layer_and_change_nothing():
    model, dense = pair()
    with torch.no_grad():
        dense.bert.encoder.layer[0].attention.self.value.weight.fill_(float("nan"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PruningError, match=r"Attention layer 0 .* has activations that are not finite"):
        recover_least_squares(model, dense, batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_normal_equations_are_least_squares(ridge):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64) + 3
    y = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    equations = NormalEquations()
    for start in range(0, 200, 37):
        equations.add(x[start : start + 37], y[start : start + 37])
    weight, bias = equations.solve(ridge)
    centred = x - x.mean(0)
    strength = ridge * centred.square().sum(0).mean()
    expected = torch.linalg.solve(centred.T @ centred + strength * torch.eye(6), centred.T @ (y - y.mean(0))).T
    assert torch.allclose(weight, expected, atol=1e-10)
    assert torch.allclose(bias, y.mean(0) - expected @ x.mean(0), atol=1e-10)
    assert equations.error(weight, bias) == pytest.approx(float((y - x @ weight.T - bias).square().sum()))
    assert equations.error() == pytest.approx(float(y.square().sum()))


def test_a_singular_system_has_the_solution_of_least_norm():
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    x = torch.cat([base, base[:, :1], torch.zeros(50, 1, dtype=torch.float64)], dim=1)
    y = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    equations = NormalEquations()
    equations.add(x, y)
    weight, bias = equations.solve(0.0)
    centred = x - x.mean(0)
    assert torch.allclose(weight, (torch.linalg.pinv(centred) @ (y - y.mean(0))).T, atol=1e-8)
    assert torch.isfinite(bias).all()


@pytest.mark.parametrize("recover", [recover_least_squares, recover_bias])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_fitted_in_fp32_and_cast_back(recover, dtype):
    dense = tiny_model().to(dtype)
    model = copy.deepcopy(dense)
    CAHPPruner(model, model_inputs(), importance=CAHPImportance(KEPT)).step()
    original = copy.deepcopy(dense)
    expected, expected_dense = copy.deepcopy(model).float(), copy.deepcopy(dense).float()
    report = recover(model, dense, batches(), num_examples=160)
    assert recover(expected, expected_dense, batches(), num_examples=160).divergence == report.divergence
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(dtype))
    for name, tensor in original.state_dict().items():
        assert dense.state_dict()[name].dtype == dtype and torch.equal(dense.state_dict()[name], tensor)


def test_images_in_half_precision():
    dense = zoo_model("vit").to(torch.bfloat16)
    model = copy.deepcopy(dense)
    pixels = [{"pixel_values": zoo_inputs("vit", batch=8, seed=seed)["pixel_values"].bfloat16()} for seed in range(5)]
    CAHPPruner(model, pixels[0], importance=CAHPImportance({0: (1,)})).step()
    report = recover_least_squares(model, dense, pixels, num_examples=40)
    assert report.divergence[1] <= report.divergence[0]
    assert model(**pixels[0]).logits.dtype == torch.bfloat16
