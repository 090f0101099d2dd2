import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel, Image
from PIL import Image as Pillow

from cahp_plugin.data import load_examples
from cahp_plugin.errors import DataError


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Pillow.new("RGB", (2, 2)).save(path)
        elif path.suffix == ".wav":
            soundfile.write(path, np.zeros(8, np.float32), 16000)
        else:
            path.write_text("x")
    return str(root)


def paths(dataset, column="image"):
    return [value["path"] for value in dataset[column]]


@pytest.mark.parametrize("root", ["images", "a [1] b", "t::1", "na\u00efve *", "test"])
def test_class_folders(root, tmp_path):
    root = tmp_path / root
    source = make(root, "cat/1 x.png", "cat/2 test.PNG.png", "dog [1]/\u00fc.png", ".DS_Store", "cat/Thumbs.db",
                  "cat/._1.png", "README.txt", "__MACOSX/cat/1.png")  # fmt: skip
    data = load_examples(source)
    assert paths(data) == [f"{root}/cat/1 x.png", f"{root}/cat/2 test.PNG.png", f"{root}/dog [1]/\u00fc.png"]
    assert data.features == {"image": Image(decode=False), "label": ClassLabel(names=["cat", "dog [1]"])}
    assert data["label"][:] == [0, 0, 1]
    assert data.source_path == source


def test_recordings_by_class(tmp_path):
    data = load_examples(make(tmp_path, "no/1.wav", "yes/1.wav"))
    assert data.features == {"audio": Audio(decode=False), "label": ClassLabel(names=["no", "yes"])}


def test_splits_have_the_same_classes(tmp_path):
    source = make(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/dog/1.png")
    data = load_examples(source, "validation")
    assert paths(data) == [f"{source}/val/dog/1.png"] and data["label"][:] == [1]
    assert data.features["label"].names == ["cat", "dog"] and data.source_path == source
    with pytest.raises(DataError, match="splits train, validation; none was named"):
        load_examples(source)


def test_one_class_and_none(tmp_path):
    assert load_examples(make(tmp_path / "a", "cat/1.png"))["label"][:] == [0]
    assert load_examples(make(tmp_path / "b", "1.png")).column_names == ["image"]


def test_links(tmp_path, monkeypatch):
    make(tmp_path / "store", "1.png")
    root = tmp_path / "images"
    make(root, "dog/1.png")
    os.symlink(tmp_path / "store", root / "cat")
    os.symlink(root, root / "dog" / "around")
    os.symlink(tmp_path / "gone.png", root / "dog" / "2.png")
    monkeypatch.chdir(tmp_path)
    found = [f"{root}/cat/1.png", f"{root}/dog/1.png", f"{root}/dog/2.png"]  # the broken link is found when it is read
    assert paths(load_examples("images")) == found


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_metadata(ending, tmp_path, caplog):
    source = make(tmp_path / "[a]", "x/1.wav", "2.wav", "3.wav")
    rows = [{"file_name": "x/1.wav", "text": "one"}, {"file_name": "2.wav", "text": None}]
    text = "file_name,text\nx/1.wav,one\n2.wav,\n" if ending == "csv" else "\n".join(map(json.dumps, rows))
    Path(source, f"metadata.{ending}").write_text(text)
    with caplog.at_level(logging.WARNING, "cahp_plugin"):
        data = load_examples(source)
    assert data.features["audio"] == Audio(decode=False) and data["text"][:] == ["one", None]
    assert paths(data, "audio") == [f"{source}/x/1.wav", f"{source}/2.wav"]
    assert data.source_path == source


def test_metadata_of_splits(tmp_path):
    source = make(tmp_path / "a", "train/1.png", "test/1.png")
    for split in ("train", "test"):
        (tmp_path / "a" / split / "metadata.csv").write_text(f"file_name,label\n1.png,{split}\n")
    assert load_examples(source, "test").to_list() == [
        {"image": {"bytes": None, "path": f"{source}/test/1.png"}, "label": "test"}
    ]
    above = make(tmp_path / "b", "train/1.png", "test/1.png")
    Path(above, "metadata.csv").write_text("file_name,label\ntrain/1.png,x\ntest/1.png,y\n")
    assert load_examples(above, "test")["label"][:] == ["y"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no images .*png.* or recordings .*wav.*It is empty"),
        (["notes.txt", "b.xlsx"], "It holds b.xlsx, notes.txt"),
        (["cat/1.png", "dog/1.wav"], "a folder of one kind"),
        (["cat/1.png", "logo.png"], "logo.png and cat/1.png do not lie equally deep"),
        (["train/cat/1.png", "extra/cat/1.png"], "has the folders extra, train; splits are named"),
        (["cat/metadata.csv", "cat/1.png"], "cat/metadata.csv must lie in"),
        (["train/metadata.csv", "train/1.png", "test/1.png"], "no metadata file; expected one of"),
        (["metadata.csv", "1.png"], "no column `file_name`; its columns are x|is empty"),
    ],
)
def test_layouts_that_are_not_clear(names, message, tmp_path):
    with pytest.raises(DataError, match=f"(?s){message}"):
        load_examples(make(tmp_path, *names))


@pytest.mark.parametrize("name", ["", "https://example.org/1.png"])
def test_metadata_without_a_path(name, tmp_path):
    source = make(tmp_path, "1.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "label": 1}))
    with pytest.raises(DataError, match="column 'file_name', row 0: expected the path of a file"):
        load_examples(source)
