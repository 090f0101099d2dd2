"""What holds for every registered way of choosing heads."""

import copy

import pytest
import torch
from comparing import compare
from selecting import grouped_batches, grouped_model, view_of, without_labels
from tiny import model_inputs, tiny_batches, tiny_model

from cahp_plugin import CAHPConfig, CAHPImportance, CAHPPruner
from cahp_plugin.errors import ConfigError, DataError, UnsupportedModelError
from cahp_plugin.recover import prune_and_repair
from cahp_plugin.selectors import Needs, Ranked, View, make_selector, selectors
from cahp_plugin.units import attention_layers

NAMES = list(selectors())
RANKED = ["salience", "salience-layernorm", "hies", "magnitude", "obs", "random"]
LABELLED = ["shuffled", "salience-iterative", "voita", "dsp"]


def needing(flags):
    return [name for name in NAMES if make_selector(name).needs & flags]


@pytest.fixture(scope="module")
def views():
    """One view of a model of single heads and one of groups, by the layers' minimum."""
    plain, grouped = (tiny_model(), tiny_batches(24)), (grouped_model(), grouped_batches())
    return {(size, least): view_of(model, data, least=least)
            for size, (model, data) in ((1, plain), (2, grouped)) for least in (0, 1, 3)}  # fmt: skip


def fitted(name, view, seed=0):
    return make_selector(name, epochs=0.5, num_examples=24).fit(view, seed=seed)


def check_kept(view, kept, count):
    assert kept.num_heads == count and sorted(kept.heads) == [0, 1, 2]
    for layer in view.layers:
        heads, unit = set(kept.heads[layer.index]), layer.group_size
        assert heads <= set(layer.heads)
        assert all(len(heads & set(group)) in (0, unit) for group in layer.units)
        assert len(heads) >= view.config.min_heads_per_layer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 2])
def test_numbers_hold_with_whole_groups_and_can_be_pruned(name, size, views):
    view = views[size, 1]
    before = {key: value.clone() for key, value in view.model.state_dict().items()}
    found = fitted(name, view)
    check_kept(view, found.keep(0.5), 6)
    kept = found.keep(8)
    check_kept(view, kept, 8)
    assert all((value == before[key]).all() for key, value in view.model.state_dict().items())
    pruned = copy.deepcopy(view.model)
    CAHPPruner(pruned, model_inputs(), importance=CAHPImportance(kept)).step()
    assert {layer.index: layer.heads for layer in attention_layers(pruned)} == dict(kept.heads)
    with torch.no_grad():
        assert pruned(**model_inputs()).logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "least", "count"), [(2, 0, 2), (2, 3, 12), (1, 3, 10)])
def test_the_minimum_holds_in_whole_groups(name, size, least, count, views):
    view = views[size, least]
    check_kept(view, fitted(name, view).keep(count), count)


def test_random_draws_of_groups_are_all_valid(views):
    drawn = set()
    for seed in range(100):
        view = views[2, seed % 2]
        kept = fitted("random", view, seed).keep(6)
        check_kept(view, kept, 6)
        drawn.add(str(kept.heads))
    assert len(drawn) > 10


def test_groups_are_compared_by_default(tmp_path):
    model = grouped_model()
    found = compare(
        tmp_path / "runs", model=model, methods=None, heads=[0.5], seeds=[0], recoveries=["none", "least-squares"]
    )
    assert len(found.runs) == 1 + 4 * 2
    view = view_of(model)
    for run in found.runs:
        kept = {int(layer): set(heads) for layer, heads in run.kept.items()}
        assert all(
            len(kept[layer.index] & set(unit)) in (0, len(unit)) for layer in view.layers for unit in layer.units
        )
        assert sum(map(len, kept.values())) == run.num_heads


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("least", [0, 1])
def test_ranked_sets_are_nested(name, size, least, views):
    view = views[size, least]
    found = fitted(name, view)
    assert isinstance(found, Ranked)
    units = found.ranking()
    assert sorted(units) == [(layer.index, unit) for layer in view.layers for unit in layer.units]
    for count in range(3 * least, len(units) + 1):
        expected = {layer: [] for layer in range(3)}
        for layer, heads in units[:count]:
            expected[layer] += heads
        assert found.keep(count * size).heads == {layer: tuple(sorted(heads)) for layer, heads in expected.items()}


def test_the_ranked_ones_are_those_of_this_file(views):
    assert [name for name in NAMES if isinstance(fitted(name, views[1, 1]), Ranked)] == RANKED


@pytest.mark.parametrize("size", [1, 2])
def test_the_iterative_walk_is_nested(size, views):
    view = views[size, 1]
    found = make_selector("salience-iterative", step=4).fit(view, seed=0)
    before = {(layer, head) for layer in range(3) for head in range(4)}
    for count in range(12, 3 * size - 1, -size):
        kept = {(layer, head) for layer, heads in found.keep(count).heads.items() for head in heads}
        assert len(kept) == count and kept <= before
        before = kept


