"""The structure of the code itself: data flows one way, and imports stay light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cahp_plugin"

#: Parts in the order of the flow; a part imports only from itself and from parts before it.
FLOW = [
    {"errors", "_lazy", "_version"},
    {"files", "table", "_compat", "processes"},
    {"config"},
    {"units"},
    {"data"},
    {"tasks"},
    {"observe"},
    {"selectors"},
    {"prune"},
    {"check"},
    {"recover"},
    {"machine"},
    {"export"},
    {"latency"},
    {"cost"},
    {"plan"},
    {"planners"},
    {"compare"},
    {"results"},
    {"report"},
    {"workflow"},
    {"cli"},
    {"__main__"},
]
RANK = {part: rank for rank, parts in enumerate(FLOW) for part in parts}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_parts(source):
    """Parts of cahp_plugin that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "cahp_plugin" and len(parts) > 1 and parts[1] in RANK:
                yield parts[1]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_flows_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in RANK, f"{part} has no place in the flow; give it one in this test"
    against = [other for other in imported_parts(path.read_text()) if RANK[other] > RANK[part]]
    assert not against, f"{part} imports from {against}, which come after it"


def test_the_check_sees_imports_in_functions():
    source = "def f():\n    from cahp_plugin.cli import main\n    import cahp_plugin.workflow"
    assert set(imported_parts(source)) == {"cli", "workflow"}


def test_the_method_is_pure():
    for path in (PACKAGE / "selectors" / "cahp").glob("*.py"):
        roots = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not roots & {"transformers", "torch_pruning", "logging", "os", "pathlib", "json"}, path.name


def test_public_names_are_few_sorted_and_there():
    import cahp_plugin

    assert cahp_plugin.__all__ == sorted(cahp_plugin.__all__) and len(cahp_plugin.__all__) <= 17
    assert all(getattr(cahp_plugin, name).__doc__ for name in cahp_plugin.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cahp_plugin.nothing


@pytest.mark.parametrize("path", [path for path in modules() if path.name == "__init__.py"], ids=str)
def test_exported_names_are_sorted_and_there(path):
    package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
    names = getattr(package, "__all__", [])
    assert list(names) == sorted(names, key=lambda name: (name[0].islower(), name))
    assert all(hasattr(package, name) for name in names)


def loaded_by(code):
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {name.split(".")[0] for name in run.stdout.splitlines()[-1].split()}


def test_imports_stay_light():
    heavy = {"torch", "transformers", "sklearn", "matplotlib", "jinja2"}
    assert not loaded_by("import cahp_plugin") & heavy
    names = "from cahp_plugin import select_heads, CAHPPruner, load_pruned, HeadSelection"
    assert not loaded_by(names) & {"onnxruntime", "optimum", "matplotlib", "sklearn", "datasets", "kneed"}
    assert not loaded_by("from cahp_plugin.cli import build_parser; build_parser()") & heavy


def test_files_are_short():
    long = {path.name: lines for path in modules() if (lines := len(path.read_text().splitlines())) > 400}
    assert not long
