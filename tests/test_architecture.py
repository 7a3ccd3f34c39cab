"""docs/architecture.md is what the code is: rooms, import rule, sizes, documentation, one test file a module.

Everything is read from the syntax tree; nothing is imported. Each rule is a function from source text (or names) to a
list of violations, so that the tests at the end of this file can show each one a wrong example.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.mirror import REFERENCES, ROOT, SRC, TESTS, imports, mirror_of, module_name, own_tests

FILES = sorted(SRC.rglob("*.py"))

# Read and parsed once: several laws look at every file, and one pass over all files is one case, not hundreds.
SOURCES = {path: path.read_text() for path in FILES}
TREES = {path: ast.parse(source) for path, source in SOURCES.items()}

# Tests that belong to the project as a whole and mirror no module.
FRAME = {
    "test_architecture",
    "test_docs",
    "test_import_time",
    "test_install",
    "test_needs",
    "test_newcomer",
    "test_remembered",
}
# tests/reference holds golden numbers from papers, tests/end_to_end whole runs, tests/fuzz malformed input: they cross
# rooms on purpose. tests/benchmarks is of the scripts outside the package, tests/mutants tries the tests themselves.
CROSSING = {"reference", "end_to_end", "fuzz", "benchmarks", "mutants"}

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80
MAX_MEDIAN_FUNCTION_LINES = 10


def room(module: str) -> str:
    """The first name below `mixbit`: a package or a single file."""
    return module.split(".")[1] if "." in module else ""


def read_floors(text: str) -> list[list[str]]:
    """The fence under "Who may import whom": one floor a line, the highest first."""
    section = text.split("## Who may import whom", 1)[1]
    fence = re.search(r"```text\n(.*?)```", section, re.DOTALL)
    if fence is None:
        raise ValueError("docs/architecture.md has no ```text block under 'Who may import whom'.")
    return [line.split() for line in fence.group(1).strip().splitlines()]


FLOORS = read_floors((ROOT / "docs" / "architecture.md").read_text())
LEVEL = {name: -index for index, floor in enumerate(FLOORS) for name in floor}
BASE = set(FLOORS[-1])


# ------------------------------------------------------------------------------------------------ imports


def upward(edges: Iterable[tuple[str, str]], level: dict[str, int]) -> list[str]:
    """Imports between rooms that go up; a room that has no floor is a violation as well."""
    wrong = []
    for source, target in edges:
        here, there = room(source), room(target)
        if here in ("", there):  # mixbit/__init__.py is the public face and may import every room
            continue
        missing = [name for name in (here, there) if name not in level]
        if missing:
            wrong.append(f"{source} -> {target}: {missing[0]!r} stands on no floor of docs/architecture.md")
        elif level[there] > level[here]:
            wrong.append(f"{source} imports upward: {target}")
    return wrong


def cycle(edges: Iterable[tuple[str, str]]) -> list[str]:
    """A circle of rooms that import each other, or nothing."""
    graph: dict[str, set[str]] = {}
    for source, target in edges:
        if room(source) not in ("", room(target)):
            graph.setdefault(room(source), set()).add(room(target))
    while True:
        leaves = {there for targets in graph.values() for there in targets} - graph.keys()
        pruned = {here: targets - leaves for here, targets in graph.items() if targets - leaves}
        if pruned == graph or not graph:
            return sorted(graph)
        graph = pruned


@cache
def all_edges() -> list[tuple[str, str]]:
    """(module, imported module of mixbit) for the whole package."""
    return [
        (module_name(path), target)
        for path, tree in TREES.items()
        for target in imports(tree, module_name(path), package=path.name == "__init__.py")
        if target == "mixbit" or target.startswith("mixbit.")
    ]


def test_every_room_has_a_floor_and_every_floor_a_room() -> None:
    rooms = {path.stem if path.is_file() else path.name for path in SRC.iterdir() if _is_room(path)}
    assert rooms == set(LEVEL)


def _is_room(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("*.py"))
    return path.suffix == ".py" and path.name != "__init__.py"


def test_imports_go_down_only() -> None:
    assert upward(all_edges(), LEVEL) == []


def test_rooms_of_one_floor_import_without_circles() -> None:
    assert cycle(all_edges()) == []


def not_there(source: ast.Module) -> list[str]:
    """Modules and names of mixbit that a file imports, also within a function, and that do not exist."""
    wanted = {
        (node.module or "", alias.name) if isinstance(node, ast.ImportFrom) else (alias.name, "")
        for node in ast.walk(source)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    ours = {(module, name) for module, name in wanted if module.split(".")[0] == "mixbit"}
    known = known_names()
    return sorted(
        f"{module}.{name}".rstrip(".")
        for module, name in ours
        if module not in known or (name and name not in known[module] and f"{module}.{name}" not in known)
    )


@cache
def known_names() -> dict[str, set[str]]:
    """Module -> what it defines, imports or lists in a string, such as names that are loaded at their first use."""
    return {module_name(path): {one for node in ast.walk(tree) for one in _bound(node)} for path, tree in TREES.items()}


def _bound(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.alias):
        return (node.asname or node.name,)
    if isinstance(node, ast.Name):
        return (node.id,)
    return (node.value,) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ()


def test_what_is_imported_outside_the_package_is_there() -> None:
    """Also by what is not run on every machine: benchmarks, and tests that need an emulator."""
    files = [path for folder in ("benchmarks", "examples", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    missing = {str(path.relative_to(ROOT)): not_there(ast.parse(path.read_text())) for path in files}
    assert {path: names for path, names in missing.items() if names} == {}


def test_an_import_of_what_has_moved_is_found() -> None:
    moved = "import mixbit.cost\nfrom mixbit.cost import Budget, gone\ndef f():\n    from mixbit import _gone"
    assert not_there(ast.parse(moved)) == ["mixbit._gone", "mixbit.cost.gone"]


def private_doors(source: ast.Module, module: str, *, package: bool = False) -> list[str]:
    """Names or files of another room that start with an underscore: it ends at the room's door.

    The ground floor's files are everyone's. A room's sub-rooms (export/c) are rooms of their own to each other.
    """
    wrong = []
    for node in ast.walk(source):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("mixbit."):
            continue
        inside = str(node.module).split(".")[1:]
        names = [*inside[1:], *(alias.name for alias in node.names)]
        private = [name for name in names if name.startswith("_") and not name.startswith("__")]
        here = module.split(".")[1:] if package else module.split(".")[1:-1]
        home = inside[: next((at for at, name in enumerate(inside) if name.startswith("_")), len(inside))]
        if private and home and not inside[0].startswith("_") and here[: len(home)] != home:
            wrong.append(f"{node.module}: {', '.join(private)}")
    return wrong


def test_no_room_reaches_behind_the_door_of_another() -> None:
    found = {
        module_name(path): private_doors(tree, module_name(path), package=path.name == "__init__.py")
        for path, tree in TREES.items()
        if path.parent != SRC or path.name != "__init__.py"
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def file_circles(edges: Iterable[tuple[str, str]]) -> list[str]:
    """Files that import each other, directly or by way of others."""
    graph: dict[str, set[str]] = {}
    for source, target in edges:
        if source != target:
            graph.setdefault(source, set()).add(target)
    while True:
        leaves = {there for targets in graph.values() for there in targets} - graph.keys()
        pruned = {here: targets - leaves for here, targets in graph.items() if targets - leaves}
        if pruned == graph or not graph:
            return sorted(graph)
        graph = pruned


def _imports_of(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports_of(node.orelse)
        else:
            yield from _imports_of(ast.iter_child_nodes(node))


def loaded(tree: ast.Module, module: str, *, package: bool) -> Iterator[str]:
    """Files of mixbit that a module imports, at its top or inside functions: not those for types alone."""
    for node in _imports_of(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("mixbit"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mixbit"):
            files = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [name for name in files if name in MODULES]
            yield from known
            if len(known) < len(files):
                yield str(node.module)


MODULES = {module_name(path) for path in FILES}


def test_no_two_files_import_each_other() -> None:
    """A package's face imports its files; files import each other and other faces."""
    edges = [
        (module_name(path), target)
        for path, tree in TREES.items()
        for target in loaded(tree, module_name(path), package=path.name == "__init__.py")
    ]
    assert file_circles(edges) == []


