"""Output folders: nothing that is read is deleted, and a result is whole or not there."""

import json
import os
import sys
from pathlib import Path

import pytest
from commands import prune_arguments
from datasets import Dataset, load_from_disk
from tiny import tiny_model
from words import tiny_tokenizer, word_examples

from cahp_plugin import CAHPConfig, load_pruned, prune_model, save_pruned
from cahp_plugin.cli import main
from cahp_plugin.data import load_examples
from cahp_plugin.errors import CheckpointError, UnsupportedModelError
from cahp_plugin.prune.folders import check_output_directory, replaced_folder
from cahp_plugin.recover import RecoverySettings
from cahp_plugin.tasks.processors import load_processor


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def arranged(given, place):
    """The fixture's model and data, one of them moved to a place; their paths by name."""
    paths = {"model": given / "model", "train": given / "train.jsonl", "eval": given / "eval.jsonl"}
    name, target = place
    (given / "out").mkdir()
    (given / "out" / "old").write_text("old")
    target = given / target
    target.parent.mkdir(parents=True, exist_ok=True)
    if str(target) != str(given / "out"):
        paths[name].rename(target)
    else:  # the output folder is the model's
        (given / "out" / "old").unlink()
        (given / "out").rmdir()
        paths[name].rename(target)
    return paths | {name: target}


PLACES = [("train", "out/train.jsonl"), ("eval", "out/data/deep/eval.jsonl"), ("model", "out/model"), ("model", "out")]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["plain", "overwrite"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: "-".join(place))
@pytest.mark.parametrize("command", ["prune", "deploy", "export", "demo", "benchmark"])
def test_an_output_folder_with_inputs_in_it_is_refused(command, place, overwrite, given, capsys):
    if command in ("export", "benchmark"):
        pytest.importorskip("onnxruntime")
        if (command, place[0]) in (("export", "train"), ("benchmark", "train"), ("benchmark", "eval")):
            pytest.skip("does not read it")
    paths = arranged(given, place)
    out, before = given / "out", content(given)
    data = ["--train", str(paths["train"]), "--eval", str(paths["eval"]), "-o", str(out), *overwrite, "--quiet"]
    lines = {
        "prune": ["prune", str(paths["model"]), *data],
        "deploy": ["deploy", str(paths["model"]), *data],
        "demo": ["demo", "--model", str(paths["model"]), *data],
        "export": ["export", "-m", str(paths["model"]), *data[2:]],
        "benchmark": ["benchmark", str(paths["model"]), *data[4:]],
    }
    assert main(lines[command]) == 1
    told = capsys.readouterr().err
    what = "is what is read here" if place[1] == "out" else f"holds {paths[place[0]]}: what is read here"
    assert f"{out} {what}, and would be deleted" in told and "--overwrite" not in told
    assert content(given) == before


def test_links_and_other_spellings_do_not_help(given, monkeypatch):
    out = given / "out"
    out.mkdir()
    (given / "train.jsonl").rename(out / "train.jsonl")
    (given / "link").symlink_to(out)
    (given / "elsewhere.jsonl").write_text("{}")
    (out / "linked.jsonl").symlink_to(given / "elsewhere.jsonl")  # the link would go
    monkeypatch.chdir(given)
    for folder, entry in (
        ("link", out / "train.jsonl"),
        (out, "link/train.jsonl"),
        ("./model/../out", "out/train.jsonl"),
        ("out", out / "linked.jsonl"),
        ("out/", "out"),
    ):
        with pytest.raises(CheckpointError, match="what is read here"):
            check_output_directory(folder, overwrite=True, inputs=[entry])
    (out / "linked.jsonl").unlink()
    check_output_directory("out", overwrite=True, inputs=["model", "elsewhere.jsonl", "some/hub-id", None])
    check_output_directory("new", overwrite=True, inputs=["new"])
    (given / "outer").mkdir()  # a name that only begins the same
    (given / "outer" / "train.jsonl").write_text("")
    check_output_directory("out", overwrite=True, inputs=["outer/train.jsonl"])


def test_python_knows_what_models_and_data_were_read_from(given):
    out = given / "out"
    Dataset.from_list(word_examples(60)).save_to_disk(out / "data")
    data = load_from_disk(out / "data")
    model, tokenizer = load_pruned(given / "model"), load_processor(str(given / "model"))
    settings = {"recovery": RecoverySettings(method="none"), "overwrite": True, "figures": False}
    with pytest.raises(CheckpointError, match=r"out holds .*\.arrow: what is read here"):
        prune_model(model, tokenizer, data, data, CAHPConfig(num_heads=6), output_dir=out, **settings)
    with pytest.raises(CheckpointError, match=r"model is what is read here"):
        prune_model(model, tokenizer, data, data, CAHPConfig(num_heads=6), output_dir=given / "model", **settings)
    assert load_pruned(given / "model").num_parameters() == model.num_parameters()


