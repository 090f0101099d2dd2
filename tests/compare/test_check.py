import json
from pathlib import Path

import numpy as np
import pytest
from comparing import compare, made_up
from tiny import tiny_model

from cahp_plugin.cli import main
from cahp_plugin.compare.check import check_runs
from cahp_plugin.compare.packing import pack
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.errors import CheckpointError


def checked(now, then):
    committed = {("a", 6, "none"): [made_up("a", seed, hits) for seed, hits in enumerate(then)]}
    runs = tuple(made_up("a", seed, hits) for seed, hits in enumerate(now))
    return check_runs(Comparison(Path(), runs).rows(), committed, "there").rows[0]


def hits(right, of=1000):
    return np.arange(of) < right


def test_the_bootstrap_interval_of_a_single_seed():
    row = checked([hits(520)], [hits(500)])
    half = 1.96 * 0.5 / np.sqrt(1000)  # of a share of one half
    assert row.expected == 0.5 and row.found == 0.52 and row.inside
    assert row.interval == pytest.approx((0.5 - half, 0.5 + half), abs=0.004)
    assert not checked([hits(540)], [hits(500)]).inside and not checked([hits(460)], [hits(500)]).inside


def test_the_spread_over_seeds_where_it_is_wider():
    then = [hits(400), hits(500), hits(600)]  # standard deviation 0.1
    row = checked([hits(690)], then)
    assert row.interval == pytest.approx((0.3, 0.7)) and row.inside
    assert not checked([hits(710)], then).inside


def spoil(folder, method):
    """Makes committed results of a method that no run will confirm."""
    path = folder / "runs.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["method"] == method:
            wrong = np.full(line["num_examples"], line["accuracy"] < 0.5)
            line["accuracy"], line["correct"] = float(wrong.mean()), pack(wrong)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_same_runs_come_out_again_and_others_do_not(tmp_path):
    compare(tmp_path / "committed")
    found = compare(tmp_path / "now", check=tmp_path / "committed")
    assert len(found.check.rows) == 5 and not found.check.outside
    assert all(row.expected == row.found for row in found.check.rows)
    spoil(tmp_path / "committed", "random")
    found = compare(tmp_path / "now", check=tmp_path / "committed")
    assert {(row.method, row.at) for row in found.check.outside} == {("random", "6 heads"), ("random", "3 heads")}
    assert found.to_dict()["check"]["rows"][0]["inside"] and "3 of 5 as in" in str(found.check)


def test_what_can_not_be_compared_is_refused_before_any_work(tmp_path):
    compare(tmp_path / "committed", seeds=[0])
    for changes, message in (
        ({"model": tiny_model(seed=1)}, r"another set-up, so they can't be checked \(model: '\w+', now '\w+'\)"),
        ({"methods": ["cahp", "obs"]}, r"has no results for obs at 3 heads \(none\), obs at 6 heads \(none\)"),
        ({"check": tmp_path}, "holds no comparison"),
    ):
        with pytest.raises(CheckpointError, match=message):
            compare(tmp_path / "now", **{"seeds": [0], "check": tmp_path / "committed"} | changes)
        assert not (tmp_path / "now").exists()


def test_versions_may_differ(tmp_path):
    compare(tmp_path / "committed", seeds=[0])
    path = tmp_path / "committed" / "setup.json"
    setup = json.loads(path.read_text())
    path.write_text(json.dumps(setup | {"versions": {"torch": "0"}}))
    assert not compare(tmp_path / "now", seeds=[0], check=tmp_path / "committed").check.outside


def test_the_command(given, capsys):
    arguments = ["compare", str(given / "model"), "--train", str(given / "train.jsonl"), "--test",
                 str(given / "eval.jsonl"), "--methods", "cahp,random", "--heads", "0.5", "--seeds", "0",
                 "--recover", "none", "--quiet"]  # fmt: skip
    assert main(arguments) == 1
    assert "`--output` is missing" in capsys.readouterr().err
    assert main([*arguments, "-o", str(given / "runs")]) == 0
    before = sorted(given.rglob("*"))
    assert main([*arguments, "--check", str(given / "runs")]) == 0
    assert "3 of 3 as in" in capsys.readouterr().out and sorted(given.rglob("*")) == before
    spoil(given / "runs", "random")
    assert main([*arguments, "--check", str(given / "runs"), "-o", str(given / "again")]) == 1
    printed = capsys.readouterr()
    assert "outside" in printed.out and "random at 6 heads (none)" in printed.err
    assert "cahp at" not in printed.err and (given / "again" / "runs.jsonl").exists()
