"""The shape of the package: which module may import what, and what none of them may do."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "inceptcli"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Imports go down: from a room to rooms with a lower number.
RANKS = {
    "errors": 0,
    "events": 0,
    "config": 0,
    "files": 0,
    "runfolder": 0,
    "data": 1,
    "model": 1,
    "engine": 2,
    "report": 3,
    "console": 4,
    "show": 5,
    "cli": 6,
    "__main__": 7,
}
# Libraries that one room alone may import.
ONLY = {
    "rich": {"console"},
    "typer": {"cli"},
    "torchinfo": {"model.summary"},
    "jinja2": {"report.page"},
    "markupsafe": {"report.page"},
    "matplotlib": {"report.plots"},
    "onnx": {"engine.export", "engine.quantise"},
    "onnxruntime": {"engine.onnx", "engine.quantise"},
    "safetensors": {"engine.export"},
}
WITHOUT_TORCH = {"", "errors", "events", "config", "files", "engine.onnx", "engine.predict"}
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def name_of(path: Path) -> str:
    """ "model.weights" for src/inceptcli/model/weights.py, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out from the package's name"
            module = node.module or ""
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def own_imports(tree: ast.AST) -> set[str]:
    """The package's modules that are imported, as ``name_of`` calls them."""
    names = {name_of(path) for path in MODULES}
    prefix = "inceptcli."
    return {
        name.removeprefix(prefix)
        for name in imports_of(tree)
        if name.startswith(prefix) and name.removeprefix(prefix) in names
    }


def dangers(source: str) -> list[str]:
    """What could run code from a file or a name, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            roots = {name.partition(".")[0] for name in imports_of(node)}
            found += [f"{node.lineno}: import {name}" for name in roots & UNPICKLERS]
            found += [f"{node.lineno}: {x}" for x in imports_of(node) & {"torch.load", "os.system"}]
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in call_dangers(node)]
    return found


def call_dangers(call: ast.Call) -> list[str]:
    function = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return [
        what
        for what, holds in {
            "eval, exec or compile": function in ("eval", "exec", "compile", "__import__"),
            "a shell": keywords.get("shell", "False") != "False"
            or function in ("os.system", "os.popen"),
            "yaml.load": function == "yaml.load",
            "torch.load without weights_only=True": function == "torch.load"
            and keywords.get("weights_only") != "True",
            "torch.jit.load": function in ("torch.jit.load", "torch.package.PackageImporter"),
            "allow_pickle": keywords.get("allow_pickle", "False") != "False",
        }.items()
        if holds
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_can_run_code_from_a_file(path: Path) -> None:
    """K1: no unpickling but torch.load(weights_only=True), no eval, no shell."""
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill as d",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "torch.load(path, **options)",
        "from torch import load",
        "yaml.load(text)",
        "subprocess.run(line, shell=True)",
        "subprocess.run(line, shell=shell)",
        "os.system(line)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_each_danger_would_be_seen(source: str) -> None:
    assert dangers(source)


def test_the_harmless_likes_of_them_are_not() -> None:
    source = "model.eval(); re.compile('x'); torch.load(f, weights_only=True); run(a, shell=False)"
    assert dangers(source) == []


def test_weights_are_read_by_torch_load_in_one_place() -> None:
    places = [name_of(path) for path in MODULES if "torch.load(" in path.read_text()]
    calls = [name for name in places if name != "model.weights"]  # whose docstrings name it
    assert calls == ["model.archive"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    """A room imports itself and lower rooms; data and model do not know each other."""
    room = name_of(path).partition(".")[0]
    for imported in own_imports(ast.parse(path.read_text())):
        other = imported.partition(".")[0]
        same_room = other == room
        leaves = RANKS.get(room) == RANKS.get(other) == 0
        assert same_room or leaves or RANKS[other] < RANKS[room], f"{room} imports {imported}"


def test_imports_form_no_circle() -> None:
    graph = {name_of(path): own_imports(ast.parse(path.read_text())) for path in MODULES}
    graph = {name: imported - {name} for name, imported in graph.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    name, room = name_of(path), name_of(path).partition(".")[0]
    roots = {imported.partition(".")[0] for imported in imports_of(ast.parse(path.read_text()))}
    for library, rooms in ONLY.items():
        assert library not in roots or {name, room} & rooms, f"{name} imports {library}"
    batches = {"data.augment", "data.loader"}
    no_torch = name in WITHOUT_TORCH or (name.startswith("data") and name not in batches)
    assert not (no_torch and "torch" in roots), f"{name} imports torch"
