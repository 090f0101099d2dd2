"""Selectors where tokens have classes, or examples several labels."""

import numpy as np
import pytest
import torch
from tiny import tiny_batches, tiny_model
from transformers import BertConfig, BertForTokenClassification

from cahp_plugin import CAHPConfig
from cahp_plugin.errors import ConfigError, DataError, UnsupportedModelError
from cahp_plugin.observe import prepare_batches
from cahp_plugin.observe.conditioning import conditioning_of
from cahp_plugin.observe.head_maps import Signatures
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.recover import prune_and_repair
from cahp_plugin.selectors import Needs, View, make_selector
from cahp_plugin.selectors.cahp.separation import separation_matrix
from cahp_plugin.selectors.controls import ShuffledLabels
from cahp_plugin.tasks import TASKS
from cahp_plugin.units import attention_layers

CONFIG = CAHPConfig(signature_size=5, num_heads=6)
HOW = {kind: conditioning_of("label", kind) for kind in ("tokens", "labels")}
KINDS = list(HOW)


def given(kind, count=24):
    """A model and its data: of tokens, classes by the parity of their ids; of labels, drawn ones."""
    if kind == "labels":
        data, generator = tiny_batches(count, 5), torch.Generator().manual_seed(0)
        for batch in data:
            batch["labels"] = torch.randint(0, 2, (len(batch["labels"]), 3), generator=generator).float()
        model = tiny_model()
        model.config.problem_type = "multi_label_classification"
        return model, data
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, pad_token_id=0, num_labels=2,
    )  # fmt: skip
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForTokenClassification(config).eval()
    data = tiny_batches(count, 5)
    for batch in data:
        batch["labels"] = (batch["input_ids"] % 2).masked_fill(batch["attention_mask"] == 0, -100)
        batch["labels"][:, 0] = -100
    return model, data


def view_of(kind, data=None, config=CONFIG, **options):
    model, found = given(kind)
    return View(model, found if data is None else data, config, **options)


def unrunnable(view):
    view.model.forward = None  # any use of it would raise a TypeError
    return view


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("head", [0, 3])
def test_the_head_whose_rows_tell_the_classes_of_tokens_apart_wins(layer, head):
    """Odd tokens look at late positions with it, even tokens at early ones; the other heads at nothing of the kind."""
    model, data = given("tokens", 40)
    embeddings = model.bert.embeddings
    with torch.no_grad():
        for table in (embeddings.word_embeddings.weight, embeddings.position_embeddings.weight):
            table[:, [0, 1]] = 0
        embeddings.word_embeddings.weight[:, 0] = torch.arange(100) % 2 * 2.0 - 1
        embeddings.position_embeddings.weight[:, 1] = torch.linspace(-1, 1, 40)
        attention = model.bert.encoder.layer[layer].attention.self
        for weight in (attention.query.weight, attention.key.weight):
            weight[8 * head : 8 * head + 8] = 0
        attention.query.weight[8 * head, 0] = attention.key.weight[8 * head, 1] = 4.0
    view = View(model, data, CONFIG)
    scores = view.evidence.separation.mean(axis=1)
    assert int(scores.argmax()) == 4 * layer + head and scores.max() > 2 * np.sort(scores)[-2]


@pytest.mark.parametrize(("kind", "features"), [("tokens", 5), ("labels", 25 * 3)])
@pytest.mark.parametrize("name", ["cahp", "medoid", "salience", "salience-layernorm", "hies", "noise", "shuffled"])
def test_selectors_that_look_at_the_heads_go_on_working(name, kind, features):
    view = view_of(kind)
    assert make_selector(name).fit(view).keep(6).num_heads == 6
    assert view.evidence.separation.shape == (12, features)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["voita", "dsp", "salience-iterative"])
