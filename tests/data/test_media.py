import io
import sys

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from PIL import Image

from cahp_plugin.data.media import read_audio, read_image, unreadable
from cahp_plugin.errors import DataError, MissingDependencyError

WHERE = "Column 'image', row 3"


def png(size=(3, 2), mode="RGB", **options):
    file = io.BytesIO()
    image = Image.new(mode, size)
    image.putpixel((0, 0), 255 if mode == "L" else (255, 0, 0))
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_images_of_every_kind(tmp_path):
    path = tmp_path / "a \u00fc.png"
    path.write_bytes(png())
    kinds = (str(path), path, png(), bytearray(png()), {"bytes": png(), "path": "x"},
             {"bytes": None, "path": str(path)}, Image.open(path))  # fmt: skip
    for value in kinds:
        image = read_image(value, WHERE)
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (255, 0, 0))
    assert read_image(png(mode="L"), WHERE).getpixel((0, 0)) == (255, 255, 255)


def test_images_are_turned_as_the_camera_has_it():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = read_image(png(exif=exif), WHERE)
    assert image.size == (2, 3) and image.getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/no/such.png", "there is no file /no/such.png"),
        ("https://example.org/a.png", "Download it first"),
        ({"bytes": None, "path": "http://example.org/a.png"}, "Download it first"),
        (b"no image", "can't be read"),
        (png()[:-30], "can't be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "can't be read"),
        (None, "got NoneType"),
        ({"bytes": None, "path": None}, "got NoneType"),
        (3, "got int"),
    ],
)
def test_images_that_cannot_be_read(value, message):
    with pytest.raises(DataError, match=f"^{WHERE}: .*{message}"):
        read_image(value, WHERE)


def test_bombs(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(DataError, match="bomb"):
        read_image(png((10, 10)), WHERE)


def test_unreadable_images_are_listed(tmp_path):
    (tmp_path / "cut.png").write_bytes(png((50, 50))[:-30])
    rows = [{"bytes": png(), "path": None}, {"bytes": None, "path": str(tmp_path / "cut.png")},
            {"bytes": None, "path": "/no/such.png"}, {"bytes": b"text", "path": None}]  # fmt: skip
    found = unreadable(Dataset.from_dict({"image": rows}), "image")
    assert [message.split(":")[0] for message in found] == [f"Column 'image', row {row}" for row in (1, 2, 3)]
    assert "cut.png" in found[0] and "such.png" in found[1]


def test_recordings_of_every_kind(tmp_path):
    samples = np.linspace(-0.5, 0.5, 100, dtype=np.float32)
    path = tmp_path / "a \u00fc.wav"
    soundfile.write(path, np.stack([samples, samples * 0], axis=1), 16000, subtype="FLOAT")
    data = path.read_bytes()
    for value in (str(path), path, data, {"bytes": data, "path": "x"}, {"bytes": None, "path": str(path)}):
        found = read_audio(value, 16000, WHERE)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, samples / 2)
    whole = (samples * 32768).astype(np.int16)
    for array in (samples, samples.tolist(), np.stack([samples, samples]), whole):
        found = read_audio({"array": array, "sampling_rate": 16000}, 16000, WHERE)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, samples, atol=1e-4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"array": [0.0], "sampling_rate": 8000}, r"8000 samples a second; .* 16000.*Audio\(sampling_rate=16000\)"),
        ({"array": [], "sampling_rate": 16000}, "is empty"),
        ({"array": [float("nan")], "sampling_rate": 16000}, "no number"),
        ({"array": [1, 2], "sampling_rate": 16000}, "of type int64"),
        ("/no/such.wav", "there is no file"),
        ("https://example.org/a.wav", "Download it first"),
        (b"no recording", "can't be read"),
        (None, "got NoneType"),
    ],
)
def test_recordings_that_cannot_be_read(value, message):
    with pytest.raises(DataError, match=f"^{WHERE}: .*{message}"):
        read_audio(value, 16000, WHERE)


def test_a_recording_without_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16000)
    with pytest.raises(DataError, match=r"a\.wav is empty"):
        read_audio(tmp_path / "a.wav", 16000, WHERE)


def test_without_soundfile(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingDependencyError, match=r"cahp-plugin\[audio\]"):
        read_audio(b"", 16000, WHERE)