def unrunnable(model):
    """The model, which must not be run any more."""

    def forward(*arguments, **options):
        raise AssertionError("the model ran")

    model.forward = forward
    return model


def test_what_only_looks_at_weights_takes_no_data():
    view = View(unrunnable(tiny_model()))
    for name in ("random", "magnitude"):
        assert make_selector(name).fit(view).keep(6).num_heads == 6


@pytest.mark.parametrize("name", needing(Needs.DATA))
def test_missing_data_is_told(name):
    with pytest.raises(ConfigError, match=f"The selector '{name}' looks at data: give a `dataloader`"):
        make_selector(name).fit(View(unrunnable(tiny_model()), shrink=prune_and_repair))


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("conditioning", ["label", "prediction", "none"])
def test_missing_labels_are_told_before_the_model_runs(name, conditioning):
    assert needing(Needs.LABELS) == LABELLED
    view = view_of(unrunnable(tiny_model()), without_labels(tiny_batches()), conditioning=conditioning)
    told = (ConfigError, "conditioning 'none' has none") if (name, conditioning) == ("shuffled", "none") else (
        DataError, "Batch 0 has no `labels`")  # fmt: skip
    with pytest.raises(told[0], match=told[1]):
        make_selector(name).fit(view)


@pytest.mark.parametrize("name", ["noise", "shuffled"])
def test_without_classes_the_controls_are_refused_before_the_model_runs(name):
    assert needing(Needs.CLASSES) == ["shuffled", "noise"]
    view = view_of(unrunnable(tiny_model()), tiny_batches(), conditioning="none")
    with pytest.raises(ConfigError, match=f"{name} replaces the class separation, and conditioning 'none' has none"):
        make_selector(name).fit(view)


@pytest.mark.parametrize("name", needing(Needs.DATA))
def test_weights_that_let_no_gradient_through_are_told_before_the_model_runs(name):
    with torch.inference_mode():
        model = tiny_model()
    with pytest.raises(UnsupportedModelError, match=f"'{name}' runs the model.*`torch.inference_mode`"):
        make_selector(name).fit(view_of(unrunnable(model), tiny_batches()))


@pytest.mark.parametrize("name", ["magnitude", "random"])
def test_what_takes_no_gradient_takes_weights_of_inference_mode(name):
    with torch.inference_mode():
        model = tiny_model()
    expected = fitted(name, view_of(tiny_model(), tiny_batches())).keep(6)
    assert fitted(name, view_of(model, tiny_batches())).keep(6) == expected


def test_flash_attention_is_told_before_the_model_runs():
    for model in (tiny_model(), grouped_model()):
        unrunnable(model).config._attn_implementation = "flash_attention_2"
        with pytest.raises(UnsupportedModelError, match="runs on 'flash_attention_2', which gives no attention maps"):
            View(model, tiny_batches())


def test_a_missing_way_to_shrink_is_told_before_the_model_runs():
    assert needing(Needs.SHRINK) == ["salience-iterative"]
    with pytest.raises(ConfigError, match=r"'salience-iterative' prunes and repairs on its way: give `shrink`"):
        make_selector("salience-iterative").fit(View(unrunnable(tiny_model()), tiny_batches()))


def test_what_needs_no_labels_takes_none_whatever_the_settings():
    data = without_labels(tiny_batches(24))
    assert make_selector("obs").fit(View(tiny_model(), data)).keep(6).num_heads == 6
    for name in ("cahp", "medoid", "salience", "hies"):
        assert make_selector(name).fit(View(tiny_model(), data, CAHPConfig(conditioning="none"))).keep(6)


def test_evidence_is_measured_once_for_all(monkeypatch):
    from cahp_plugin.selectors import base

    walks, observe = [], base.observe
    monkeypatch.setattr(base, "observe", lambda *given, **options: walks.append(1) or observe(*given, **options))
    view = view_of(tiny_model(), tiny_batches(24))
    for name in needing(Needs.EVIDENCE):
        fitted(name, view)
    assert len(walks) == 1


def test_without_a_seed_it_is_that_of_the_settings():
    model = tiny_model()
    by_view = make_selector("random").fit(View(model, config=CAHPConfig(seed=7))).scores
    assert (by_view == make_selector("random").fit(View(model), seed=7).scores).all()
    assert (by_view != make_selector("random").fit(View(model)).scores).any()


def test_an_iterator_is_read_into_memory_once():
    view = view_of(tiny_model(), iter(tiny_batches(24)))
    expected = view_of(tiny_model(), tiny_batches(24))
    for name in ("obs", "voita", "cahp"):  # each walks through the data for itself
        assert fitted(name, view).keep(6) == fitted(name, expected).keep(6)
