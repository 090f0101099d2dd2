"""What a folder says, in plain sentences; every number in them comes from its files."""

from __future__ import annotations

from cahp_plugin.report.html.charts_comparison import DENSE, REFERENCE, counts_of, extremes, methods_of, named
from cahp_plugin.report.html.data import Compared, Pruned, Timed

_AFTER = {
    "one-shot": "without any recovery",
    "bias": "after a repair of the biases",
    "least-squares": "after a least-squares repair, without training",
    "recovered": "after fine-tuning",
}


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] in %."""
    return f"{100 * share:.{digits}f} %"


def of_pruned(pruned: Pruned) -> str:
    """What was removed, and what that cost."""
    who = pruned.architecture or "The model"
    sentence = (
        f"{who} keeps {pruned.num_heads} of its {pruned.num_present} attention heads "
        f"({percent(pruned.num_heads / max(pruned.num_present, 1))})."
    )
    if len(pruned.stages) > 1:
        first, last = pruned.stages[0], pruned.stages[-1]
        after = _AFTER.get(last["name"], f"after the stage \u201c{last['name']}\u201d")
        sentence += (
            f" Accuracy on the evaluation set goes from {percent(first['accuracy'])} to {percent(last['accuracy'])} "
            f"{after}; {percent(last['parameters'] / max(first['parameters'], 1))} of the parameters are left."
        )
    return sentence


def of_comparison(compared: Compared) -> str:
    """Who is best with the fewest heads, and how sure it is that others differ from CAHP."""
    rows = [row for row in compared.rows if row.method != DENSE]
    dense, best, own = extremes(compared)
    names = methods_of(compared)
    ways = f"{len(names)} ways of choosing heads are" if len(names) != 1 else "One way of choosing heads is"
    sentence = f"{ways} compared at {_listed([str(count) for count in counts_of(compared)])} heads"
    sentence += f", on {compared.runs[0].num_examples:,} test examples."
    if dense is not None:
        sentence += f" The dense model, with {dense.num_heads} heads, is right for {percent(dense.mean)} of them."
    where, shown = ("", "") if best.validation is None else (" on the validation set", " on the test set")
    sentence += (
        f" With {best.num_heads} heads the best{where} is {best.method} with {named(best.recover)}: "
        f"{percent(best.mean)}{shown}"
    )
    if own is best:
        beside = (best.num_heads, best.recover)
        others = [row for row in rows if (row.num_heads, row.recover) == beside and row is not best]
        level = sum(row.side == 0 for row in others)
        if level:
            sentence += f", from which {level} of {len(others)} others can't be told"
    elif own is not None:
        sentence += f"; {REFERENCE} reaches {percent(own.mean)}"
        if best.side == 0:
            sentence += ", which can't be told from it"
    sentence += "."
    sure = [row for row in rows if row.interval is not None]
    if sure:
        better, worse = sum(row.side == 1 for row in sure), sum(row.side == -1 for row in sure)
        sentence += (
            f" Of {len(sure)} differences from cahp, {better} {'is' if better == 1 else 'are'} above zero and "
            f"{worse} below it by their 95 % intervals; {len(sure) - better - worse} can't be told from zero."
        )
    return sentence


def of_times(timed: Timed) -> str:
    """How much faster the fastest is, where it is compared with a reference."""
    entries = timed.measurements
    reference = entries[0]
    length = max(entry["sequence_length"] for entry in entries)
    batch = reference["batch_size"]
    at = [entry for entry in entries if (entry["batch_size"], entry["sequence_length"]) == (batch, length)]
    others = [entry for entry in at if entry["target"] != reference["target"]]
    if not others:
        return f"{reference['target']} takes {at[0]['p50_ms']:.1f} ms a call at {length} tokens (median)."
    said = [f"{entry['target']} takes {entry['ratio']:.2f} times as long as {reference['target']}" for entry in others]
    return f"At {length} tokens, batch of {batch}: {_listed(said)}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
