"""Which tests stand for which file: the one place where that rule is written.

`src/mixbit/x/y.py` has `tests/x/test_y.py`. A package's `__init__.py` and private modules (`_y.py`) are tested through
the public modules of their room; a file of their own (`tests/x/test_init.py`, `tests/x/test__y.py` or
`tests/x/test_y.py`, or for a package that is one idea `tests/test_x.py`) is allowed and not required. Ground that rooms
share (SHARED) is held by their tests as well. A module's doctest belongs to it, and so does a test in tests/reference
that REFERENCES names for it.

    python -m tests.mirror src/mixbit/training/loop.py

prints them. Everything is read from the syntax tree; nothing of mixbit is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "mixbit"
TESTS = ROOT / "tests"

# Golden numbers cross rooms: what they were written to hold, by the name of their file.
REFERENCES = {
    "test_hawqv3": ("allocation/_milp.py", "allocation/_dp.py", "methods/hawq.py"),
    "test_kure_quantizers": ("ptq/lp.py", "quantizers/midrise.py", "quantizers/dorefa.py"),
    "test_kure_training": ("training/kurtosis.py", "training/kure.py"),
    "test_layers": ("network/_layers.py", "network/_macs.py"),
    "test_limpq_policy": ("methods/limpq.py", "cost/_costs.py"),
    "test_litert": ("integer/arithmetic.py", "export/c/kernels/*.c"),
    "test_te_programs": ("allocation/_ordered.py",),
    "test_tiny_scores": ("allocation/_dp.py",),
    "test_topological_entropy": (
        "allocation/_ordered.py",
        "methods/topological_entropy.py",
        "topology/entropy.py",
        "topology/noise.py",
    ),
    "test_unicorn": ("export/mcu/target.py",),
}


# Ground that rooms above share: what stands on it holds it too.
SHARED = ("sensitivity/*.py", "supernet/norms.py")


def module_name(path: Path) -> str:
    """`src/mixbit/models/__init__.py` -> `mixbit.models`."""
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str | ast.Module, module: str, *, package: bool = False) -> Iterator[str]:
    """Names of all modules that a source (text or tree) imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: len(module.split(".")) - node.level + int(package)]
                base = ".".join([*parents, base]) if base else ".".join(parents)
            # `from mixbit import cost` names a module in the alias, `from mixbit.cost import costs` does not.
            yield from ([f"{base}.{alias.name}" for alias in node.names] if base == "mixbit" else [base])


def own_tests(module: Path) -> list[Path]:
    """Where the test file of a module may stand, whether it is there or not; the first is where a new one goes."""
    folder, stem = TESTS / module.relative_to(SRC).parent, module.stem
    if stem == "__init__":
        return [folder / "test_init.py", folder.parent / f"test_{folder.name}.py"]
    names = [f"test_{stem}.py"] + ([f"test_{stem.lstrip('_')}.py"] if stem.startswith("_") else [])
    return [folder / name for name in names]


def mirror_of(source: Path) -> list[Path]:
    """Files that hold a source of src/mixbit, a Python module or a C file: tests, and itself where it has a doctest."""
    found = [test for test in own_tests(source) if test.exists()]
    inside = source.relative_to(SRC)
    if source.stem.startswith("_") or _is_shared(source):  # private, a package's face, or shared ground
        found += [test for user in _users(source) for test in own_tests(user) if test.exists()]
    elif source.suffix != ".py":  # kernels that are written out with exported code
        found += sorted((TESTS / source.relative_to(SRC).parent.parent).glob("test_*.py"))
    found += [TESTS / "reference" / f"{name}.py" for name, rows in REFERENCES.items() if any(map(inside.match, rows))]
    if source.suffix == ".py" and ">>> " in source.read_text():
        found.append(source)
    return list(dict.fromkeys(found))


def _users(source: Path) -> list[Path]:
    """Public modules that use one, also by way of private ones: of its room; where it is shared or has none, of any."""
    inside = [] if _is_shared(source) else sorted(source.parent.glob("*.py"))
    return _reached(source, inside) or _reached(source, list(_imported()))


def _reached(source: Path, modules: list[Path]) -> list[Path]:
    uses, seen, todo = _imported(), {source}, [source]
    while todo:
        used = module_name(todo.pop())
        users = [module for module in modules if module not in seen and used in uses[module]]
        seen.update(users)
        todo += filter(_is_private, users)
    return sorted(
        module for module in seen - {source} if not _is_private(module) and any(map(Path.exists, own_tests(module)))
    )


def _is_shared(module: Path) -> bool:
    return any(map(module.relative_to(SRC).match, SHARED))


def _is_private(module: Path) -> bool:
    return module.stem.startswith("_") and module.stem != "__init__"


@cache
def _imported() -> dict[Path, set[str]]:
    """Module -> names of the modules that it imports, and of compiled files that it names in a text (`"_births"`)."""
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        tree, package = ast.parse(path.read_text()), path.name == "__init__.py"
        found[path] = set(imports(tree, module_name(path), package=package))
        aliases = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        found[path] |= {f"{node.module}.{alias.name}" for node in aliases for alias in node.names}
        room = module_name(path) if package else module_name(path).rpartition(".")[0]
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        found[path] |= {f"{room}.{text}" for text in texts if text.startswith("_") and text.isidentifier()}
    return found


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        for test in mirror_of(Path(argument).resolve()):
            print(test.relative_to(ROOT))
