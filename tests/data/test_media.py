"""Images and recordings, as files, bytes and decoded."""

import io

import numpy as np
import pytest
import soundfile
from datasets import Dataset
from PIL import Image

from cahp_plugin.data import as_dataset
from cahp_plugin.data.media import read_audio, read_image, unreadable
from cahp_plugin.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 255, (3, 5, 3)).astype(np.uint8)
SAMPLES = (0.5 * np.sin(np.arange(64) / 3)).astype(np.float32)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sound(samples, rate=16000):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def test_an_image_however_it_comes(tmp_path):
    picture = Image.fromarray(PIXELS)
    path = tmp_path / "bild [\u00e9].png"
    path.write_bytes(encoded(picture))
    stored = as_dataset([{"image": picture}])[0]["image"]  # as `datasets` has it
    for value in (picture, path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None},
                  {"bytes": None, "path": str(path)}, stored):  # fmt: skip
        found = read_image(value, "here")
        assert found.mode == "RGB" and np.array_equal(np.asarray(found), PIXELS)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA"])
def test_images_of_other_channels(mode):
    picture = Image.fromarray(PIXELS).convert(mode)
    data = encoded(picture, "TIFF" if mode == "CMYK" else "PNG")
    assert np.array_equal(np.asarray(read_image(data, "here")), np.asarray(picture.convert("RGB")))


def test_images_are_turned_as_their_camera_has_it():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    found = np.asarray(read_image(encoded(Image.fromarray(PIXELS), exif=exif), "here"))
    assert np.array_equal(found, np.rot90(PIXELS, -1))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no image", "here: the image can't be read"),
        (encoded(Image.fromarray(PIXELS))[:70], "here: the image can't be read"),
        (None, "here: expected a path, bytes or what is decoded from them; got NoneType"),
        ([[0, 1]], "got list"),
        ({"bytes": None, "path": None}, "got NoneType"),
        ("missing.png", "here: there is no file missing.png"),
        (
            "https://example.org/a.png",
            "here: https://example.org/a.png is an address; nothing is fetched. Download it",
        ),
    ],
)
def test_no_image(value, message):
    with pytest.raises(DataError) as caught:
        read_image(value, "here")
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_what_is_cut_off_is_found_before_any_work(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    whole = encoded(noise, kind)
    rows = [{"bytes": whole, "path": None}, {"bytes": whole[: len(whole) // 2], "path": "a.x"}]
    found = unreadable(Dataset.from_list([{"img": row} for row in rows]), "img")
    assert len(found) == 1 and found[0].startswith("Column 'img', row 1: the image a.x can't be read")


def test_a_recording_however_it_comes(tmp_path):
    path = tmp_path / "ton [\u00e9].wav"
    path.write_bytes(sound(SAMPLES))
    for value in ({"array": SAMPLES, "sampling_rate": 16000}, {"array": SAMPLES.tolist(), "sampling_rate": 16000},
                  path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None},
                  {"bytes": None, "path": str(path)}):  # fmt: skip
        found = read_audio(value, 16000, "here")
        assert found.dtype == np.float32 and found == pytest.approx(SAMPLES, abs=1e-6)


def test_channels_are_averaged():
    both = np.stack([SAMPLES, -SAMPLES / 2])
    for value in (sound(both.T), {"array": both, "sampling_rate": 16000}, {"array": both.T, "sampling_rate": 16000}):
        assert read_audio(value, 16000, "here") == pytest.approx(SAMPLES / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"no recording", "here: the recording can't be read"),
        (sound(SAMPLES, 8000), "here: the recording has 8000 samples a second; the model takes 16000. Resample it"),
        (sound(SAMPLES[:0]), "here: the recording is empty"),
        ({"array": [np.nan, 1], "sampling_rate": 16000}, "holds what is no number"),
        ({"array": [0.5]}, "here: expected numbers as `array` and a `sampling_rate`; got KeyError"),
        ({"array": ["x"], "sampling_rate": 16000}, "here: expected numbers as `array`"),
        (None, "here: expected a path, bytes or what is decoded from them; got NoneType"),
        ("missing.wav", "here: there is no file missing.wav"),
        ("http://example.org/a.wav", "is an address; nothing is fetched"),
    ],
)
def test_no_recording(value, message):
    with pytest.raises(DataError) as caught:
        read_audio(value, 16000, "here")
    assert message in str(caught.value)