def test_no_module_imports_the_public_face() -> None:
    """`import mixbit` inside the package would load everything and close a circle."""
    assert [source for source, target in all_edges() if target == "mixbit"] == []


@pytest.mark.parametrize("name", ["models", "data", "quantizers", "topology", "search"])
def test_rooms_that_know_of_nothing_else(name: str) -> None:
    """These are of use without the rest: they import the ground floor alone."""
    edges = [(source, target) for source, target in all_edges() if room(source) == name]
    assert [edge for edge in edges if room(edge[1]) not in {name, *BASE}] == []


@pytest.mark.parametrize("name", ["allocation", "search"])
def test_rooms_that_see_arrays(name: str) -> None:
    heavy = [
        f"{path.name}: {target}"
        for path in (SRC / name).glob("*.py")
        for target in imports(TREES[path], module_name(path))
        if target.split(".")[0] == "torch"
    ]
    assert heavy == []


def test_a_method_never_imports_another_method() -> None:
    """What two methods share moves into a private module, or down a floor."""
    methods = {f"mixbit.methods.{path.stem}" for path in (SRC / "methods").glob("[a-z]*.py")} - {
        "mixbit.methods.registry"
    }
    assert [
        (source, target) for source, target in all_edges() if source in methods and target in methods - {source}
    ] == []


