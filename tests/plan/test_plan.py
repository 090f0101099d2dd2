"""A plan: what it measures against whole forward passes, the budgets it meets, what it is bound to."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from plans import even_plan
from zoo import FAMILIES, zoo_inputs, zoo_model

from cahp_plugin import Budget, CAHPConfig, CAHPImportance, CAHPPruner, plan_pruning, recover_least_squares
from cahp_plugin.errors import CheckpointError, ConfigError, DataError, PruningError
from cahp_plugin.observe.streams import apart, calibration_batches
from cahp_plugin.plan.compared import compared_of
from cahp_plugin.plan.making import EVERY
from cahp_plugin.plan.plan import CURVE, PLAN_NAME, Plan
from cahp_plugin.plan.progress import Progress
from cahp_plugin.plan.trials import Reference, Trials
from cahp_plugin.units import prunable_layers
from cahp_plugin.units.linear import weight_of
from cahp_plugin.units.state import call_options

LENGTH = 16


def data(name, count=8):
    return [zoo_inputs(name, batch=8, seed=seed) for seed in range(count)]


def budget(**values):
    return Budget(sequence_length=LENGTH, multiple_of=1, **values)


@pytest.fixture(scope="module")
def bert():
    model = zoo_model("bert")
    return model, plan_pruning(model, data("bert"), multiple_of=1)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_planned_pruned_and_repaired(name):
    model = zoo_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plan = plan_pruning(model, data(name), multiple_of=1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    chosen = budget(macs=0.6)
    sizes = plan.sizes_for(chosen)
    assert plan.share(sizes, "macs", chosen) <= 0.6 and plan.loss(sizes) > 0
    batches = calibration_batches(data(name), model, 64, labels=True)
    fitted, held_out = apart(batches, EVERY)
    trials = Trials(model, plan, fitted, held_out, compared_of(model))
    # A trial is what the pruner and the repair make of the same units.
    pruned = copy.deepcopy(model)
    CAHPPruner(pruned, zoo_inputs(name), importance=CAHPImportance(plan.keep(chosen))).step()
    recover_least_squares(
        pruned,
        model,
        [batch.inputs for batch in fitted],
        num_examples=sum(map(len, fitted)),
        ridge=plan.ridge,
        held_out=[batch.inputs for batch in held_out],
    )
    np.testing.assert_allclose(
        trials.divergences(sizes),
        Reference(model, held_out, compared_of(model)).divergences(pruned),
        rtol=1e-4,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit", "albert", "gpt-neox", "dinov2"])
def test_a_loss_is_that_of_the_whole_model_with_one_layer_cut(name):
    model = zoo_model(name)
    plan = plan_pruning(model, data(name), multiple_of=1, ridge=1e-2)
    batches = calibration_batches(data(name), model, 64, labels=True)
    fitted, held_out = apart(batches, EVERY)
    options = call_options(type(model))
    for number in (0, len(plan.layers) // 2, len(plan.layers) - 1):
        layer = plan.layers[number]
        size = layer.sizes[len(layer.sizes) // 2]
        own = next(entry for entry in prunable_layers(model) if entry.output_path == layer.path)
        rows = []
        handle = own.output.register_forward_pre_hook(lambda module, args, rows=rows: rows.append(args[0]))
        with torch.no_grad():
            for batch in fitted:
                model(**batch.inputs, **options)
                mask = batch.mask
                if own.spec.reused:
                    continue
                for masks in (batch.decoder_mask, mask):
                    if masks is not None and masks.shape == rows[-1].shape[:2]:
                        mask = masks
                rows[-1] = (
                    rows[-1][mask] if mask.shape[1] and mask.shape == rows[-1].shape[:2] else rows[-1].flatten(0, 1)
                )
        handle.remove()
        if own.spec.reused or "cross" in layer.path or "encoder_attn" in layer.path or "EncDec" in layer.path:
            continue  # their tokens are of several kinds
        x = torch.cat([part.reshape(-1, part.shape[-1]) for part in rows]).double()
        kept = [u for first in layer.order[:size] for u in range(first, first + layer.group_size)]
        units = [place for place, unit in enumerate(own.units) if unit[0] in kept]
        columns = [unit * own.unit_dim + offset for unit in units for offset in range(own.unit_dim)]
        weight = weight_of(own.output).detach().double()
        mean = x.mean(0) if own.output.bias is not None else torch.zeros(x.shape[1]).double()
        centre = x - mean
        gone = [column for column in range(x.shape[1]) if column not in columns]
        gram = centre[:, columns].T @ centre[:, columns]
        ridge = 1e-2 * float(gram.diagonal().mean()) * torch.eye(len(columns)).double()
        change = torch.linalg.solve(gram + ridge, centre[:, columns].T @ (centre[:, gone] @ weight[:, gone].T)).T
        new = torch.zeros_like(weight)
        new[:, columns] = weight[:, columns] + change
        cut = copy.deepcopy(model)
        place = next(entry for entry in prunable_layers(cut) if entry.output_path == layer.path).output
        weight_of(place).data.copy_(new)
        if place.bias is not None:
            place.bias.data += (weight[:, gone] @ mean[gone] - change @ mean[columns]).to(place.bias)
        compared, total = compared_of(model), 0.0
        with torch.no_grad():
            for batch in held_out:
                ours, theirs = cut(**batch.inputs, **options), model(**batch.inputs, **options)
                total += float(compared.of(ours, theirs, batch).double().sum())
        found = total / sum(map(len, held_out))
        before = layer.losses[: layer.sizes.index(size)]  # made monotone
        assert layer.losses[len(before)] == pytest.approx(max(found, *before), rel=1e-3, abs=1e-8)


def test_any_budget_is_met_from_one_plan_and_more_is_never_worse(bert):
    _, plan = bert
    before = None
    for share in CURVE[:-1]:
        for name in ("macs", "parameters"):
            chosen = budget(**{name: share})
            assert plan.share(plan.sizes_for(chosen), name, chosen) <= share + 1e-9
        loss = plan.loss(plan.sizes_for(budget(macs=share)))
        assert before is None or loss >= before - 1e-12
        before = loss
    assert plan.sizes_for(budget(macs=1.0)) == tuple(layer.sizes[0] for layer in plan.layers)
    assert "MACs of the layers" in str(plan)


def test_what_may_go_is_what_the_budget_says(bert):
    _, plan = bert
    full = [layer.sizes[0] for layer in plan.layers]
    for kind, other in (("heads", "neurons"), ("neurons", "heads")):
        sizes = plan.sizes_for(budget(macs=0.85, units=kind))
        assert all(
            size == whole for layer, size, whole in zip(plan.layers, sizes, full, strict=True) if layer.kind == other
        )
        assert list(sizes) != full
    for pattern in ("encoder.layer.1.*", "bert.encoder.layer.1.*", "encoder.layer.1"):
        sizes = plan.sizes_for(budget(macs=0.6, keep=[pattern]))
        kept = [layer for layer, size in zip(plan.layers, sizes, strict=True) if size == layer.sizes[0]]
        assert {"bert.encoder.layer.1.attention", "bert.encoder.layer.1"} & {layer.name for layer in kept}
    with pytest.raises(ConfigError, match=r"names no layer by 'nothing\.\*'"):
        plan.keep(budget(macs=0.6, keep=["nothing.*"]))
    sizes = plan.sizes_for(Budget(macs=0.6, sequence_length=LENGTH, multiple_of=16))
    assert all(size % 16 == 0 for layer, size in zip(plan.layers, sizes, strict=True) if layer.kind == "neurons")


def test_what_can_not_be_had_is_told(bert):
    model, plan = bert
    with pytest.raises(ConfigError, match=r"\(20 % of .*\) is below the smallest model, which keeps 37\.50 %"):
        plan.keep(budget(macs=0.2, units="heads"))
    with pytest.raises(ConfigError, match="`speedup` is measured on the pruned model"):
        plan.keep(budget(speedup=2.0))
    with pytest.raises(DataError, match="at least two batches"):
        plan_pruning(model, data("bert", 1))
    with pytest.raises(ConfigError, match="no selector 'best'"):
        plan_pruning(model, data("bert"), order="best")
    broken = copy.deepcopy(model)
    broken.classifier.weight.data[:] = float("nan")
    with pytest.raises(PruningError, match="not finite"):
        plan_pruning(broken, data("bert"))
    aside = copy.deepcopy(model)
    aside.spare = torch.nn.ModuleList([copy.deepcopy(model.bert.encoder.layer[0])])  # no example runs through it
    with pytest.raises(PruningError, match=r"examples do not run through Attention layer 3 \(spare\.0\.attention\)"):
        plan_pruning(aside, data("bert"))
    bare = zoo_model("bert").bert
    with pytest.raises(ConfigError, match=r'Name the one that is to stay as it is: `output="\.\.\."`'):
        plan_pruning(bare, data("bert"), output="nothing")


def test_the_same_call_gives_the_same_plan_to_the_bit_and_the_order_of_heads_can_be_cahps():
    model = zoo_model("bert")
    first, second = (plan_pruning(model, data("bert"), multiple_of=1) for _ in range(2))
    assert dataclasses.replace(first, seconds={}) == dataclasses.replace(second, seconds={})
    labelled = [batch | {"labels": torch.arange(8) % 3} for batch in data("bert")]
    other = plan_pruning(model, labelled, order="cahp", multiple_of=1, config=CAHPConfig(signature_size=4))
    assert other.settings["order"] == "cahp"
    heads = [(a.order, b.order) for a, b in zip(first.layers, other.layers, strict=True) if a.kind == "heads"]
    assert any(one != cahp for one, cahp in heads) and all(sorted(one) == sorted(cahp) for one, cahp in heads)


def test_a_stopped_plan_goes_on_where_it_was(tmp_path, monkeypatch):
    model, file = zoo_model("bert"), tmp_path / "progress.jsonl"
    whole = plan_pruning(model, data("bert"), multiple_of=1)
    import cahp_plugin.plan.making as making

    measured, real = [], making.sensitivity

    def stops(suffix, layer, *args):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(layer.name)
        return real(suffix, layer, *args)

    monkeypatch.setattr(making, "sensitivity", stops)
    with pytest.raises(KeyboardInterrupt):
        plan_pruning(model, data("bert"), multiple_of=1, progress=file)
    file.write_text(file.read_text() + '{"path": "cut o')

    def goes_on(suffix, layer, *args):
        measured.append(layer.name)
        return real(suffix, layer, *args)

    monkeypatch.setattr(making, "sensitivity", goes_on)
    again = plan_pruning(model, data("bert"), multiple_of=1, progress=file)
    assert dataclasses.replace(again, seconds={}) == dataclasses.replace(whole, seconds={})
    assert len(measured) == len(set(measured)) == len(whole.layers)
    # What was measured on other examples is not taken.
    measured.clear()
    plan_pruning(model, data("bert", 7), multiple_of=1, progress=file)
    assert len(measured) == len(whole.layers)


@pytest.mark.parametrize("line", ['{"path": "cut o', '{"path": "a"}', "[]"])
def test_damaged_progress_is_named(tmp_path, line):
    file, bound = tmp_path / "progress.jsonl", {"model": "m"}
    Progress(file, bound).add(even_plan().layers[0])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(CheckpointError, match=r"progress\.jsonl is damaged"):
        Progress(file, bound)
    assert Progress(file, {"model": "another"}).layers == {}


def test_recorded_outputs_may_lie_in_files(monkeypatch):
    from cahp_plugin.observe import walk

    model = zoo_model("llama")
    whole = plan_pruning(model, data("llama"), multiple_of=1)
    monkeypatch.setattr(walk, "MEMORY", 0)
    found = plan_pruning(model, data("llama"), multiple_of=1)
    assert [layer.losses for layer in found.layers] == [layer.losses for layer in whole.layers]


def test_a_plan_is_written_and_read_and_a_damaged_one_is_told(bert, tmp_path):
    _, plan = bert
    plan.save(tmp_path)
    assert Plan.load(tmp_path) == plan
    assert (tmp_path / PLAN_NAME).stat().st_size < 50e6
    values = json.loads((tmp_path / PLAN_NAME).read_text())
    first, count = values["layers"][0], len(values["layers"][0]["losses"])
    bad_layers = ({"sizes": [1]}, {"losses": [float("nan")] * count}, {"order": "abc"})
    for change in ({"format": 99}, {"layers": None}, *({"layers": [first | bad]} for bad in bad_layers)):
        (tmp_path / PLAN_NAME).write_text(json.dumps(values | change))
        with pytest.raises(CheckpointError, match="damaged or of another version"):
            Plan.load(tmp_path)
    with pytest.raises(CheckpointError, match="`cahp plan` writes one"):
        Plan.load(tmp_path / "missing")


def test_outputs_of_models_without_a_task_are_compared_by_name():
    bare = zoo_model("bert").bert
    features = plan_pruning(bare, data("bert"), output="last_hidden_state", multiple_of=1)
    assert features.compared == "its output `last_hidden_state`" and features.layers[0].losses[-1] > 0
    pooled = plan_pruning(bare, data("bert"), output="pooler_output", multiple_of=1)
    assert pooled.layers[0].losses != features.layers[0].losses


def test_half_precision_is_planned_in_fp32():
    model = zoo_model("bert")
    whole = plan_pruning(model.bfloat16().float(), data("bert"), multiple_of=1)
    half = model.bfloat16()
    found = plan_pruning(half, data("bert"), multiple_of=1)
    assert next(half.parameters()).dtype == torch.bfloat16
    np.testing.assert_allclose(found.layers[0].losses, whole.layers[0].losses, rtol=1e-5)
