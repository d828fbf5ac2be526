"""The floors and doors of the house, held against the imports of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import osp_fetch

ROOT = Path(osp_fetch.__file__).parent
FLOORS = {
    "model": 0,
    "concurrency": 0,
    "sources": 1,
    "network": 1,
    "storage": 1,
    "connections": 2,
    "engine": 3,
    "views": 4,
    "workers": 4,
    "datasets": 4,
    "demo": 4,
    "archives": 5,
    "inspection": 6,
    "options": 1,
    "assembly": 6,
    "api": 7,
    "bench": 8,
    "cli": 9,
    "__init__": 10,
    "__main__": 10,
}
# these know the protocols in model and no adapter: they are tested with fakes
KNOWS_ONLY = {
    "connections": {"model", "concurrency", "connections"},
    "engine": {"model", "concurrency", "connections", "engine"},
}
DOORS = {
    "aiohttp": {"network/"},
    "yarl": {"network/transport.py", "network/head.py"},
    "aiofiles": {"storage/folder/executors.py"},
    "sqlite3": {"storage/ledger/"},
    "tenacity": {"engine/retry.py"},
    "pandas": {"sources/table.py", "sources/resolve.py", "model/report.py", "assembly.py"},
    "pyarrow": {"sources/table.py"},
    "numpy": {"sources/select.py"},
    "gdown": {"sources/gdrive.py"},
    "ijson": {"datasets/coverage.py"},
    "huggingface_hub": {"sources/huggingface.py"},
    "uvloop": {"api.py", "cli/get.py", "cli/bench.py", "workers/worker.py"},
    "matplotlib": {"bench/curve.py"},
    "click": {"cli/"},
    "rich": {"views/screen.py", "cli/"},
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Absolute names of what a module imports, also inside functions and for types."""
    package = ["osp_fetch", *name.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            if node.module:
                yield ".".join(module)
            else:
                yield from (".".join([*module, alias.name]) for alias in node.names)


def package(name: str) -> str:
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


def test_imports_go_down_and_packages_of_one_floor_do_not_know_each_other() -> None:
    wrong = []
    for name, tree in modules():
        here = package(name)
        for target in imports(name, tree):
            if not target.startswith("osp_fetch.") or target == "osp_fetch.__version__":
                continue
            there = target.split(".")[1]
            if here in (there, "__init__"):
                continue
            below = FLOORS[there] < FLOORS[here]
            allowed = KNOWS_ONLY.get(here)
            if not below or (allowed is not None and there not in allowed):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_each_dependency_has_one_door() -> None:
    wrong = []
    for name, tree in modules():
        for target in imports(name, tree):
            doors = DOORS.get(target.split(".")[0])
            if doors is not None and not any(name.startswith(door) for door in doors):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_every_package_has_its_floor() -> None:
    assert {package(name) for name, _ in modules()} == set(FLOORS)


def test_modules_fit_one_reading() -> None:
    long = {name: len((ROOT / name).read_text().splitlines()) for name, _ in modules()}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}
