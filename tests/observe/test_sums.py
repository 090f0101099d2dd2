import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from selecting import grouped_batches, grouped_model
from tiny import tiny_batches, tiny_model

from cahp_plugin.errors import ConfigError, DataError, PruningError
from cahp_plugin.observe import prepare_batches, sums
from cahp_plugin.observe.conditioning import CONDITIONINGS
from cahp_plugin.observe.grams import HeadGrams
from cahp_plugin.observe.head_maps import Entropies, HeadDistances, Signatures
from cahp_plugin.observe.observation import Salience
from cahp_plugin.observe.streams import layer_tokens
from cahp_plugin.observe.sums import Accumulator, Sums, accumulate, frozen_eval
from cahp_plugin.units import attention_layers

MAKERS = {
    "signatures": lambda model, layers: Signatures(model, layers, 5, (0, 1, 2)),
    "predicted signatures": lambda model, layers: Signatures(model, layers, 5),
    "distances": lambda model, layers: HeadDistances(model, layers, 3),
    "salience": lambda model, layers: Salience(model, layers, share=0.5),
    "entropies": lambda model, layers: Entropies(model, layers),
    "grams": lambda model, layers: HeadGrams(model, layers),
}


def plain(state):
    """Sums by one flat key, as NumPy arrays."""
    found = {}
    for key, value in state.items():
        if isinstance(value, Sums):
            found |= {(key, inner): number for inner, number in plain(value.state).items()}
        else:
            found[key] = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return found


def check_same(found, expected, tolerance=0.0):
    found, expected = plain(found.state), plain(expected.state)
    assert found.keys() == expected.keys() and found
    for key, value in expected.items():
        scale = tolerance * np.abs(value).max(initial=0)
        np.testing.assert_allclose(found[key], value, rtol=0, atol=scale, err_msg=str(key))


def walked(total, model, parts):
    """Each part summed by itself, and merged in order."""
    with frozen_eval(model):
        for part in parts:
            piece = total.new()
            for batch in part:
                piece.update(batch)
            total.merge(piece.state)
    return total


@pytest.fixture(scope="module", params=["bert", "grouped"])
def given(request):
    if request.param == "bert":
        model, data = tiny_model(), tiny_batches(22, 4)
    else:
        model, data = grouped_model(2), grouped_batches(22, 4)
    return model, attention_layers(model), prepare_batches(data, model)


@pytest.mark.parametrize("name", MAKERS)
def test_a_walk_is_the_sum_of_its_batches_in_order(name, given):
    """Bit for bit: what several processes sum up must not differ from what one does."""
    model, layers, batches = given
    found = MAKERS[name](model, layers)
    accumulate(model, batches, [found], "")
    listed = list(batches)
    check_same(found, walked(MAKERS[name](model, layers), model, [[batch] for batch in listed]))
    # All in one go, or in other parts: the sums are those of the same numbers, added up in another order.
    for parts in ([listed], [listed[:2], listed[2:3], listed[3:]]):
        check_same(found, walked(MAKERS[name](model, layers), model, parts), 1e-12)


@pytest.mark.parametrize("name", ["signatures", "predicted signatures", "salience", "entropies"])
def test_one_update_a_batch_needs_no_parts(name, given):
    """What adds to each sum once a batch has the same bits when one accumulator sees all batches."""
    model, layers, batches = given
    found, expected = (MAKERS[name](model, layers) for _ in range(2))
    accumulate(model, batches, [found], "")
    check_same(walked(expected, model, [list(batches)]), found)


@pytest.mark.parametrize("name", MAKERS)
def test_together_they_see_what_each_sees_alone(name, given):
    model, layers, batches = given
    alone, together = MAKERS[name](model, layers), {key: make(model, layers) for key, make in MAKERS.items()}
    accumulate(model, batches, [alone], "")
    accumulate(model, batches, list(together.values()), "")
    check_same(together[name], alone)


class Counter(Accumulator):
    """Labels, one after the other; a batch of one example."""

    def __init__(self, fails=None):
        super().__init__(None, [])
        self.fails, self.pieces, self.own = fails, [], []

    def new(self):
        piece = super().new()
        piece.own = []
        self.pieces.append(piece)
        return piece

    def update(self, batch):
        if int(batch.labels[0]) == self.fails:
            raise DataError("this one")
        self.own.append(int(batch.labels[0]))
        self.plus("seen", [int(batch.labels[0])])

    @property
    def parts(self):
        """What each part of the data saw."""
        return [tuple(piece.own) for piece in self.pieces if piece.own]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 100, 200])
