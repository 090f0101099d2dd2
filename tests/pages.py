"""Folders that the page is made from, and a reader of the page, for its tests."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from selecting import made_up

from cahp_plugin import CAHPConfig
from cahp_plugin.cli import main
from cahp_plugin.compare.packing import pack
from cahp_plugin.compare.runs import Run
from cahp_plugin.selectors.cahp.representatives import select
from cahp_plugin.tasks.metrics import Score

EXAMPLES = Path(__file__).parents[1] / "examples" / "results"
VOID = {"meta", "br", "hr"}


class Node:
    """An element: name, attributes, children, and all text below it."""

    def __init__(self, name, attributes):
        self.name, self.attributes, self.children = name, attributes, []

    def all(self, name, /, **attributes):
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if child.name == name and all(child.attributes.get(key) == value for key, value in attributes.items()):
                    found.append(child)
                found += child.all(name, **attributes)
        return found

    def text(self):
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)


class Reader(HTMLParser):
    """Builds a tree; an element that is closed out of turn, or never, is an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], [node.name for node in self.open]

    def handle_starttag(self, name, attributes):
        node = Node(name, dict(attributes))
        assert len(node.attributes) == len(attributes), f"{name} has an attribute twice"
        self.open[-1].children.append(node)
        if name not in VOID:
            self.open.append(node)

    def handle_endtag(self, name):
        assert self.open.pop().name == name

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(path):
    return Reader(Path(path).read_text(encoding="utf-8")).root


def cells(page, caption):
    """Rows of the table with this caption, as dictionaries."""
    table = next(table for table in page.all("table") if table.all("caption")[0].text() == caption)
    names = [cell.text() for cell in table.all("thead")[0].all("th")]
    rows = [row.all("th") + row.all("td") for row in table.all("tbody")[0].all("tr")]
    return [dict(zip(names, [cell.text() for cell in row], strict=True)) for row in rows]


def figure(page, kind, place=0):
    """A picture by the kind in its id."""
    found = [node for node in page.all("svg", role="img") if f"-{kind}-" in node.attributes["aria-labelledby"]]
    return found[place]


def selection(layers=4, heads=6, absent=(), **changes):
    """A selection among drawn heads."""
    rng = np.random.default_rng(0)
    salience = rng.random((layers, heads))
    for place in absent:
        salience[place] = np.nan
    present = [(layer, head) for layer, head in np.ndindex(layers, heads) if not np.isnan(salience[layer, head])]
    return select(made_up(present, salience, CAHPConfig(**changes), separation=rng.random((len(present), 12))))


def write_runs(folder, methods, *, layers=6, heads=8, counts=(24, 12), recoveries=("none", "least-squares"), seeds=3):
    """A comparison's folder with drawn results."""
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    folder.mkdir(parents=True)
    keys = [(method, count, seed, how) for how in recoveries for count in counts for seed in range(seeds)
            for method in methods]  # fmt: skip
    with open(folder / "runs.jsonl", "w") as file:
        for method, count, seed, how in [("dense", layers * heads, 0, "none"), *keys]:
            hits = hard < 0.4 + 0.3 * count / layers / heads + 0.05 * rng.standard_normal()
            places = np.random.default_rng([len(method), count, seed]).permutation(layers * heads)
            drawn = sorted(int(place) for place in places[:count])  # the recovery does not change the choice
            kept = {str(layer): [p % heads for p in drawn if p // heads == layer] for layer in range(layers)}
            run = Run(method, count, seed, how, Score.of_accuracy(float(hits.mean())), 1.0, 200, kept, 1000 * count,
                      {"choose": 1.0, "recover": 2.0}, correct=pack(hits))  # fmt: skip
            file.write(json.dumps(run.to_dict()) + "\n")
    (folder / "setup.json").write_text(json.dumps({"model": "0123", "config": {}, "recovery": {}, "versions": {}}))


def copy_examples(folder):
    """A measured deployment and a measured latency, as the project ships them."""
    for name in ("deploy", "latency"):
        shutil.copytree(EXAMPLES / name, folder / name)


def report(folders, output, *more):
    return main(["report", *map(str, folders), "-o", str(output), *more])


def write_selection(folder, found):
    """A folder with a selection alone, as an importance's `selection.to_dict()` would leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "selection.json").write_text(json.dumps(found.to_dict()))
    return folder


def check_whole(path):
    """Well-formed, accessible, and without anything that a browser would fetch or run."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|javascript:|\bnan\b", text)
    page = read(path)
    elements = page.all("html")[0]
    assert elements.attributes["lang"] == "en" and page.all("meta", name="viewport") and page.all("title")
    for name in ("script", "link", "img", "image", "iframe", "object", "embed", "form", "base", "foreignobject"):
        assert not page.all(name), name
    seen = []

    def walk(node):
        for key, value in node.attributes.items():
            assert not key.startswith("on") and key not in ("src", "srcset", "action", "data", "xlink:href"), key
            if key == "href":
                assert value.startswith("#")
        seen.extend([node.attributes["id"]] if "id" in node.attributes else [])
        for child in node.children:
            if not isinstance(child, str):
                walk(child)

    walk(page)
    assert len(seen) == len(set(seen)), "an id is there twice"
    assert {link.attributes["href"][1:] for link in page.all("a") + page.all("use")} <= set(seen)
    for picture in page.all("svg"):
        assert picture.attributes["role"] == "img"
        named = picture.attributes["aria-labelledby"].split()
        assert [picture.all("title")[0].attributes["id"], picture.all("desc")[0].attributes["id"]] == named
        assert all(picture.all(part)[0].text().strip() for part in ("title", "desc"))
        kin = {use.attributes["href"][1:] for use in picture.all("use")}
        assert kin <= {path.attributes.get("id") for path in picture.all("path")}, "a mark of another picture is used"
    for one in page.all("table"):
        assert one.all("caption") and all(head.attributes["scope"] in ("col", "row") for head in one.all("th"))
    levels = [int(node.name[1]) for node in page.all("header")[0].all("h1")]
    assert levels == [1]
    return page


def head_map_entry(kept, num_heads, *, version):
    """What a pruned model's config holds under ``cahp_config``."""
    shape = {"num_heads": num_heads, "head_dim": 8, "group_size": 1}
    layers = {str(layer): shape | {"kept": list(heads)} for layer, heads in kept.items()}
    return {"format": 2, "version": version, "layers": layers}