def test_selectors_that_train_on_a_class_each_are_refused_before_the_model_runs(name, kind):
    assert make_selector(name).needs & Needs.LABELS
    with pytest.raises(ConfigError, match=f"'{name}' takes one class for each example, and here the labels are"):
        make_selector(name).fit(unrunnable(view_of(kind, shrink=prune_and_repair)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["magnitude", "random", "obs"])
def test_selectors_without_labels_go_on_working(name, kind):
    assert make_selector(name).fit(view_of(kind)).keep(6).num_heads == 6


@pytest.mark.parametrize("kind", KINDS)
def test_without_classes_any_kind_goes_on_working(kind):
    view = view_of(kind, config=CAHPConfig(conditioning="none", num_heads=6))
    assert make_selector("cahp").fit(view).keep(6).num_heads == 6 and view.evidence.separation is None


@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_labels_are_the_same_ones_at_other_places(kind):
    model, data = given(kind)
    batches = prepare_batches(data, model, HOW[kind])
    before = [batch.labels for batch in batches]
    walk = ShuffledLabels(batches, HOW[kind], seed=3)
    after = [batch.labels for batch in walk]
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape and torch.equal(one == -100, other == -100)
    rows = [torch.cat([labels[labels != -100][:, None] if kind == "tokens" else labels for labels in found])
            for found in (before, after)]  # fmt: skip
    assert sorted(rows[0].tolist()) == sorted(rows[1].tolist())
    again = [batch.labels for batch in walk]
    assert len(walk) == len(after) and all(map(torch.equal, again, after))


@pytest.mark.parametrize("kind", KINDS)
def test_shuffled_separation_is_that_of_data_with_those_labels(kind):
    view = view_of(kind)
    found = make_selector("shuffled").fit(view, seed=3).evidence.separation
    batches = prepare_batches(view.dataloader, view.model, HOW[kind])
    walk = ShuffledLabels(batches, HOW[kind], seed=3)
    permuted = [{**batch.inputs, "labels": batch.labels} for batch in walk]
    np.testing.assert_array_equal(found, view_of(kind, permuted).evidence.separation)
    assert np.abs(found - view.evidence.separation).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_parts_are_those_of_all(kind):
    """As several processes do it: the first batch settles the reference, and parts are merged in another order."""
    model, data = given(kind)
    data[0]["labels"] = torch.full_like(data[0]["labels"], -100) if kind == "tokens" else data[0]["labels"]
    batches = list(prepare_batches(data, model, HOW[kind]))
    classes = range(2 if kind == "tokens" else 3)
    whole, first = (Signatures(model, attention_layers(model), 5, classes, HOW[kind]) for _ in range(2))
    accumulate(model, batches, [whole], "")
    first.update(batches[0])
    parts = [first.new() for _ in range(3)]
    for position, batch in enumerate(batches):
        parts[position % 3].update(batch)
    total = first.new()
    for part in parts[::-1]:
        total += part.cpu()
    groups = classes if kind == "tokens" else range(6)
    for one, other in zip(whole.finish(groups), total.finish(groups), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_layers_that_tokens_classes_can_not_use_are_told_before_the_model_runs(monkeypatch):
    from zoo import zoo_model

    monkeypatch.setattr("cahp_plugin.selectors.base.known_task", lambda model: TASKS["token-classification"])
    model = zoo_model("clip")
    model.forward = None
    with pytest.raises(UnsupportedModelError, match='`conditioning="none"`'):
        make_selector("cahp").fit(View(model, given("tokens")[1], CONFIG))


@pytest.mark.parametrize(
    ("kind", "needed", "told"),
    [
        ("tokens", 12 * 5 * (4 * 1 + 16 * 2), "2 classes pair by pair at 1 x 5 cells"),
        ("labels", 12 * 25 * (4 * 3 + 16 * 6), "3 labels at 5 x 5 cells"),
    ],
)
def test_memory_is_counted_by_what_is_built(kind, needed, told, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": needed}))
    view_of(kind).evidence  # noqa: B018
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"total": needed - 1}))
    monkeypatch.setattr("cahp_plugin.selectors.base.observe", lambda *_, **__: pytest.fail("the walk began"))
    with pytest.raises(DataError, match=f"Comparing {told}"):
        view_of(kind).evidence  # noqa: B018


def test_pairs_of_classes_can_be_named():
    mean, variance = np.random.default_rng(0).random((2, 4, 3, 2))
    every = separation_matrix(mean, variance).reshape(3, 6, 2)  # 01 02 03 12 13 23
    found = separation_matrix(mean, variance, pairs=[(0, 1), (2, 3)])
    np.testing.assert_array_equal(found.reshape(3, 2, 2), every[:, [0, 5]])
