"""The repair of heads and neurons in one pass over the depth, against one that starts over at every layer."""

import contextvars
import copy

import pytest
import torch
import transformers
from torch import nn
from zoo import FAMILIES, outputs, zoo_inputs, zoo_model

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet, recover_least_squares
from cahp_plugin.observe import walk
from cahp_plugin.observe.batches import read_inputs
from cahp_plugin.observe.tokens import query_side
from cahp_plugin.observe.walk import steps_of
from cahp_plugin.recover import recover_bias
from cahp_plugin.units import AttentionSpec, FeedForwardSpec, prunable_layers, register_architecture, spec

RIDGE = 0.1


def batches(name, count=10):
    return [zoo_inputs(name, batch=16, seed=seed) for seed in range(count)]


def pair(name):
    """A dense model, and a copy without some of the heads and neurons; the second layers have lost all."""
    dense = zoo_model(name)
    kept = {"heads": {}, "neurons": {}}
    for layer in prunable_layers(dense):
        units = layer.units[: -(-3 * len(layer.units) // 4)] if layer.index != 1 else ()
        kept[layer.noun][layer.index] = sum(units, ())
    model = copy.deepcopy(dense)
    CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(KeptSet(**kept))).step()
    return model, dense


def seen(model, layer, batch):
    """Stream in front of a layer, its projection's input and output, at the real tokens: a whole pass."""
    found = {}

    def front(module, args, kwargs):
        found.setdefault("front", []).append((*args, *kwargs.values())[0].clone())  # some layers add in place

    def behind(module, args, output):
        found.setdefault("context", []).append(args[0])
        found.setdefault("output", []).append(output.clone())

    handles = [layer.output.register_forward_hook(behind)]
    if layer.stream(model) is not None:
        handles.append(layer.stream(model).register_forward_pre_hook(front, with_kwargs=True))
    options = {"use_cache": False} if model.can_generate() else {}
    model(**batch.inputs, **options)
    for handle in handles:
        handle.remove()
    mask = query_side(layer, batch, found["context"][0].shape[1]).mask
    values = {key: torch.cat([value[mask] for value in parts]).double() for key, parts in found.items()}
    return values.get("front", torch.zeros(())), values["context"], values["output"]


def repair_by_restarting(model, dense, data):
    """Every changed projection, in the order in which the dense model runs them, by a regression over all rows."""
    ours = {layer.output_path: layer for layer in prunable_layers(model)}
    theirs = {layer.output_path: layer for layer in prunable_layers(dense)}
    read = list(read_inputs(data, model))
    order, handles = [], []
    for path, layer in theirs.items():
        handles.append(layer.output.register_forward_hook(lambda *_, path=path: order.append(path)))
    dense(**read[0].inputs)
    for handle in handles:
        handle.remove()
    for path in dict.fromkeys(order):
        layer = ours[path]
        if len(layer.present) == len(theirs[path].present):
            continue
        rows = [(seen(model, layer, batch), seen(dense, theirs[path], batch)) for batch in read]
        context = torch.cat([own[1] for own, _ in rows])
        left = torch.cat([(other[0] + other[2]) - own[0] - own[2] for own, other in rows])
        bias = layer.output.bias is not None
        centre, goal = (context.mean(0), left.mean(0)) if bias else (0.0, 0.0)
        x, y = context - centre, left - goal
        change = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64)
        if x.shape[1]:
            pull = RIDGE * x.square().sum(0).mean() * torch.eye(x.shape[1])
            change = torch.linalg.solve(x.T @ x + pull, x.T @ y).T
            transposed = type(layer.output).__name__ == "Conv1D"
            layer.output.weight += (change.T if transposed else change).float()
        if bias:
            layer.output.bias += (goal - change @ centre if x.shape[1] else goal).float()


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_one_pass_is_the_repair_that_starts_over_at_every_layer(name, monkeypatch):
    model, dense = pair(name)
    expected = copy.deepcopy(model)
    data = batches(name, 5)
    repair_by_restarting(expected, dense, data[:4])
    monkeypatch.setattr("cahp_plugin.recover.closed_form._divergence", lambda *_: 0.0)  # accepted in any case
    report = recover_least_squares(model, dense, data, num_examples=80, ridge=RIDGE)
    cut = {layer.output_path for layer in prunable_layers(model) if len(layer.present) < layer.num_original}
    assert cut and set(report.errors) == cut
    assert all(after <= before * (1 + 1e-9) for before, after in report.errors.values())
    inputs = zoo_inputs(name, batch=16, seed=77)
    found, wanted = outputs(model, inputs), outputs(expected, inputs)
    assert float((found - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "gpt-neox", "vit", "marian", "whisper"])
