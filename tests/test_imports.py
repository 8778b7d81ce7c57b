"""The rule of the house: imports go down only, siblings don't import each other, and there are no circles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: The districts of ``pipeline/`` from the top down. A line imports only from the lines below it.
LEVELS = (
    ("cli",),
    ("runner", "bench"),
    ("stages", "monitoring"),
    ("results", "launch"),
    ("jobfile",),
    ("shards", "models"),
    ("workers", "banks", "sources"),
    ("storage", "measures"),
)
LEVEL = {district: level for level, districts in enumerate(LEVELS) for district in districts}


def modules() -> dict[str, Path]:
    """Name -> file of every module of the two packages."""
    found = {}
    for package in ("pipeline", "diffstyle"):
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(name: str) -> Iterator[tuple[str, int]]:
    """Every module of the two packages that a module imports, lazily or not, with the line."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: a relative import; write the whole name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            wanted = [one if one in MODULES else str(node.module) for one in inner]
        else:
            continue
        for module in dict.fromkeys(wanted):
            if module in MODULES:
                yield module, node.lineno


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name: str) -> None:
    package, _, rest = name.partition(".")
    district = rest.partition(".")[0]
    for module, line in imports(name):
        where = f"{name}:{line} imports {module}"
        target_package, _, target_rest = module.partition(".")
        target = target_rest.partition(".")[0]
        if package == "diffstyle":
            assert target_package == "diffstyle", f"{where}: the method knows nothing of the pipeline"
        elif target_package == "pipeline" and district in LEVEL and target != district:
            assert target in LEVEL, f"{where}: only {', '.join(LEVEL)} may be imported"
            assert LEVEL[target] > LEVEL[district], f"{where}: not below it"


def test_there_are_no_circles() -> None:
    graph = {name: {module for module, _ in imports(name) if module != name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of imports: {' -> '.join((*way[way.index(name) :], name))}"
        if name not in done:
            for module in sorted(graph[name]):
                visit(module, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_top_of_the_pipeline_holds_nothing_but_districts() -> None:
    at_top = {entry.name for entry in (ROOT / "pipeline").glob("*.py")}
    assert at_top == {"__init__.py", "__main__.py"}
    districts = {entry.parent.name for entry in (ROOT / "pipeline").glob("*/__init__.py")}
    assert districts <= set(LEVEL), f"districts without a level: {sorted(districts - set(LEVEL))}"
