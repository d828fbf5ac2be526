"""Tests of the import rules: packages import downwards only, and each dependency has one door."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import osp_fetch

ROOT = Path(osp_fetch.__file__).parent
FLOORS = {
    "version": 0,
    "model": 0,
    "concurrency": 0,
    "s3": 1,
    "sources": 2,
    "network": 2,
    "storage": 2,
    "connections": 3,
    "processor": 4,
    "engine": 4,
    "views": 5,
    "workers": 5,
    "datasets": 5,
    "demo": 5,
    "cluster": 6,
    "archives": 6,
    "control": 6,
    "pages": 6,
    "inspection": 7,
    "options": 3,
    "assembly": 7,
    "joint": 7,
    "launch": 8,
    "api": 9,
    "bench": 10,
    "cli": 11,
    "__init__": 12,
    "__main__": 12,
}
# These packages import the protocols in model and no adapter, so that tests can use fakes.
KNOWS_ONLY = {
    "connections": {"model", "concurrency", "connections"},
    "engine": {"model", "concurrency", "connections", "engine"},
}
DOORS = {
    "aiobotocore": {"s3/"},
    "botocore": {"s3/"},
    "awscrt": {"storage/bucket/sums.py", "storage/folder/hashing.py"},
    "rehashes": {"storage/bucket/sums.py"},
    "apprise": {"views/apprise_child.py"},
    "prometheus_client": {"views/exposition.py"},
    "aiodns": {"network/resolver.py"},
    "aiohttp": {"network/", "s3/errors.py", "views/page/server.py"},  # the errors of aiobotocore are its own
    "aiohttp_socks": {"network/socks.py"},
    "python_socks": {"network/socks.py"},
    "yarl": {"network/transport.py", "network/connector.py", "network/head.py"},
    "aiofiles": {"storage/folder/executors.py"},
    "sqlite3": {"storage/ledger/"},
    "tenacity": {"engine/retry.py", "s3/client.py"},
    "pandas": {"sources/table.py", "sources/dispatch.py", "model/report.py", "assembly.py"},
    "pyarrow": {"sources/table.py"},
    "numpy": {"sources/select.py"},
    "gdown": {"sources/gdrive.py"},
    "ijson": {"datasets/coverage.py", "sources/json_lines.py"},
    "zstandard": {"sources/opening.py"},
    "huggingface_hub": {"sources/huggingface.py"},
    "uvloop": {"api.py", "cli/get.py", "cli/bench.py", "workers/worker.py"},
    "ray": {"cluster/ray_nodes.py"},
    "matplotlib": {"bench/curve.py"},
    "click": {"cli/"},
    "IPython": {"views/notebook.py"},
    "rich": {"views/screen.py", "cli/"},
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield the absolute names that a module imports, including imports in functions and for types."""
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
            if not target.startswith("osp_fetch."):
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


def test_no_module_imports_itself_over_others_not_even_for_types() -> None:
    names = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name, _ in modules()
    }
    known = {f"osp_fetch.{name}".removesuffix(".__init__") for name in names} | {"osp_fetch"}
    graph: dict[str, set[str]] = {}
    for name, tree in modules():
        here = f"osp_fetch.{name.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
        targets = {t if t in known else t.rpartition(".")[0] for t in imports(name, tree)}
        graph[here] = {target for target in targets if target in known and target != here}
    order = TopologicalSorter(graph)
    order.prepare()  # raises CycleError


def test_classes_and_protocols_are_small() -> None:
    many = {}
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = [
                    each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                count = sum(not each.name.startswith("_") for each in methods)
                if count > (6 if name == "model/protocols.py" else 15):
                    many[f"{name}: {node.name}"] = count
    assert many == {}


def test_functions_are_short() -> None:
    lengths, long = [], {}
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 45:
                    long[f"{name}: {node.name}"] = lines
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lengths.append((body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0)
    assert long == {}
    lengths.sort()
    assert statistics.median(lengths) <= 8
    assert lengths[len(lengths) * 9 // 10] <= 22