# --------------------------------------------------------------------------------------------- tests mirror


def test_every_public_module_has_its_test_file() -> None:
    missing = []
    for path in FILES:
        inside = path.relative_to(SRC)
        if any(part.startswith("_") for part in inside.parts):
            continue
        test = own_tests(path)[0]
        if not test.exists():
            missing.append(f"{inside} has no {test.relative_to(ROOT)}")
    assert missing == []


def test_every_test_file_has_its_module() -> None:
    homes = {test for path in [*FILES, *SRC.rglob("*.c")] for test in own_tests(path)}
    orphans = [
        str(path.relative_to(ROOT))
        for path in TESTS.rglob("test_*.py")
        if path.relative_to(TESTS).parts[0] not in CROSSING and path.stem not in FRAME and path not in homes
    ]
    assert orphans == []


def test_every_source_has_tests_that_stand_for_it() -> None:
    """A private module too, by way of the modules that use it; a package's face alone needs none."""
    sources = [path for path in [*FILES, *SRC.rglob("*.c")] if path.name not in ("__init__.py", "__main__.py")]
    assert [str(path.relative_to(ROOT)) for path in sources if not mirror_of(path)] == []


def test_every_reference_test_says_what_it_holds() -> None:
    assert {path.stem for path in (TESTS / "reference").glob("test_*.py")} == set(REFERENCES)
    sources = [source for rows in REFERENCES.values() for source in rows]
    assert [source for source in sources if not any(SRC.glob(source))] == []


# --------------------------------------------------------------------------------------------------- sizes

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str) -> list[Function]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def violations(law: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """Module -> what `law` finds in its source, for the modules where it finds something."""
    return {module_name(path): wrong for path, source in SOURCES.items() if (wrong := law(source))}


def code_lines(function: Function) -> int:
    """Lines from `def` to the end, without the docstring: documentation is not length."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def too_long(source: str) -> list[str]:
    """The file, and its functions, that are longer than the laws allow."""
    wrong = [f"{lines} lines" for lines in [source.count("\n")] if lines > MAX_FILE_LINES]
    lengths = {node.name: code_lines(node) for node in functions(source)}
    return wrong + [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES]


def test_file_and_function_sizes() -> None:
    assert violations(too_long) == {}


def test_the_median_function_is_short() -> None:
    lengths = [code_lines(node) for source in SOURCES.values() for node in functions(source)]
    assert statistics.median(lengths) < MAX_MEDIAN_FUNCTION_LINES


# ------------------------------------------------------------------------------------- names and documents

# Their contract is PyTorch's own and stated there.
TORCH_HOOKS = {"forward", "backward", "extra_repr", "setup_context"}


def public_nodes(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Public classes and functions of a module, and the public methods of those classes."""
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member


def undocumented(source: str) -> list[str]:
    """Public names without a docstring; overloads and setters share that of their first definition."""
    wrong = []
    for name, node in public_nodes(ast.parse(source)):
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        shared = decorators & {"override", "overload"} or any(text.endswith(".setter") for text in decorators)
        case = name.partition(".")[2].startswith("test_")  # a contract case: its name is the sentence
        if ast.get_docstring(node) is None and not (shared or case or node.name in TORCH_HOOKS):
            wrong.append(name)
    return wrong


def riddles(source: str) -> list[str]:
    """Public names whose docstring only makes sense to who knows the answer: under four words, or half a sentence."""
    wrong = []
    for name, node in public_nodes(ast.parse(source)):
        first = (ast.get_docstring(node) or "Says what it is.").partition("\n")[0]
        if len(first.split()) < 4 or first.split()[0] in ("Of", "Those") or first.startswith("The whole."):
            wrong.append(f"{name}: {first}")
    return wrong


def unannotated(source: str) -> list[str]:
    """Functions, private ones too, with a parameter or a result that has no type."""
    wrong = []
    for node in functions(source):
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]
        bare = [one.arg for one in named if one.annotation is None and one.arg not in ("self", "cls")]
        if bare or node.returns is None:
            wrong.append(node.name)
    return wrong