def test_repaired_outputs_come_closer_with_heads_and_neurons_gone(name):
    model, dense = pair(name)
    inputs = zoo_inputs(name, batch=16, seed=99)
    target, before = outputs(dense, inputs), outputs(model, inputs)
    report = recover_least_squares(model, dense, batches(name), num_examples=160)
    assert report.accepted
    assert (outputs(model, inputs) - target).square().mean() < (before - target).square().mean()


@pytest.mark.parametrize("name", ["bert", "t5", "albert"])
@torch.no_grad()
def test_hidden_states_on_disk_give_the_same(name, monkeypatch):
    model, dense = pair(name)
    other = copy.deepcopy(model)
    recover_least_squares(model, dense, batches(name), num_examples=160)
    monkeypatch.setattr(walk, "MEMORY", 0)
    mapped = []
    from_file = torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda *args, **kwargs: mapped.append(args) or from_file(*args, **kwargs))
    recover_least_squares(other, dense, batches(name), num_examples=160)
    assert bool(mapped) == (name != "albert")  # whose passes do not wait
    inputs = zoo_inputs(name)
    assert torch.equal(outputs(model, inputs), outputs(other, inputs))


@pytest.mark.parametrize("layers", [2, 5])
@torch.no_grad()
def test_calls_of_a_layer_do_not_grow_with_the_depth(layers):
    """A layer of the pruned model: once in the pass and once for each projection fitted; of the dense one: once."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
                        intermediate_size=48)  # fmt: skip
    dense = BertForSequenceClassification(config).eval()
    model = copy.deepcopy(dense)
    kept = KeptSet({i: (0, 1) for i in range(layers)}, {i: range(20) for i in range(layers)})
    CAHPPruner(model, zoo_inputs("bert"), importance=CAHPImportance(kept)).step()
    counts = {}
    for which, one in (("pruned", model), ("dense", dense)):
        for index, layer in enumerate(one.bert.encoder.layer):
            layer.register_forward_pre_hook(
                lambda *_, key=(which, index): counts.__setitem__(key, counts.get(key, 0) + 1)
            )
    recover_least_squares(model, dense, batches("bert", 5), num_examples=80)
    held_out = 2  # passes over the one batch that is held out
    for index in range(layers):
        last = index == layers - 1  # the pass ends with its fit
        assert counts["pruned", index] == 4 * (2 if last else 3) + held_out
        assert counts["dense", index] == 4 + held_out


def test_transformer_layers_are_found_by_the_list_that_they_are_in():
    bert, t5 = zoo_model("bert"), zoo_model("t5")
    assert list(steps_of(bert, prunable_layers(bert))) == [f"bert.encoder.layer.{i}" for i in range(3)]
    assert list(steps_of(t5, prunable_layers(t5)))[-1] == "decoder.block.1.layer.2"


@torch.no_grad()
def test_the_bias_alone_takes_the_mean_of_removed_neurons():
    model, dense = pair("bert")
    before = {layer.index: layer.output.bias.clone() for layer in prunable_layers(model) if layer.noun == "neurons"}
    data = batches("bert")
    report = recover_bias(model, dense, data, num_examples=160)
    read = list(read_inputs([batch for number, batch in enumerate(data) if number % 5 != 4], dense))
    assert report.accepted
    for ours, theirs in zip(prunable_layers(model), prunable_layers(dense), strict=True):
        if ours.noun == "neurons":
            context = torch.cat([seen(dense, theirs, batch)[1] for batch in read])
            gone = [place for place in range(48) if place not in ours.present]
            mean = theirs.output.weight.double()[:, gone] @ context[:, gone].mean(0)
            assert torch.allclose(ours.output.bias.double(), before[ours.index] + mean, atol=1e-5)


class OddNorm(nn.LayerNorm):
    pass


class OddAttention(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.heads = 4
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, mask):
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2)).masked_fill(mask[:, None, None] == 0, -1e9)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), None


class OddMLP(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.up, self.down = nn.Linear(width, 48), nn.Linear(48, width)

    def forward(self, x):
        return self.down(self.up(x).relu())


class InPlaceLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.attn, self.n2, self.mlp = OddNorm(32), OddAttention(), OddNorm(32), OddMLP()

    def forward(self, x, mask):
        x += self.attn(self.n1(x), mask)[0]
        x += self.mlp(self.n2(x))
        return x


class OddConfig(transformers.PretrainedConfig):
    model_type, hidden_size, num_attention_heads = "odd", 32, 4


class OddModel(transformers.PreTrainedModel):
    """Layers in one of three forms: modules that add in place, dicts that are never called, lists of parts."""

    config_class = OddConfig

    def __init__(self, config, form):
        super().__init__(config)
        self.form, self.embedding, self.classifier = form, nn.Embedding(100, 32), nn.Linear(32, 3)

        def parts():
            return OddNorm(32), OddAttention(), OddNorm(32), OddMLP()

        make = {
            "in place": lambda: InPlaceLayer(),
            "dict": lambda: nn.ModuleDict(zip(("n1", "attn", "n2", "mlp"), parts(), strict=True)),
            "list": lambda: nn.ModuleList(parts()),
        }[form]
        self.layers = nn.ModuleList(make() for _ in range(3))

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids)
        for layer in self.layers:
            if self.form == "in place":
                x = layer(x, attention_mask)
                continue
            n1, attn, n2, mlp = layer.values() if self.form == "dict" else layer
            x = x + attn(n1(x), attention_mask)[0]
            x = x + mlp(n2(x))
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=self.classifier(x[:, 0]))


@pytest.mark.parametrize(("form", "names"), [("in place", ("n1", "n2")), ("dict", ("n1", "n2")), ("list", ("0", "2"))])
@torch.no_grad()
def test_models_of_ones_own_are_repaired_as_by_starting_over(form, names, monkeypatch):
    monkeypatch.setattr(spec, "_SPECS", {})
    register_architecture(
        AttentionSpec("odd", ("OddAttention",), "q", "k", "v", "o", head_count=("heads",), residual=names[0],
                      output_in_core=True),
        FeedForwardSpec("odd", ("OddMLP",), ("up",), "down", residual=names[1]),
    )  # fmt: skip
    torch.manual_seed(0)
    dense = OddModel(OddConfig(), form).eval()
    data = batches("bert", 5)
    kept = KeptSet({0: (0, 2), 1: (), 2: (1,)}, {0: range(20), 1: range(5), 2: ()})
    model = copy.deepcopy(dense)
    CAHPPruner(model, zoo_inputs("bert"), importance=CAHPImportance(kept)).step()
    expected = copy.deepcopy(model)
    repair_by_restarting(expected, dense, data[:4])
    monkeypatch.setattr("cahp_plugin.recover.closed_form._divergence", lambda *_: 0.0)
    recover_least_squares(model, dense, data, num_examples=80, ridge=RIDGE)
    inputs = zoo_inputs("bert", batch=16, seed=77)
    assert (outputs(model, inputs) - outputs(expected, inputs)).abs().max() <= 1e-5


def test_a_cache_chunks_and_autocast_do_not_disturb():
    """A class without the argument `use_cache`; a forward in chunks; a forward under autocast of its own."""
    config = transformers.LlamaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                                      intermediate_size=48, head_dim=8, pad_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    answers = transformers.LlamaForQuestionAnswering(config).eval()
    for parameter in answers.parameters():
        parameter.data.mul_(4)
    chunked = zoo_model("bert")
    for layer in chunked.bert.encoder.layer:
        layer.chunk_size_feed_forward = 3
    for dense, name, key in ((answers, "llama", "start_logits"), (chunked, "bert", "logits")):
        model = copy.deepcopy(dense)
        kept = KeptSet({0: (0, 1), 1: ()}, {0: range(10), 2: ()})
        CAHPPruner(model, zoo_inputs(name), importance=CAHPImportance(kept)).step()
        with torch.no_grad():
            target, before = (one(**zoo_inputs(name, seed=9))[key] for one in (dense, model))
            recover_least_squares(model, dense, batches(name), num_examples=160)
            after = model(**zoo_inputs(name, seed=9))[key]
        assert (after - target).square().mean() < (before - target).square().mean()
    assert answers.config.use_cache and chunked.bert.encoder.layer[0].chunk_size_feed_forward == 3
    model, dense = pair("bert")
    forward = model.forward

    def automatic(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args, **kwargs)

    model.forward = automatic
    recover_least_squares(model, dense, batches("bert"), num_examples=160)
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()


def test_what_the_caller_has_set_reaches_the_passes():
    seen, variable = [], contextvars.ContextVar("variable")
    model, dense = pair("bert")
    model.bert.encoder.layer[0].register_forward_pre_hook(lambda *_: seen.append(variable.get()))
    variable.set("here")
    with torch.inference_mode():
        recover_least_squares(model, dense, batches("bert"), num_examples=160)
    assert set(seen) == {"here"}
    model.train()(**zoo_inputs("bert")).logits.sum().backward()


def test_the_bias_of_images_takes_the_mean_of_their_patches():
    dense = zoo_model("vit")
    model = copy.deepcopy(dense)
    CAHPPruner(model, zoo_inputs("vit"), importance=CAHPImportance(KeptSet(neurons={0: range(20)}))).step()
    report = recover_bias(model, dense, batches("vit"), num_examples=160)
    assert report.accepted and report.divergence[1] < report.divergence[0]
    assert recover_least_squares(model, dense, batches("vit"), num_examples=160).num_tokens == 128 * 5