def test_optimums_pruner_refuses_too(given):
    pruner = pytest.importorskip("optimum.cahp").HeadPruner.from_pretrained(given / "model")
    (given / "out").mkdir()
    (given / "train.jsonl").rename(given / "out" / "train.jsonl")
    with pytest.raises(CheckpointError, match=r"out holds .*train.jsonl: what is read here"):
        pruner.prune(save_dir=given / "out", dataset=given / "out" / "train.jsonl", overwrite=True)
    assert (given / "out" / "train.jsonl").exists()


def test_a_report_replaces_pages_only(given, capsys):
    main(prune_arguments(given, "--num-heads", "6", "--epochs", "0", "--no-figures"))
    for name in ("train.jsonl", "pruned/selection.json", "pruned/config.json"):
        before = (given / name).read_bytes()
        capsys.readouterr()
        assert main(["report", str(given / "pruned"), "-o", str(given / name), "--overwrite"]) == 1
        assert "is no HTML page" in capsys.readouterr().err and (given / name).read_bytes() == before
    for _ in range(2):
        assert main(["report", str(given / "pruned"), "-o", str(given / "page.html"), "--overwrite"]) == 0


class Watcher:
    """Looks at a folder whenever this process is about to change something on the disk.

    What it sees is what a kill at that moment would leave.
    """

    def __init__(self, folder):
        self.folder, self.seen, self.looking = folder, set(), True
        sys.addaudithook(self.hook)  # for good: there is no way to take one off

    def hook(self, event, arguments):
        if not self.looking or not self.changes(event, arguments):
            return
        self.looking = False
        try:
            self.seen.add(self.state())
        finally:
            self.looking = True

    @staticmethod
    def changes(event, arguments):
        if event == "open":
            return isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        return event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link")

    def state(self):
        if not self.folder.exists():
            return None
        return frozenset(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.looking = False


WHOLE = {
    "README.md", "cahp_report.json", "config.json", "figures/mss_curve.png", "model.safetensors", "report.html",
    "selection.json", "tokenizer.json",
}  # fmt: skip


@pytest.mark.parametrize("before", ["nothing", "an older result"])
def test_a_pruned_model_appears_whole(before, given, capsys):
    if before == "an older result":
        assert main(prune_arguments(given, "--num-heads", "9", "--epochs", "0")) == 0
    with Watcher(given / "pruned") as watcher:
        assert main(prune_arguments(given, "--num-heads", "6", "--epochs", "1", "--overwrite")) == 0
        last = watcher.state()
    assert last >= WHOLE and "figures/kept_heads.png" in last
    assert watcher.seen <= {None, last}  # both results have the same files; None: between two renames
    assert {path.name for path in given.iterdir()} == {"model", "train.jsonl", "eval.jsonl", "pruned"}
    page = (given / "pruned" / "report.html").read_text()
    assert "Report: pruned" in page and ".partial" not in page and ".partial" not in capsys.readouterr().out
    assert ".partial" not in (given / "pruned" / "README.md").read_text()


def test_so_do_the_other_results(given):
    pytest.importorskip("onnxruntime")
    data = ["--train", str(given / "train.jsonl"), "--eval", str(given / "eval.jsonl")]
    short = ["--sequence-length", "4", "--rounds", "2", "--warmup", "0", "--no-memory"]
    for name, line in {
        "exported": ["export", "-m", str(given / "model"), "--quantize", "dynamic"],
        "timed": ["benchmark", str(given / "model"), *short],
        "deployed": ["deploy", str(given / "model"), *data, "--num-heads", "6", "--epochs", "0", *short],
    }.items():
        with Watcher(given / name) as watcher:
            assert main([*line, "-o", str(given / name), "--quiet"]) == 0
            last = watcher.state()
        assert last and watcher.seen == {None}, name
    assert last >= {f"pruned/{name}" for name in WHOLE}


def test_a_page_that_fails_costs_no_model(given, monkeypatch, caplog):
    from cahp_plugin.workflow import prune as workflow

    monkeypatch.setattr(workflow, "write_folder_page", lambda *given, **named: 1 / 0)
    assert main(prune_arguments(given, "--num-heads", "6", "--epochs", "0")) == 0
    assert load_pruned(given / "pruned").config.cahp_config and not (given / "pruned" / "report.html").exists()


def test_figures_that_fail_do_so_before_the_training(given, monkeypatch):
    from cahp_plugin.workflow import prune as workflow

    def fail(*arguments, **settings):
        raise AssertionError("trained for hours")

    monkeypatch.setattr(workflow, "save_figures", lambda *arguments: 1 / 0)
    monkeypatch.setattr(workflow, "train_again", fail)
    with pytest.raises(ZeroDivisionError):
        main(prune_arguments(given, "--num-heads", "6"))
    assert {path.name for path in given.iterdir()} == {"model", "train.jsonl", "eval.jsonl"}


def test_a_folder_that_another_process_filled_meanwhile_is_kept(tmp_path):
    out = tmp_path / "a"
    told = rf"{out} is not empty.* The result is in {out}-1\."
    with pytest.raises(CheckpointError, match=told), replaced_folder(out) as partial:
        (partial / "mine").write_text("x")
        out.mkdir()
        (out / "theirs").write_text("y")
    assert (out / "theirs").exists() and (tmp_path / "a-1" / "mine").exists()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("words", [b"my own words", b"\xff\xfe no UTF-8"])
def test_what_was_written_by_hand_in_a_card_stays(words, given):
    arguments = prune_arguments(given, "--num-heads", "6", "--epochs", "0", "--no-figures", "--overwrite")
    assert main(arguments) == 0
    (given / "pruned" / "README.md").write_bytes(words)
    assert main(arguments) == 0
    assert (given / "pruned" / "README.md").read_bytes() == words


def test_a_model_may_be_saved_over_its_own_checkpoint_and_not_over_what_holds_it(tmp_path):
    save_pruned(tiny_model(), tmp_path / "out" / "base", tokenizer=tiny_tokenizer())
    save_pruned(load_pruned(tmp_path / "out" / "base"), tmp_path / "out" / "base", overwrite=True)
    with pytest.raises(CheckpointError, match="base: what is read here"):
        save_pruned(load_pruned(tmp_path / "out" / "base"), tmp_path / "out", overwrite=True)
    assert json.loads(Path(tmp_path, "out", "base", "config.json").read_text())["model_type"] == "bert"


def test_data_that_was_loaded_from_a_file_is_known(given):
    (given / "out").mkdir()
    (given / "train.jsonl").rename(given / "out" / "train.jsonl")
    train, model = load_examples(str(given / "out" / "train.jsonl")), load_pruned(given / "model")
    with pytest.raises(CheckpointError, match=r"out holds .*train.jsonl: what is read here"):
        prune_model(model, tiny_tokenizer(), train, train, output_dir=given / "out", overwrite=True)


def test_a_model_whose_files_are_links_into_the_output(given, capsys):
    (given / "out").mkdir()
    (given / "model" / "model.safetensors").rename(given / "out" / "model.safetensors")
    (given / "model" / "model.safetensors").symlink_to(given / "out" / "model.safetensors")
    assert main(prune_arguments(given, "--overwrite", output="out")) == 1
    assert "what is read here" in capsys.readouterr().err and (given / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("place", [".", "..", "../here"])
def test_the_current_folder_is_not_replaced(place, given, monkeypatch):
    (given / "here").mkdir()
    (given / "here" / "thesis").write_text("mine")
    monkeypatch.chdir(given / "here")
    with pytest.raises(CheckpointError, match="is or holds the current folder"):
        check_output_directory(place, overwrite=True)


@pytest.mark.parametrize("place", ["eval.jsonl/x", "x" * 300, "eval.jsonl"])
@pytest.mark.parametrize("command", ["prune", "benchmark", "export"])
def test_places_that_can_not_be_are_told_before_the_work(place, command, given, capsys):
    pytest.importorskip("onnxruntime")
    (given / "model" / "model.safetensors").unlink()  # the work would begin with it
    lines = {
        "prune": prune_arguments(given, output=place),
        "benchmark": ["benchmark", str(given / "model"), "-o", str(given / place)],
        "export": ["export", "-m", str(given / "model"), "-o", str(given / place)],
    }
    assert main(lines[command]) == 1
    told = capsys.readouterr().err
    assert "can't be written" in told or "is a file" in told


def test_long_names_and_links_are_written(tmp_path):
    save_pruned(tiny_model(), tmp_path / ("n" * 250))
    (tmp_path / "link").symlink_to(tmp_path / "target")  # of a folder that is not there yet
    for overwrite in (False, True):
        save_pruned(tiny_model(), tmp_path / "link", overwrite=overwrite)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "target" / "config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "n" * 250, "target"]


def test_mount_points_are_told_before_the_work(given, capsys, monkeypatch):
    (given / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == given / "volume")
    assert main(prune_arguments(given, output="volume")) == 1
    assert "is a mount point" in capsys.readouterr().err
    check_output_directory(given / "volume" / "inside")


def test_a_copy_that_differs_is_told_and_kept(given, monkeypatch, capsys):
    from cahp_plugin.workflow import steps

    monkeypatch.setattr(steps, "_TOLERANCE", -1.0)  # no copy is good enough
    assert main(prune_arguments(given, "--num-heads", "6", "--epochs", "0", "--no-figures")) == 1
    assert f"It is in {given / 'pruned'}-1." in capsys.readouterr().err
    assert load_pruned(given / "pruned-1").config.cahp_config and not (given / "pruned").exists()


def test_classes_that_would_not_load_again_are_told_before_the_work(given):
    class Mine(type(tiny_model())):
        pass

    model = tiny_model()
    model.__class__ = Mine
    data = Dataset.from_list(word_examples(30))
    with pytest.raises(UnsupportedModelError, match="Mine is no class of transformers"):
        prune_model(model, tiny_tokenizer(), data, data, output_dir=given / "out")