def defined_names(tree: ast.Module) -> set[str]:
    """Names bound at the top level of a module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def exported(tree: ast.Module) -> list[str] | None:
    """The value of `__all__`, or None where there is none."""
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return list(ast.literal_eval(node.value))  # type: ignore[union-attr, arg-type]
    return None


def export_order(name: str) -> tuple[int, str]:
    """Constants, then classes and types, then functions, each by the alphabet: the order that ruff's RUF022 keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_modules_and_public_names_are_documented() -> None:
    assert [module_name(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []
    assert violations(undocumented) == {}
    assert violations(riddles) == {}


def test_all_functions_are_annotated() -> None:
    assert violations(unannotated) == {}


def wrong_all(source: str, *, private: bool = False) -> list[str]:
    """What is wrong with `__all__`: missing beside public names, out of order, doubled, or naming nothing."""
    tree = ast.parse(source)
    names = exported(tree)
    if names is None:
        public = [name for name, _ in public_nodes(tree)]
        return [] if private or not public else [f"no __all__, but public names: {public}"]
    wrong = [] if names == sorted(names, key=export_order) else ["__all__ is not sorted"]
    wrong += [] if len(set(names)) == len(names) else ["__all__ has a name twice"]
    lazy = any(node.name == "__getattr__" for node in tree.body if isinstance(node, ast.FunctionDef))
    return wrong + [f"__all__ names {name}" for name in sorted({*names} - defined_names(tree)) if not lazy]


def test_all_is_sorted_and_real() -> None:
    found = {
        module_name(path): wrong_all(source, private=path.name.startswith("_") and path.name != "__init__.py")
        for path, source in SOURCES.items()
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


UNPICKLERS = {
    f"{module}.{name}" for module in ("pickle", "dill", "cloudpickle") for name in ("load", "loads", "Unpickler")
}


def test_no_exported_name_hides_a_file() -> None:
    """`mixbit.allocation.solve` must not be a function to one reader and a module to another (mocks, the API pages)."""
    packages = sorted({path.parent for path in FILES} - {SRC})
    names = {package: exported(TREES[package / "__init__.py"]) or [] for package in packages}
    hidden = {str(p): {*names[p]} & {path.stem for path in p.glob("*.py")} for p in packages}
    assert {package: found for package, found in hidden.items() if found} == {}


def unsafe_loads(source: str) -> list[str]:
    """Ways to run code from a user's file: unpickling, and torch.load without weights_only=True."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "cloudpickle"):
            wrong.append(f"line {node.lineno}: names out of {node.module}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in UNPICKLERS:
            wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = any(key.arg == "weights_only" and ast.unparse(key.value) == "True" for key in node.keywords)
            wrong += [] if safe else [f"line {node.lineno}: torch.load without weights_only=True"]
    return wrong


def test_no_pickle_is_read() -> None:
    assert violations(unsafe_loads) == {}


# ------------------------------------------------------------------------------------------- tests are tests


SKIPS = {"pytest.skip", "pytest.mark.skip", "pytest.mark.skipif"}


def own_skips(source: str) -> list[str]:
    """Skips that do not go through tests/needs.py, which has one reason for each need and counts them."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "pytest.skip",
            "pytest.mark.skip",
            "pytest.mark.skipif",
        ):
            wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            told = [ast.unparse(key.value) for key in node.keywords if key.arg == "reason"]
            wrong += [] if told and told[0].startswith("why(") else [f"line {node.lineno}: pytest.importorskip"]
    return wrong


def test_what_is_not_run_is_told_through_one_list() -> None:
    allowed = {TESTS / "needs.py", TESTS / "test_needs.py", TESTS / "support.py"}
    found = {str(path.relative_to(ROOT)): own_skips(path.read_text()) for path in TESTS.rglob("*.py")}
    assert {path: wrong for path, wrong in found.items() if wrong and ROOT / path not in allowed} == {}


# ------------------------------------------------------------------------------ the rules catch what they say


def test_rule_catches_own_skips() -> None:
    source = 'pytest.skip("a")\nx = pytest.mark.skipif(True, reason="b")\npytest.importorskip("c", reason="needs c")\n'
    assert sorted(own_skips(source)) == [
        "line 1: pytest.skip",
        "line 2: pytest.mark.skipif",
        "line 3: pytest.importorskip",
    ]
    assert own_skips('pytest.importorskip("c", reason=why("c"))\nneed("c")\n') == []


def test_rule_catches_upward_and_homeless_imports() -> None:
    level = {"cli": 0, "cost": -1, "errors": -2}
    edges = [("mixbit.cost", "mixbit.cli"), ("mixbit.cli", "mixbit.cost"), ("mixbit.attic", "mixbit.errors")]
    assert upward(edges, level) == [
        "mixbit.cost imports upward: mixbit.cli",
        "mixbit.attic -> mixbit.errors: 'attic' stands on no floor of docs/architecture.md",
    ]


def test_rule_catches_circles() -> None:
    circle = [("mixbit.cost", "mixbit.policy"), ("mixbit.policy", "mixbit.cost"), ("mixbit.cli", "mixbit.cost")]
    assert {"cost", "policy"} <= set(cycle(circle))
    assert cycle(circle[1:]) == []
    late = "def f():\n    from mixbit.cost import Budget\nif TYPE_CHECKING:\n    from mixbit.policy import Policy\n"
    assert list(loaded(ast.parse(late), "mixbit.errors", package=False)) == ["mixbit.cost"]
    assert file_circles([("mixbit.cost", "mixbit.errors"), ("mixbit.errors", "mixbit.cost")]) != []


def test_imports_sees_every_form() -> None:
    lines = ["import a.b", "from mixbit import cost", "from mixbit.policy import Policy", "def f():"]
    source = "\n".join([*lines, "    from . import x", "    from .y import z"])
    found = ["a.b", "mixbit.cost", "mixbit.policy", "mixbit.room", "mixbit.room.y"]
    assert list(imports(source, "mixbit.room.file")) == found
    assert list(imports("from . import x", "mixbit.room", package=True)) == ["mixbit.room"]


def test_rule_catches_docstrings_that_are_riddles() -> None:
    source = 'def total():\n    """The whole."""\n\ndef seed():\n    """Of the draws of this search."""\n'
    assert riddles(source) == ["total: The whole.", "seed: Of the draws of this search."]
    assert riddles('def total():\n    """The sum of all layers."""\n') == []


def test_rule_catches_missing_docstrings_and_annotations() -> None:
    source = "class Public:\n    '''d'''\n    def method(self, x): ...\n    def _private(self) -> None: ...\n"
    assert undocumented(source) == ["Public.method"]
    assert unannotated(source) == ["method"]


def test_rule_catches_unsafe_loads() -> None:
    lines = ["import pickle", "torch.load('a')", "torch.load('b', weights_only=True)", "pickle.loads(b'')"]
    found = ["line 2: torch.load without weights_only=True", "line 4: pickle.loads"]
    assert sorted(unsafe_loads("\n".join(lines))) == found
    assert unsafe_loads("try: ...\nexcept pickle.UnpicklingError: ...") == []


def test_export_order_is_constants_types_functions() -> None:
    assert sorted(["solve", "Macs", "BITS", "Budget"], key=export_order) == ["BITS", "Budget", "Macs", "solve"]


def test_rule_catches_long_files_and_functions() -> None:
    assert too_long("\n" * (MAX_FILE_LINES + 1)) == [f"{MAX_FILE_LINES + 1} lines"]
    assert too_long("def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES) == [f"f: {MAX_FUNCTION_LINES + 1} lines"]
    assert too_long("def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)) == []


def test_rule_catches_a_wrong_all() -> None:
    assert wrong_all("def f(): ...") == ["no __all__, but public names: ['f']"]
    assert wrong_all("def f(): ...", private=True) == []
    assert wrong_all("__all__ = ['g', 'F', 'F']\nclass F: ...") == [
        "__all__ is not sorted",
        "__all__ has a name twice",
        "__all__ names g",
    ]


def test_violations_are_named_by_module() -> None:
    assert "mixbit.errors" in violations(lambda source: ["found"] if "class MixbitError" in source else [])


def test_code_lines_do_not_count_the_docstring() -> None:
    (function,) = functions('def f():\n    """One.\n\n    Two."""\n    return 1\n')
    assert code_lines(function) == 2
