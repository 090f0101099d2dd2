"""Every family of the table: exact with any heads removed, trainable, and the same in another process."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_pruning as tp
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import FAMILIES, GENERATORS, outputs, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, load_pruned, save_pruned
from cahp_plugin.check import check_architecture
from cahp_plugin.errors import PruningError, SelectionError, UnsupportedModelError
from cahp_plugin.observe import only_kept
from cahp_plugin.prune import duplicate_kv_heads
from cahp_plugin.prune.surgery import record_units
from cahp_plugin.units import KeptSet, attention_layers, kept_set, prunable_layers, resolve

GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")


def implementations(name):
    for implementation in ("eager", "sdpa"):
        try:
            zoo_model(name, attn_implementation=implementation)
        except ValueError:  # transformers has no fused attention for it
            continue
        yield implementation


CASES = [(name, implementation) for name in FAMILIES for implementation in implementations(name)]


def prune(model, kept, inputs):
    CAHPPruner(model, inputs, importance=CAHPImportance(kept)).step()
    return model


def some_units(model):
    """The first head of even layers, all but the first of odd ones; every other neuron; no units in second layers."""
    layers = prunable_layers(model)
    chosen = {layer: layer.units[1:] if layer.index % 2 else layer.units[:1] for layer in layers}
    chosen |= {layer: layer.units[::2] for layer in layers if layer.noun == "neurons"}
    kept = {
        noun: {layer.index: sum(units, ()) for layer, units in chosen.items() if layer.noun == noun} | {1: ()}
        for noun in ("heads", "neurons")
    }
    return KeptSet(**kept)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_the_shipped_check_passes(name, implementation):
    found = check_architecture(zoo_model(name, attn_implementation=implementation), zoo_inputs(name), num_sets=2)
    assert found.passed, str(found)
    assert ("exact, " in str(found)) and len(found.cases) >= 8
    assert any("cache" in case.name for case in found.cases) == (name in GENERATORS)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_any_units_can_go(name, data):
    model, inputs = zoo_model(name), zoo_inputs(name)
    drawn = {"heads": {}, "neurons": {}}
    for layer in prunable_layers(model):
        flags = data.draw(st.integers(0, 2 ** len(layer.units) - 2), label=layer.name)
        units = [unit for place, unit in enumerate(layer.units) if flags >> place & 1]
        drawn[layer.noun][layer.index] = sum(units, ())
    kept = KeptSet(**drawn)
    with only_kept(model, kept):
        expected = outputs(model, inputs)
    assert (outputs(prune(model, kept, inputs), inputs) - expected).abs().max() <= 1e-5
    assert kept_set(model.config) == resolve(KeptSet(), prunable_layers(model)) == kept


def test_the_check_sees_what_is_wrong(monkeypatch):
    def wrong(model, layer, kept):
        record_units(model, layer, kept)
        layer.output.bias.data[0] += 0.1

    monkeypatch.setattr("cahp_plugin.prune.pruner.record_units", wrong)
    found = check_architecture(zoo_model("bert"))
    assert not found.passed and found.difference > 1e-4


def test_a_tolerance_that_nothing_meets_fails():
    found = check_architecture(zoo_model("bert"), tolerance=0.0)
    assert not found.passed and "NOT exact" in str(found) and found.to_dict()["passed"] is False


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_is_exact_up_to_its_rounding(name):
    model = zoo_model(name).to(torch.bfloat16)
    found = check_architecture(model, num_sets=1)
    assert found.passed, str(found)


def test_saved_copies_are_the_same_in_a_fresh_process(tmp_path):
    for name in FAMILIES:
        model, inputs = zoo_model(name), zoo_inputs(name)
        prune(model, some_units(model), inputs)
        save_pruned(model, tmp_path / name)
        torch.save({"inputs": inputs, "outputs": outputs(model, inputs)}, tmp_path / f"{name}.pt")
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import torch
from pathlib import Path
from zoo import FAMILIES, outputs
from cahp_plugin import load_pruned
for name in FAMILIES:
    saved = torch.load(Path({str(tmp_path)!r}) / f"{{name}}.pt")
    model = load_pruned(Path({str(tmp_path)!r}) / name, attn_implementation="eager")
    print(name, float((outputs(model, saved["inputs"]) - saved["outputs"]).abs().max()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found = {name: float(value) for name, value in (line.split() for line in run.stdout.splitlines() if line.strip())}
    assert set(found) == set(FAMILIES) and max(found.values()) <= 1e-6, found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_of_training_changes_what_it_should(name):
    model, inputs = zoo_model(name), zoo_inputs(name)
    prune(model, some_units(model), inputs)
    model.train()
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layers = attention_layers(model)
    frozen = layers[0].output_path
    layers[0].output.requires_grad_(False)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    result = model(**inputs, use_cache=False) if name in GENERATORS else model(**inputs)
    value = next(v for v in result.to_tuple() if isinstance(v, torch.Tensor) and v.is_floating_point())
    value.float().square().sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith(f"{frozen}."))
    moved = {key for key in before if not torch.equal(after[key], before[key])}
    assert any(key.startswith(f"{layers[0].name}.") for key in moved)
    assert set(after) == set(before) and all(after[key].shape == before[key].shape for key in before)


@pytest.mark.parametrize("name", GENERATORS)
def test_generation_is_that_of_the_masked_model(name):
    model, inputs = zoo_model(name), zoo_inputs(name)
    layers = attention_layers(model)
    kept = some_units(model)
    kept = KeptSet({**kept.heads, layers[0].index: (), layers[1].index: layers[1].units[0]}, kept.neurons)
    prompt = {key: value for key, value in inputs.items() if key != "decoder_input_ids"}
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with only_kept(model, kept):
        expected = model.generate(**prompt, **options)
    prune(model, kept, inputs)
    assert torch.equal(model.generate(**prompt, **options), expected)
    assert torch.equal(model.generate(**prompt, **options, use_cache=False), expected)


@pytest.mark.parametrize("name", GROUPED)
def test_query_heads_that_share_keys_stay_together(name):
    model, inputs = zoo_model(name), zoo_inputs(name)
    assert [layer.units for layer in attention_layers(model)] == [((0, 1), (2, 3))] * 3
    with pytest.raises(SelectionError, match=r"Layer 1 keeps \[2\] of the heads \[2, 3\], which share.*duplicate_kv"):
        CAHPPruner(model, inputs, importance=CAHPImportance({1: (0, 1, 2)}))
    with pytest.raises(SelectionError, match="share a key"), only_kept(model, {1: (0,)}):
        pass


@pytest.mark.parametrize("name", GROUPED)
def test_with_their_own_keys_query_heads_go_one_by_one(name, tmp_path):
    model, inputs = zoo_model(name), zoo_inputs(name)
    before = outputs(model, inputs)
    duplicate_kv_heads(model)
    assert (outputs(model, inputs) - before).abs().max() <= 1e-5
    assert [layer.group_size for layer in attention_layers(model)] == [1, 1, 1]
    kept = {0: (0, 3), 1: (2,), 2: ()}
    with only_kept(model, kept):
        expected = outputs(model, inputs)
    prune(model, kept, inputs)
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-5
    save_pruned(model, tmp_path / "pruned")
    loaded = load_pruned(tmp_path / "pruned", attn_implementation="eager")
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))
    assert {layer.index: layer.heads for layer in attention_layers(loaded)} == kept


def test_duplicating_leaves_other_models_alone():
    model = zoo_model("bert")
    duplicate_kv_heads(model)
    assert not hasattr(model.config, "cahp_config")


def test_kinds_of_attention():
    kinds = {name: [layer.pattern for layer in attention_layers(zoo_model(name))] for name in ("bert", "gpt2", "clip")}
    assert kinds == {"bert": ["self"] * 3, "gpt2": ["causal"] * 3, "clip": ["causal"] * 2 + ["self"] * 2}
    for name in ("t5", "bart", "marian", "whisper"):
        layers = attention_layers(zoo_model(name))
        assert [layer.pattern for layer in layers] == ["self", "self", "causal", "cross", "causal", "cross"], name
    assert [len(layer.heads) for layer in attention_layers(zoo_model("bart"))] == [4, 4, 2, 2, 2, 2]


def test_flash_attention_is_refused():
    model = zoo_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match=r"flash_attention_2.*eager"):
        CAHPPruner(model, zoo_inputs("llama"), importance=CAHPImportance({0: (0, 1)}))


def test_an_unknown_attention_is_named():
    class OtherAttention(torch.nn.Module):
        pass

    model = copy.deepcopy(zoo_model("bert"))
    model.bert.encoder = OtherAttention()
    with pytest.raises(UnsupportedModelError, match=r"It has OtherAttention.*register_architecture"):
        attention_layers(model)


@pytest.mark.parametrize("name", ["gpt2", "modernbert", "llama", "t5", "mpnet"])
def test_the_stock_pruner_is_refused_where_it_would_fail(name):
    importance = CAHPImportance({0: (0, 1)})
    with pytest.raises(PruningError, match="own pruner can't remove heads"):
        importance.stock_num_heads(zoo_model(name))


#: Conv1D; a gate and its partner in one projection, whose channels it takes for neighbours.
UNKNOWN_TO_TORCH_PRUNING = ("gpt2", "dinov2-gated")


def stock_widths(model, inputs):
    """Torch-Pruning's magnitude pruner takes a third of the neurons of every layer that has some."""
    layers = [layer for layer in prunable_layers(model) if layer.noun == "neurons" and layer.present]
    roots = {module for layer in layers for module in layer.projections().values()}
    others = [module for module in model.modules() if next(module.children(), None) is None and module not in roots]
    pruner = tp.pruner.MagnitudePruner(
        model,
        dict(inputs),
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=1 / 3,
        ignored_layers=others,
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )
    pruner.step()
    return [len(layer.present) for layer in prunable_layers(model) if layer.noun == "neurons"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in UNKNOWN_TO_TORCH_PRUNING])
def test_stock_pruners_work_before_and_after(name, tmp_path):
    model, inputs = zoo_model(name), zoo_inputs(name)
    for module in model.modules():  # a cache in the outputs can't be traced
        if hasattr(module, "config"):
            module.config.use_cache = False
    stock_widths(model, inputs)
    prune(model, {0: attention_layers(model)[0].units[0]}, inputs)
    layers = [layer for layer in prunable_layers(model) if layer.noun == "neurons"]
    kept = KeptSet(neurons={layer.index: layer.present[1::2] for layer in layers} | {1: ()})
    with only_kept(model, kept):
        expected = outputs(model, inputs)
    prune(model, kept, inputs)
    assert (outputs(model, inputs) - expected).abs().max() <= 1e-5
    before = [len(layer.present) for layer in prunable_layers(model) if layer.noun == "neurons"]
    after = stock_widths(model, inputs)
    assert after[1] == 0 and all(new < old for new, old in zip(after, before, strict=True) if old)
    save_pruned(model, tmp_path / "pruned")
    loaded = load_pruned(tmp_path / "pruned", attn_implementation="eager")
    assert torch.equal(outputs(loaded, inputs), outputs(model, inputs))
