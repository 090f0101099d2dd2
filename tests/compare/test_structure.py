import json

import pytest
from comparing import compare, made_up

from cahp_plugin import CAHPConfig
from cahp_plugin.compare.structure import head_places, jaccard, places_table
from cahp_plugin.compare.summary import Comparison


def run(method, seed, kept, recover="least-squares"):
    count = sum(map(len, kept))
    made = made_up(method, seed, [True])
    values = {"num_heads": count, "recover": recover, "kept": {str(i): heads for i, heads in enumerate(kept)}}
    return made.__class__(**{**made.__dict__, **values})


def test_places_by_hand():
    one = [[0, 1], [], [2], [3], [], [0, 1]]  # thirds: 2, 2, 2 of 6
    other = [[0], [], [2], [3], [5], [0, 4]]  # 1, 2, 3; shares 0.0 2.2 3.3 5.0 with the first
    again = [[0, 1], [], [2], [3], [], [0, 1]]
    runs = [run("a", 0, one), run("a", 0, one, "none"), run("a", 1, other), run("a", 2, again), run("b", 0, other)]
    runs.append(run("dense", 0, one))
    first, second = head_places(runs)
    assert (first.method, first.num_heads, first.num_seeds) == ("a", 6, 3)
    assert first.per_layer == pytest.approx((5 / 3, 0, 1, 1, 1 / 3, 2))
    assert first.middle == pytest.approx(2 / 6)
    assert first.last == pytest.approx((2 + 3 + 2) / 18)
    assert first.overlap == pytest.approx((4 / 8 + 1 + 4 / 8) / 3)
    assert second.method == "b" and second.overlap is None and second.last == pytest.approx(0.5)


def test_thirds_of_layers_that_do_not_divide():
    # Five layers: 0 1 | 2 3 | 4
    (found,) = head_places([run("a", 0, [[0], [0], [0], [0, 1], [0, 1, 2]])])
    assert (found.middle, found.last) == pytest.approx((3 / 8, 3 / 8))
    (nothing,) = head_places([run("a", 0, [[], [], []])])
    assert (nothing.middle, nothing.last) == (0, 0)


def test_jaccard():
    assert jaccard({(0, 1), (1, 2)}, {(0, 1), (2, 2), (2, 3)}) == 1 / 4
    assert jaccard(set(), set()) == 1


def test_more_heads_come_first_and_the_table_shows_percent():
    places = head_places([run("a", 0, [[0], [1], []]), run("a", 0, [[0, 1], [1], [2]]), run("a", 1, [[0], [1], []])])
    assert [place.num_heads for place in places] == [4, 2]
    text = places_table(places)
    assert "2 1 1" in text and text.splitlines()[-1].split()[-1] == "100"


def test_a_comparison_writes_where_its_heads_are(tmp_path):
    config = CAHPConfig(signature_size=4)
    found = compare(tmp_path / "runs", config=config, knee=True)
    written = json.loads((tmp_path / "runs" / "structure.json").read_text())
    assert written["structure"] == json.loads(json.dumps(found.to_dict()["structure"]))
    assert written["knee"] == json.loads(json.dumps(found.knee.to_dict()))
    assert "paper, BERT-base" in str(found) and "kept in each layer" in str(found)
    # A call that does not ask for the knee leaves it there, and one that does reads it.
    assert compare(tmp_path / "runs", config=config).knee is None
    assert json.loads((tmp_path / "runs" / "structure.json").read_text())["knee"] == written["knee"]
    assert compare(tmp_path / "runs", config=config, knee=True).knee == found.knee
    # A call for other runs leaves the places of the earlier ones.
    compare(tmp_path / "runs", config=config, methods=["magnitude"])
    again = json.loads((tmp_path / "runs" / "structure.json").read_text())["structure"]
    assert {place["method"] for place in again} == {"cahp", "random", "magnitude"}
    assert Comparison.read(tmp_path / "runs").knee == found.knee
