"""The page: what it holds, that it is whole and asks for nothing, and that its numbers are those of the files."""

import dataclasses
import html
import json
import re
import shlex

import pytest
from commands import prune_arguments
from pages import (
    EXAMPLES,
    cells,
    check_whole,
    copy_examples,
    figure,
    head_map_entry,
    read,
    report,
    selection,
    write_runs,
    write_selection,
)

from cahp_plugin import CAHPConfig
from cahp_plugin.cli import build_parser, main
from cahp_plugin.cli.common import budget_of, method_config
from cahp_plugin.compare.knee import KneeRow, KneeTable
from cahp_plugin.compare.summary import Comparison
from cahp_plugin.cost.budget import Budget
from cahp_plugin.report import read_folder
from cahp_plugin.report.commands import commands
from cahp_plugin.report.page import build_page, environment

BAD = "<img src=x onerror=alert(1)>\"'&"


def of_comparison(rows):
    """What a page says of a comparison, in one line."""
    said = environment().get_template("summary.jinja").make_module({}).of_comparison(rows, 200)
    return html.unescape(str(said)).replace("\u00a0", " ").replace("\n", "")


def page_of(folder):
    return build_page([read_folder(folder)])


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A page of all kinds of folders."""
    root = tmp_path_factory.mktemp("all")
    write_selection(root / "selected", selection(layers=4, heads=6))
    write_runs(root / "runs", ["cahp", "obs", "random"])
    copy_examples(root)
    folders = [root / name for name in ("selected", "runs", "deploy", "latency")]
    assert report(folders, root / "page.html") == 0
    return root


def test_the_page_is_whole_and_has_every_section(everything):
    page = check_whole(everything / "page.html")
    headings = [heading.text() for heading in page.all("h2")]
    assert headings == [
        "Heads kept: selected", "Settings, versions, commands: selected",
        "Ways of choosing heads: runs", "Settings, versions, commands: runs",
        "Heads kept: deploy", "Latency: deploy", "Exported graphs: deploy", "Settings, versions, commands: deploy",
        "Latency: latency", "Settings, versions, commands: latency",
    ]  # fmt: skip
    assert [link.text() for link in page.all("a")] == headings
    kinds = {node.attributes["aria-labelledby"].split("-")[-3] for node in page.all("svg", role="img")}
    assert kinds == {
        "kept_heads",
        "heads_per_layer",
        "mss_curve",
        "graph_space",
        "accuracy",
        "difference",
        "layers",
        "latency",
    }


def test_pictures_follow_the_theme_and_hold_real_text(everything):
    text = (everything / "page.html").read_text()
    light, dark = re.findall(r":root\{(?:color-scheme:light dark;)?([^}]*)\}", text)[:2]
    assert re.findall(r"--[\w-]+", light) == re.findall(r"--[\w-]+", dark)
    assert "@media screen and (prefers-color-scheme:dark)" in text
    page = read(everything / "page.html")
    for picture in page.all("svg"):
        for node in picture.all("text"):
            assert node.text() and "fill: var(--" in node.attributes["style"]
            assert "font-family" not in node.attributes["style"]
        marks = [node.attributes.get("style", "") for name in ("path", "use") for node in picture.all(name)]
        drawn = set(re.findall(r"(?:fill|stroke): (#\w+)", " ".join(marks)))
        # Colours that do not follow the theme are those of layers, which can be told from both grounds.
        assert not drawn or picture.attributes["aria-labelledby"].split("-")[2] == "graph_space"


def test_the_same_folders_give_the_same_page(everything):
    for name in ("one.html", "other.html"):  # a pruned folder's page is held against another of it below
        assert report([everything / "latency"], everything / name) == 0
    assert (everything / "one.html").read_bytes() == (everything / "other.html").read_bytes()


def test_a_comparison_is_shown_as_it_was_computed(everything):
    page = read(everything / "page.html")
    comparison = Comparison.read(everything / "runs")
    for place, (recovery, words) in enumerate((("none", "no recovery"), ("least-squares", "least-squares repair"))):
        mine = [row for row in comparison.rows() if row.recover == recovery and row.method != "dense"]
        shown = cells(page, f"All methods, {words}")
        assert len(shown) == len(mine) == 6
        for kind in ("accuracy", "difference"):
            assert words in figure(page, kind, place).all("desc")[0].text()
        for row, line in zip(mine, shown, strict=True):
            assert (line["method"], line["heads"]) == (row.method, f"{row.size}")
            spread = f"{100 * row.mean:.1f} \u00b1 {100 * row.deviation:.1f}"
            assert line["accuracy"] == f"{spread} (n=3)"
            if row.method == "cahp":
                assert line["against cahp"] == ""
            else:
                low, high = (100 * end for end in row.interval)
                assert line["against cahp"] == f"{100 * row.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    (place,) = [one for one in comparison.structure() if (one.method, one.num_heads) == ("obs", 12)]
    means = ", ".join(f"{value:.1f}" for value in place.per_layer)
    assert f"obs: {means}" in figure(page, "layers", 1).all("desc")[0].text()


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ((0.9, 0.8, 0.7), "the best is cahp with no recovery: 90.0 %, from which 1 of 2 others can't be told."),
        ((0.9, 0.5, 0.4), "the best is cahp with no recovery: 90.0 %."),
        ((0.7, 0.9, 0.8), "the best is obs with no recovery: 90.0 %; cahp reaches 70.0 %."),
        (
            (0.7, 0.8, 0.6),
            "the best is obs with no recovery: 80.0 %; cahp reaches 70.0 %, which can't be told from it.",
        ),
    ],
)
def test_the_best_is_named_with_what_it_can_not_be_told_from(means, said, tmp_path):
    write_runs(tmp_path / "runs", ["cahp", "obs", "random"], counts=[6], recoveries=["none"])
    dense, *rows = Comparison.read(tmp_path / "runs").rows()
    rows = [
        dataclasses.replace(
            row,
            mean=mean,
            difference=None if row.method == "cahp" else mean - means[0],
            interval=None if row.method == "cahp" else (mean - means[0] - 0.15, mean - means[0] + 0.15),
        )
        for row, mean in zip(rows, means, strict=True)
    ]
    assert said in of_comparison([dense, *rows])


def test_the_best_is_chosen_on_the_validation_set_where_there_is_one(tmp_path):
    write_runs(tmp_path / "runs", ["cahp", "obs"], counts=[6], recoveries=["none"])
    rows = [
        dataclasses.replace(row, mean=mean, validation=validation)
        for row, mean, validation in zip(
            Comparison.read(tmp_path / "runs").rows(), (0.95, 0.8, 0.7), (0.9, 0.6, 0.65), strict=True
        )
    ]
    said = of_comparison(rows)
    assert (
        "the best on the validation set is obs with no recovery: 70.0 % on the test set; cahp reaches 80.0 %." in said
    )


def test_times_stages_and_exports_are_those_of_the_files(everything):
    page = read(everything / "page.html")
    told = json.loads((everything / "deploy" / "cahp_deploy.json").read_text())
    shown = cells(page, "The model at each stage, on the evaluation set")
    assert [(line["model"], line["accuracy"], line["parameters"]) for line in shown] == [
        (stage["name"], f"{100 * stage['accuracy']:.2f} %", f"{stage['parameters']:,}")
        for stage in told["pruning"]["stages"]
    ]
    entries = told["latency"]["measurements"]
    for entry, line in zip(entries, cells(page, "All times"), strict=True):
        assert (line["target"], line["length"]) == (entry["target"], f"{entry['sequence_length']}")
        interval = f"[{entry['ratio_low']:.3f}, {entry['ratio_high']:.3f}]"
        assert line["p50 ms"] == f"{entry['p50_ms']:.2f}"
        assert line["ratio [95 % interval]"] == f"{entry['ratio']:.3f} {interval}"
    labels = [node.text() for node in figure(page, "latency").all("text")]
    assert "6.5 ms (0.83\u00d7)" in labels and "pruned-onnx \u2013 36 heads, fp32" in labels
    graphs = {line["graph"]: line for line in cells(page, "Graphs for onnxruntime")}
    assert graphs["pruned-int8"]["accuracy"] == "48.64 %" and graphs["pruned-int8"]["precision"] == "int8 dynamic"
    summary = " ".join(line.text() for line in page.all("p", **{"class": "summary"})).replace("\u00a0", " ")
    assert "keeps 36 of its 72 attention heads (50.0 %)" in summary and "from 50.9 % to 48.6 %" in summary


def command_of(line):
    """A command as a shell reads it: a backslash at the end of a line goes on in the next."""
    return build_parser().parse_args(shlex.split(line.replace("\\\n", ""))[1:])


def test_the_commands_give_the_settings_back(everything, tmp_path):
    changes = {"polynomial_degree": 6, "tsne_init": "random", "seed": 3, "min_heads_per_layer": 0}
    found = selection(**changes)
    text = page_of(write_selection(tmp_path / "it's here", found))
    (tmp_path / "page.html").write_text(text)
    lines = [node.text() for node in read(tmp_path / "page.html").all("code")]
    lines += [node.text() for node in read(everything / "page.html").all("code")]
    parsed = [command_of(line) for line in lines]
    assert [one.command for one in parsed] == ["prune", "prune", "compare", "deploy", "benchmark"]
    assert method_config(parsed[0]) == found.config and parsed[0].output == "it's here"
    compared, deployed, measured = parsed[2:]
    assert (compared.methods, compared.heads, compared.seeds) == (["cahp", "obs", "random"], [24, 12], [0, 1, 2])
    assert compared.recover == ["none", "least-squares"]
    told = json.loads((everything / "deploy" / "cahp_deploy.json").read_text())
    config = CAHPConfig().to_dict() | told["pruning"]["config"]  # written before some settings came to be
    assert method_config(deployed).to_dict() == config and deployed.recover == "least-squares"
    assert deployed.sequence_length == [32, 128, 512] and measured.rounds == 60


def test_the_command_of_a_comparison_trains_gates_and_looks_for_the_knee_again(tmp_path):
    write_runs(tmp_path / "runs", ["cahp", "random"])
    before = read_folder(tmp_path / "runs")
    assert "--gate-epochs" not in commands(before)[0] and "--knee" not in commands(before)[0]
    setup = json.loads((tmp_path / "runs" / "setup.json").read_text())
    (tmp_path / "runs" / "setup.json").write_text(json.dumps(setup | {"gate_epochs": 2.5}))
    knee = KneeTable(48, (0, 1, 2), (KneeRow(4, (0.5,) * 3, (0.5,) * 3, {}),))
    (tmp_path / "runs" / "structure.json").write_text(json.dumps({"structure": [], "knee": knee.to_dict()}))
    (line,) = commands(read_folder(tmp_path / "runs"))
    found = command_of(line)
    assert found.gate_epochs == 2.5 and found.knee and found.methods == ["cahp", "random"]


@pytest.mark.parametrize(
    ("length", "measured", "given"),
    [
        (128, (32, 128, 512), [128, 32, 512]),
        (32, (32, 128, 512), [32, 128, 512]),
        (128, (32,), None),  # a model with 40 positions, where no length was given
        (64, (32, 128, 512), [64, 32, 128, 512]),
    ],
)
def test_the_command_of_a_deployment_gives_the_budget_and_the_lengths(length, measured, given, tmp_path):
    """``cahp deploy`` takes the first of the lengths for the budget, and 128 where none is given."""
    told = json.loads((EXAMPLES / "budget-deploy" / "cahp_deploy.json").read_text())
    told["pruning"]["plan"]["budget"]["sequence_length"] = length
    entries = told["latency"]["measurements"]
    told["latency"]["measurements"] = [entry for entry in entries if entry["sequence_length"] in measured]
    (tmp_path / "cahp_deploy.json").write_text(json.dumps(told))
    (line,) = commands(read_folder(tmp_path))
    found = command_of(line)
    assert found.sequence_length == given
    first = (found.sequence_length or [128])[0]
    assert budget_of(found, sequence_length=first, threads=found.threads) == Budget(macs=0.5, sequence_length=length)


def test_nothing_from_outside_becomes_markup(tmp_path):
    folder = tmp_path / BAD
    found = dataclasses.replace(selection(), note=BAD)
    write_selection(folder, found)
    width = found.salience.shape[1]
    entry = head_map_entry(found.kept.heads, width, version=BAD)
    values = {"cahp_config": entry, "architectures": [BAD], "_name_or_path": "<script>alert(1)</script>\x1b[31m"}
    (folder / "config.json").write_text(json.dumps(values))
    stage = {"name": BAD, "heads": 3, "parameters": 7, "accuracy": 0.5, "loss": 1.0}
    told = {"stages": [stage, stage], "seconds": {BAD: 1}, "versions": {BAD: BAD}, "reload_difference": None}
    (folder / "cahp_report.json").write_text(json.dumps(told | {"recovery": {"training_arguments": {BAD: BAD}}}))
    write_runs(tmp_path / "runs", ["cahp", BAD], recoveries=["none", BAD])
    copy_examples(tmp_path)
    latency = tmp_path / "latency" / "latency.json"
    latency.write_text(latency.read_text().replace('"dense"', json.dumps(BAD)))
    assert report([folder, tmp_path / "runs", tmp_path / "latency"], tmp_path / "page.html") == 0
    page = check_whole(tmp_path / "page.html")
    assert page.all("h1")[0].text().startswith(f"Report: {BAD}, runs")
    assert {"<script>alert(1)</script>\ufffd[31m", BAD} <= {cell.text() for cell in page.all("td")}
    assert BAD in cells(page, "Seconds by phase")[0]["phase"]
    assert "<script" not in (tmp_path / "page.html").read_text() and "<img" not in (tmp_path / "page.html").read_text()


def test_a_pruned_folder_gets_its_page(given, capsys):
    assert (
        main(prune_arguments(given, "--num-heads", "6", "--recover", "least-squares", "--calibration-examples", "50"))
        == 0
    )
    assert f"All in one page: {given / 'pruned' / 'report.html'}" in capsys.readouterr().out
    page = check_whole(given / "pruned" / "report.html")
    told = json.loads((given / "pruned" / "cahp_report.json").read_text())
    assert [line["accuracy"] for line in cells(page, "The model at each stage, on the evaluation set")] == [
        f"{100 * stage['accuracy']:.2f} % [{', '.join(f'{100 * end:.2f}' for end in stage['scores'][0]['interval'])}]"
        for stage in told["stages"]
    ]
    command = command_of(page.all("code")[0].text())
    assert (command.recover, command.calibration_examples, command.num_heads) == ("least-squares", 50, 6)
    assert dict((line["name"], line["value"]) for line in cells(page, "Model"))["architecture"].startswith("Bert")
    assert main(prune_arguments(given, "--num-heads", "6", "--epochs", "0", "--no-figures", output="plain")) == 0
    assert not (given / "plain" / "report.html").exists()
    # The same folder, told again: the same page.
    assert report([given / "pruned"], given / "again.html") == 0
    assert (given / "again.html").read_text() == (given / "pruned" / "report.html").read_text()
    # Without what the method left behind, the model's config alone still says which heads are there.
    for name in ("selection.json", "cahp_report.json"):
        (given / "pruned" / name).unlink()
    assert report([given / "pruned"], given / "bare.html") == 0
    bare = check_whole(given / "bare.html")
    assert figure(bare, "kept_heads").all("title")[0].text().startswith("6 of 12 heads stay")
    assert not bare.all("code")


def test_a_comparison_gets_its_page(given):
    arguments = ["compare", str(given / "model"), "--train", str(given / "train.jsonl"), "--test",
                 str(given / "eval.jsonl"), "-o", str(given / "runs"), "--methods", "cahp,random", "--heads", "6",
                 "--recover", "none", "--quiet"]  # fmt: skip
    assert main([*arguments, "--seeds", "0"]) == 0
    page = check_whole(given / "runs" / "report.html")
    assert all(line["accuracy"].endswith("(n=1)") for line in cells(page, "All methods, no recovery"))
    assert main([*arguments, "--seeds", "0", "1"]) == 0
    page = check_whole(given / "runs" / "report.html")
    assert all(line["accuracy"].endswith("(n=2)") for line in cells(page, "All methods, no recovery"))


@pytest.mark.parametrize(
    "changes",
    [
        {"clustering": "louvain", "num_neighbors": 3},
        {"num_heads": 5, "min_heads_per_layer": 0},
        {"layers": 1, "heads": 3},
        {"layers": 1, "heads": 2},
        {"absent": [(0, slice(None)), (1, 2)], "min_heads_per_layer": 0},
        {"layers": 30, "heads": 8},
    ],
)
def test_unusual_selections_are_drawn(changes, tmp_path):
    write_selection(tmp_path / "s", selection(**changes))
    assert report([tmp_path / "s"], tmp_path / "page.html") == 0
    page = check_whole(tmp_path / "page.html")
    legend = [node.text() for node in figure(page, "kept_heads").all("text")]
    assert ("removed before, 7" in legend) == ("absent" in changes)


@pytest.mark.parametrize("methods", [["random"], ["cahp"], ["obs", "random"], [f"way-{i}" for i in range(13)]])
def test_unusual_comparisons_are_drawn(methods, tmp_path):
    write_runs(tmp_path / "runs", methods, counts=[6], recoveries=["magic"], seeds=1)
    with open(tmp_path / "runs" / "runs.jsonl", "a") as file:
        file.write('{"method": "cut by a ki')
    assert report([tmp_path / "runs"], tmp_path / "page.html") == 0
    page = check_whole(tmp_path / "page.html")
    assert len(cells(page, "All methods, magic")) == len(methods)
    assert not [node for node in page.all("h3") if node.text().startswith("Difference")]


def test_two_folders_of_one_name(tmp_path):
    for name in ("a", "b"):
        write_selection(tmp_path / name / "pruned", selection())
    assert report([tmp_path / "a" / "pruned", tmp_path / "b" / "pruned"], tmp_path / "page.html") == 0
    check_whole(tmp_path / "page.html")
