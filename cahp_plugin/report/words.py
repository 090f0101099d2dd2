"""What a folder says, in plain sentences; every number in them comes from its files."""

from __future__ import annotations

from collections.abc import Sequence

from cahp_plugin.compare.rows import DENSE, REFERENCE, Row
from cahp_plugin.latency import Measurement
from cahp_plugin.report.compared import best_of, counts_of, dense_of, methods_of, named
from cahp_plugin.report.contents import Contents

_AFTER = {
    "one-shot": "without any recovery",
    "bias": "after a repair of the biases",
    "least-squares": "after a least-squares repair, without training",
    "recovered": "after fine-tuning",
}


def percent(share: float) -> str:
    """A share in [0, 1] in %."""
    return f"{100 * share:.1f}\u00a0%"


def of_pruning(contents: Contents) -> str:
    """What was removed, and what that cost."""
    selection, stages = contents.selection, contents.pruning.stages if contents.pruning else ()
    assert selection is not None
    sentence = (
        f"{contents.architecture or 'The model'} keeps {selection.num_heads} of its "
        f"{selection.num_present} attention heads "
        f"({percent(selection.num_heads / max(selection.num_present, 1))})."
    )
    if len(stages) > 1:
        first, last = stages[0], stages[-1]
        after = _AFTER.get(last.name, f"after the stage \u201c{last.name}\u201d")
        sentence += (
            f" Accuracy on the evaluation set goes from {percent(first.accuracy)} to {percent(last.accuracy)} "
            f"{after}; {percent(last.parameters / max(first.parameters, 1))} of the parameters are left."
        )
    return sentence


def of_comparison(rows: Sequence[Row], num_examples: int) -> str:
    """Who is best with the fewest heads, and how sure it is that others differ from CAHP."""
    dense, names = dense_of(rows), methods_of(rows)
    best, own = best_of(rows)
    rows = [row for row in rows if row.method != DENSE]
    ways = f"{len(names)} ways of choosing heads are" if len(names) != 1 else "One way of choosing heads is"
    sentence = f"{ways} compared at {_listed([str(count) for count in counts_of(rows)])} heads"
    sentence += f", on {num_examples:,} test examples."
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


def of_times(entries: Sequence[Measurement]) -> str:
    """How much faster the fastest is, where it is compared with a reference."""
    reference = entries[0]
    length = max(entry.sequence_length for entry in entries)
    at = [e for e in entries if (e.batch_size, e.sequence_length) == (reference.batch_size, length)]
    said = [
        f"{entry.target} takes {entry.ratio:.2f} times as long as {reference.target}"
        for entry in at
        if entry.target != reference.target
    ]
    if not said:
        return f"{reference.target} takes {reference.p50_ms:.1f} ms a call (median)."
    return f"At {length} tokens, batch of {reference.batch_size}: {_listed(said)}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
