"""Measured times: tables by layer and size, and one model against another."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from tiny import model_inputs, tiny_model

from cahp_plugin import CAHPImportance, CAHPPruner, KeptSet, save_pruned
from cahp_plugin.cost.layers import LayerCost
from cahp_plugin.cost.times import How, TimeTable, speed_of, time_table
from cahp_plugin.errors import CheckpointError
from cahp_plugin.plan.plan import LayerPlan

HOW = How("torch", "fp32", (16,), 1, 1)


def layers(model):
    cost = LayerCost((1.0,), 1)
    return [
        LayerPlan(f"l.{i}.{kind}", f"l.{i}", kind, i, tuple(range(full)), 1, sizes, (0.0,) * len(sizes), cost)
        for kind, full, sizes in (("heads", 4, (4, 3, 2, 1, 0)), ("neurons", 512, (512, 384, 256, 128, 0)))
        for i in range(3)
    ]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A model whose layers differ in what they take, and what writes it at some sizes."""
    monkeypatch.setenv("CAHP_CACHE", str(tmp_path / "cache"))
    model = tiny_model(hidden_size=256, intermediate_size=512)
    plans, written = layers(model), []

    def make(sizes):
        place = tmp_path / str(len(written))
        written.append(tuple(sizes))
        cut = copy.deepcopy(model)
        kept = {"heads": {}, "neurons": {}}
        for layer, size in zip(plans, sizes, strict=True):
            kept[layer.kind][layer.index] = layer.units(size)
        if list(sizes) != [layer.sizes[0] for layer in plans]:
            CAHPPruner(cut, model_inputs(), importance=CAHPImportance(KeptSet(**kept))).step()
        save_pruned(cut, place)
        return place

    return plans, make, written, tmp_path


def test_a_table_never_falls_with_the_size_and_is_kept_by_machine(made):
    plans, make, written, folder = made
    shapes = [(layer.path, layer.sizes) for layer in plans]
    table = time_table(shapes, HOW, make, "tiny")
    assert len(written) == len(set(written)) == 1 + 3 + 3  # the whole model, and each kind at a few sizes
    assert len(table.layers) == 6 and table.whole > 0
    for layer, times in zip(plans, table.layers, strict=True):
        assert len(times) == len(layer.sizes) and times[-1] == 0 and list(times) == sorted(times, reverse=True)
    assert len({*table.layers[:3]}) == len({*table.layers[3:]}) == 1  # layers of one kind are alike
    assert table.rest == pytest.approx(table.whole - sum(times[0] for times in table.layers))
    file, *others = (folder / "cache" / "times").glob("*.json")
    assert not others and json.loads(file.read_text())["how"]["threads"] == 1
    assert time_table(shapes, HOW, make, "tiny") == table and len(written) == 7
    time_table(shapes, How("torch", "fp32", (8, 16), 1, 1), make, "tiny")
    assert len(written) == 14
    file.write_text("{}")
    with pytest.raises(CheckpointError, match=f"{file.name} is damaged"):
        time_table(shapes, HOW, make, "tiny")


def test_one_model_is_as_fast_as_itself_and_slower_than_one_without_layers(made):
    plans, make, _, _ = made
    whole = make([layer.sizes[0] for layer in plans])
    bare = make([0 for _ in plans])
    how = dataclasses.replace(HOW, batch_size=16)  # as long as the rest of a call is short beside it
    same, faster = speed_of(whole, whole, how), speed_of(whole, bare, how)
    assert same.low == same.ratio == same.high == 1 and faster.low <= faster.ratio <= faster.high
    assert faster.ratio > 1 and faster.pruned_ms < faster.dense_ms
    assert faster.dense_ms / faster.pruned_ms == pytest.approx(faster.ratio)
    assert "torch fp32 on cpu, 16 tokens, batch 16, 1 thread" in str(faster)


def test_what_is_left_without_layers():
    table = TimeTable(10.0, ((3.0, 1.0, 0.0), (4.0, 0.0)))
    assert table.rest == 3.0
    np.testing.assert_allclose(table.rest + sum(times[0] for times in table.layers), table.whole)
