import gc
import glob
import logging
import os
import tempfile

import numpy as np
import pandas
import psutil
import pytest
from datasets import Audio, Dataset, DatasetDict, Features, Image, IterableDataset, Value
from PIL import Image as Pillow

from cahp_plugin.data import as_dataset
from cahp_plugin.errors import DataError

ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(2500)]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def folders():
    gc.collect()
    return glob.glob(f"{tempfile.gettempdir()}/cahp-stream-*")


def stream(rows):
    yield from rows


def test_data_sets_stay_and_their_media_are_not_decoded():
    data = Dataset.from_list(ROWS)
    assert as_dataset(data) is data
    images = Dataset.from_dict({"image": ["/no/such.png"]}).cast_column("image", Image())
    assert as_dataset(images)[0]["image"] == {"bytes": None, "path": "/no/such.png"}


def test_lists():
    assert as_dataset(["a", "b"]).to_list() == [{"text": "a"}, {"text": "b"}]
    assert as_dataset(ROWS).to_list() == ROWS
    later = as_dataset([{"text": "a"}, {"text": float("nan"), "label": 1}, {"text": None, "label": 0}])
    assert later["text"][:] == ["a", None, None] and later["label"][:] == [None, 1, 0]
    assert not folders()


@pytest.mark.parametrize(
    "make",
    [
        lambda: stream(ROWS),
        lambda: Dataset.from_list(ROWS).to_iterable_dataset(),
        lambda: IterableDataset.from_generator(stream, gen_kwargs={"rows": ROWS}),
        lambda: {"train": Dataset.from_list(ROWS).to_iterable_dataset()},
    ],
)
def test_streams_lie_in_a_folder_that_goes_with_them(make, caplog):
    with caplog.at_level(logging.INFO, "cahp_plugin"):
        data = as_dataset(make())
    assert data.to_list() == ROWS and len(folders()) == 1
    renamed = data.rename_column("text", "sentence")
    part = data.select(range(10))
    del data
    assert len(folders()) == 1  # the renamed data set needs it
    del renamed
    assert not folders()
    assert part.to_list() == ROWS[:10]


def test_what_a_stream_learns_later():
    rows = [{"text": None, "score": 1}] * 1000 + [{"text": "a", "score": 2}] * 1000 + [{"score": 0.5, "new": [1]}] * 5
    data = as_dataset(stream(rows))
    assert data[0] == {"text": None, "score": 1.0, "new": None}
    assert data[1500] == {"text": "a", "score": 2.0, "new": None}
    assert data[2004] == {"text": None, "score": 0.5, "new": [1]}
    assert len(data) == 2005
    with pytest.raises(DataError, match="Rows 1000 to 1000 of the stream do not fit together"):
        as_dataset(stream([*[{"text": "a"}] * 1000, {"text": 1}]))
    assert len(folders()) == 1


def test_streams_of_images():
    images = [Pillow.fromarray(np.full((2, 2, 3), i, np.uint8)) for i in range(3)]
    data = as_dataset(stream({"image": image} for image in images))
    assert data.features["image"].decode is False and data[2]["image"]["bytes"].startswith(b"\x89PNG")
    features = Features({"image": Image(), "text": Value("string")})
    broken = IterableDataset.from_generator(
        stream, gen_kwargs={"rows": [{"image": {"bytes": b"no", "path": None}, "text": "x"}]}, features=features
    )
    assert as_dataset(broken)[0]["image"]["bytes"] == b"no"


def test_streams_of_recordings():
    features = Features({"audio": Audio(), "text": Value("string")})
    rows = [{"audio": {"bytes": b"x", "path": None}, "text": "a"}] * 2
    made = IterableDataset.from_generator(stream, gen_kwargs={"rows": rows}, features=features)
    saved = Dataset.from_list(rows).cast_column("audio", Audio()).to_iterable_dataset()
    for data in map(as_dataset, (made, saved)):
        assert data.features["audio"].decode is False and data.to_list() == rows


def test_errors_of_a_stream_leave_no_folder():
    def failing():
        yield ROWS[0]
        raise OSError("cut off")

    with pytest.raises(OSError, match="cut off"):
        as_dataset(failing())
    assert not folders()


def test_memory_does_not_grow_with_a_stream():
    used = []

    def rows():
        for i in range(400_000):  # 100 MB
            if i % 10_000 == 0:
                used.append(psutil.Process().memory_info().rss)
            yield {"text": f"{i:0250d}", "label": i % 2}

    data = as_dataset(rows())
    assert os.path.getsize(data.cache_files[0]["filename"]) > 100e6
    assert max(used[10:]) - used[10] < 25e6


def test_splits():
    data = DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1]))
    assert as_dataset({"test": data["test"]}).to_list() == ROWS[:1]
    with pytest.raises(DataError, match="has the splits train, test; none was named"):
        as_dataset(data)


@pytest.mark.parametrize("nothing", [[], (), {}, iter([]), DatasetDict(), Dataset.from_list([])])
def test_nothing(nothing):
    with pytest.raises(DataError, match="empty"):
        as_dataset(nothing)
    assert not folders()


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (3, "int"),
        (b"text", "bytes"),
        (None, "NoneType"),
        ({"text": ["a"]}, "dict"),
        (pandas.DataFrame({"text": ["a"]}), "DataFrame"),
        (np.zeros((2, 2)), "ndarray"),
        (["a", 3], "int"),
        ([["a"]], "list"),
    ],
)
def test_anything_else_is_named(other, name):
    with pytest.raises(DataError, match=rf"(?s)\b{name}\b.*expected a `datasets.Dataset`"):
        as_dataset(other)
    assert not folders()