def test_every_batch_is_seen_once_and_in_order(count):
    batches = [SimpleNamespace(labels=torch.tensor([position])) for position in range(count)]
    counter = Counter()
    accumulate(torch.nn.Linear(1, 1), batches, [counter], "")
    assert counter.state == {"seen": list(range(count))}
    parts = counter.parts
    assert len(parts) == min(count, 64) and sum(parts, ()) == tuple(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_do_not_depend_on_the_processes(monkeypatch):
    """Three processes, one after the other: what each sums by itself are the parts of one process."""
    batches = [SimpleNamespace(labels=torch.tensor([position])) for position in range(150)]
    alone = Counter()
    accumulate(torch.nn.Linear(1, 1), batches, [alone], "")
    found = []
    for rank in range(3):
        counter = Counter()
        here = SimpleNamespace(size=3, rank=rank, share=lambda make, source=0: make())
        monkeypatch.setattr(sums, "processes", lambda here=here: here)
        accumulate(torch.nn.Linear(1, 1), batches, [counter], "")
        found += counter.parts
    assert sorted(found) == sorted(alone.parts)


def test_more_processes_than_batches_are_refused(monkeypatch):
    monkeypatch.setattr(sums, "processes", lambda: SimpleNamespace(size=3, rank=0))
    with pytest.raises(ConfigError, match=r"3 processes can't share 2 batches. Start fewer, or make smaller batches"):
        accumulate(torch.nn.Linear(1, 1), [None, None], [Counter()], "")


def test_an_error_ends_the_walk_and_the_model_leaves_as_it_came():
    model = torch.nn.Linear(1, 1).train()
    batches = [SimpleNamespace(labels=torch.tensor([position])) for position in range(5)]
    counter = Counter(fails=2)
    with pytest.raises(DataError, match="this one"):
        accumulate(model, batches, [counter], "")
    assert counter.state == {"seen": [0, 1]} and model.training and model.weight.requires_grad


def test_batches_know_their_places():
    batches = prepare_batches(tiny_batches(20, 6), tiny_model())
    assert len(batches) == 4
    assert [(batch.first, len(batch)) for batch in batches] == [(0, 6), (6, 6), (12, 6), (18, 2)]


def test_sums_are_merged_by_value():
    rng = np.random.default_rng(0)
    parts, total = rng.integers(0, 100, (5, 3)).astype(float), Sums()
    for position, part in enumerate(parts):
        piece = total.new()
        piece.plus("tensor", torch.from_numpy(part.copy()))
        piece.plus("tensor", torch.from_numpy(part.copy()))
        piece.plus("number", position)
        if position > 2:
            piece.plus("late", 1.5)
        total += piece
    np.testing.assert_array_equal(total.state["tensor"], 2 * parts.sum(axis=0))
    assert total.state["number"] == 10 and total.state["late"] == 3.0
    inner = Sums()
    inner.plus("x", torch.ones(2))
    other = copy.deepcopy(inner)
    nested = Sums()
    nested.plus("inner", inner)
    nested.plus("inner", other)
    assert nested.state["inner"].state["x"].tolist() == [2, 2]
    sent = nested.cpu()
    assert sent.state["inner"].state["x"].tolist() == [2, 2] and sent is not nested and nested.new().state == {}


def test_what_the_first_batch_settles_is_shared_by_all_parts():
    model = tiny_model()
    total = Signatures(model, attention_layers(model), 4, (0, 1, 2))
    first, second = total.new(), total.new()
    batches = list(prepare_batches(tiny_batches(12, 6), model))
    first.update(batches[0])
    before = {key: value.clone() for key, value in total.fixed.items()}
    assert sorted(before) == [0, 1, 2]
    second.update(batches[1])
    assert all(torch.equal(second.fixed[key], value) for key, value in before.items())


def test_grams_equal_numpy():
    model = tiny_model()
    layers, batches = attention_layers(model), prepare_batches(tiny_batches(20, 6), model)
    found = HeadGrams(model, layers)
    accumulate(model, batches, [found], "")
    for layer in layers:
        with torch.no_grad():
            seen = [layer_tokens(model, layers, batch)[layer.output_path] for batch in batches]
        x = np.concatenate([tokens.context.double().numpy() for tokens in seen])
        y = np.concatenate([tokens.behind.double().numpy() for tokens in seen])
        gram, variance = found.state[layer.index].centred()
        assert found.state[layer.index].count == len(x) == sum(batches.lengths)
        np.testing.assert_allclose(
            gram, len(x) * np.cov(x.T, bias=True), rtol=0, atol=1e-10 * np.abs(gram.numpy()).max()
        )
        assert variance == pytest.approx(len(y) * y.var(axis=0).sum(), rel=1e-10)


def test_grams_name_the_layer_that_is_not_finite():
    model = tiny_model()
    with torch.no_grad():
        model.bert.encoder.layer[1].attention.self.value.weight.fill_(float("inf"))
    batches = prepare_batches(tiny_batches(), model, CONDITIONINGS["none"])
    with pytest.raises(PruningError, match=r"Attention layer 1 .*not finite"):
        accumulate(model, batches, [HeadGrams(model, attention_layers(model))], "")
