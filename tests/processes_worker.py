"""What each process of a job does in ``test_processes.py``; the first writes what came out."""

import os
import pickle
import sys
from pathlib import Path
from unittest import mock

import torch
from comparing import compare
from tiny import tiny_batches, tiny_model
from words import encoded_words

from cahp_plugin import CAHPConfig, evaluate, select_heads
from cahp_plugin.errors import CAHPError
from cahp_plugin.observe.grams import HeadGrams
from cahp_plugin.observe.sums import accumulate
from cahp_plugin.processes import processes
from cahp_plugin.recover import prune_and_repair
from cahp_plugin.selectors import View, make_selector, selectors

RUNS = {"methods": ["random", "obs"], "heads": [6], "seeds": [0], "recoveries": ["none", "least-squares"]}


def error_of(call):
    """The error that a call raises, in words."""
    try:
        call()
    except CAHPError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def broken():
    """A model whose loss is not a number for one of the last examples, which the second process sees."""
    model, data = tiny_model(), tiny_batches(40, 2)
    model.bert.embeddings.word_embeddings.weight.data[99] = float("nan")
    for place, batch in enumerate(data):
        batch["input_ids"].clamp_(max=98)
        if place == 19:
            batch["input_ids"][0, 0] = 99
    return error_of(lambda: select_heads(model, data))


def job():
    """Everything that is compared."""
    torch.set_num_threads(1)
    here, model, data = processes(), tiny_model(), tiny_batches(60, 5)
    found = {"size": here.size}
    for conditioning in ("label", "prediction", "none"):
        selection = select_heads(model, data, CAHPConfig(conditioning=conditioning))
        found[conditioning] = selection.to_dict(), selection.separation, selection.distances
    view = View(model, data, shrink=prune_and_repair)
    found["kept"] = {
        name: make_selector(name, epochs=0.5, step=3).fit(view, seed=1).keep(6).to_dict() for name in selectors()
    }
    grams = HeadGrams(model, view.layers)
    accumulate(model, view.prepared(view.conditioning), [grams], "Measuring")
    found["grams"] = [grams.state[layer.index].centred()[0] for layer in view.layers]
    evaluation = evaluate(model, encoded_words(model), batch_size=5)
    found["evaluation"] = evaluation.scores, evaluation.loss, evaluation.predictions, evaluation.rows.tolist()
    # What goes wrong goes wrong in all, with one message.
    errors = {"nan": broken()}
    if here.size > 1:
        errors["few"] = error_of(lambda: select_heads(model, tiny_batches(6, 6)))
        errors["data"] = error_of(lambda: select_heads(model, tiny_batches(60, 5)[:: 1 - 2 * here.rank]))
        with mock.patch("cahp_plugin.selectors.base.package_versions", lambda: {"torch": f"2.{here.rank}"}):
            errors["versions"] = error_of(lambda: select_heads(model, data))
        errors["seed"] = error_of(lambda: select_heads(model, data, CAHPConfig(seed=here.rank)))
    found["errors"] = here.all(errors)
    return found


if __name__ == "__main__":
    result = job()
    compare(Path(os.environ["FOUND"]).parent / "runs", **RUNS)
    if processes().main:
        with open(os.environ["FOUND"], "wb") as file:
            pickle.dump(result, file)
    sys.exit(0)
