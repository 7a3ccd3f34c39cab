"""What the README and the documentation say is true: their commands run, their links exist, the site builds strictly.

How a page marks its command blocks (```console, ```bash and ```python):

    <!-- runs -->                 the block below is run here, in a scratch folder, after the page's earlier ones
    <!-- runs with NEED -->       the same, where that is installed (a name of tests/needs.py)
    <!-- not run: the reason -->  it is not, and says why (needs downloads, a GPU, hours)

In a ```console block the lines that start with "$ " are commands and the others are output, which is not compared. A
command block without a mark is an error, so that none goes stale unseen. The doctests of `src` are collected by pytest
itself.

Two pages may begin alike, with the same training. A command that an earlier page ran, on the same inputs, finds the
folder or the file that it made there, and reads it again.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from mixbit import __version__, attacks, methods
from mixbit.ptq import PTQConfig
from mixbit.quantizers import ACTIVATIONS, RULES, WEIGHTS
from mixbit.runs._options import KURTOSIS, NOISE
from tests.needs import NEEDS, need, reason
from tests.warm import alive

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"console", "bash", "sh", "shell", "python"}

FENCE = re.compile(
    r"(?:<!-- (?P<mark>runs(?: with [\w-]+)?|not run: [^>]+?) -->\n+)?"
    r"(?P<ticks>```+)(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=ticks)$",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")
FILE = re.compile(
    r"`(?P<path>(?:src|tests|benchmarks|examples|docs|integer|export|methods)/[\w./*-]+\.\w+)(?:::[^`]*)?`"
)
"""A file of the repository in running text: from its root, or within the package or the tests."""
EXAMPLES = {"src/mixbit/x/y.py", "tests/x/test_y.py"}
NAME = re.compile(r"`(?P<name>mixbit(?:\.\w+)+)(?=[`(])")


@dataclass(frozen=True)
class Block:
    """A fenced command block of a page."""

    language: str
    mark: str | None
    body: str

    @property
    def runs(self) -> bool:
        """Whether it is run here."""
        return self.mark is not None and self.mark.startswith("runs")

    @property
    def need(self) -> str | None:
        """What it asks for, a name of tests/needs.py."""
        return self.mark.removeprefix("runs with ") if self.mark and self.mark.startswith("runs with ") else None

    @property
    def script(self) -> str:
        """What bash or Python is given."""
        if self.language != "console":
            return self.body
        commands, continued = [], False
        for line in self.body.splitlines():
            if line.startswith("$ ") or continued:
                commands.append(line.removeprefix("$ "))
                continued = line.endswith("\\")
        return "\n".join(commands) + "\n"


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a page in one of the command languages."""
    for match in FENCE.finditer(text):
        if match["language"] in LANGUAGES:
            yield Block(match["language"], match["mark"], match["body"])


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def runnable(path: Path) -> list[Block]:
    return [block for block in blocks(path.read_text()) if block.runs]


# A folder or a file that a command makes, by all that leads to it: the command, and how each of its inputs came.
Made = tuple[str, tuple["Made", ...]]
MAKES = re.compile(r" --(?:run|out) (?P<into>\S+)")


def made_by(commands: list[str]) -> Iterator[tuple[str, Path, Made]]:
    """Every command of a page that makes something, with what it makes."""
    made: dict[str, Made] = {}
    for command in commands:
        found = MAKES.search(command)
        if found is not None:
            inputs = tuple(made[name] for name in made if re.search(rf" {re.escape(name)}\b", command))
            made[found["into"]] = (command, inputs)
            yield command, Path(found["into"]), made[found["into"]]


def commands_of(path: Path) -> list[str]:
    """The commands of a page that are run, one a line."""
    return [line for block in runnable(path) for line in block.script.replace("\\\n", "").splitlines()]


def page_groups() -> list[list[Path]]:
    """The pages with commands that are run; those that make the same thing stand together."""
    found: list[tuple[list[Path], set[Made]]] = []
    for page in PAGES:
        if not runnable(page):
            continue
        pages, makes = [page], {made for *_, made in made_by(commands_of(page))}
        for other in [other for other in found if other[1] & makes]:
            found.remove(other)
            pages, makes = other[0] + pages, other[1] | makes
        found.append((pages, makes))
    return [pages for pages, _ in found]


@pytest.mark.parametrize(
    ("command", "code", "output", "errors"),
    [
        ("mixbit --version", 0, f"mixbit {__version__}\n", ""),
        (
            "python -c 'import os, sys; print(os.getcwd(), os.environ[\"A\"], sys.argv); sys.exit(3)' b",
            3,
            "{} c ['-c', 'b']\n",
            "",
        ),
        ("echo 'print(__name__, input())' > a.py; echo d | python a.py", 0, "__main__ d\n", ""),
        ("python -c 'import sys; sys.exit(\"no\")'", 1, "", "no\n"),
        ("python -c 'import subprocess; raise SystemExit(subprocess.run([\"false\"]).returncode + 4)'", 5, "", ""),
        ("python -c 'import os; os.abort()'", 70, "", ""),
    ],
)
def test_a_warm_command_is_like_any_other(
    command: str, code: int, output: str, errors: str, warm: str, tmp_path: Path
) -> None:
    """Folder, environment, arguments, streams, children, exit code; one that dies is a failure."""
    environment = {**os.environ, "PATH": warm, "A": "c"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, output.replace("{}", str(tmp_path)))
    assert done.stderr == errors or code == 70


def test_a_warm_command_ends_with_who_asked_for_it(warm: str, tmp_path: Path) -> None:
    """Also one that stands still."""
    code = "import os, signal; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    asking = subprocess.Popen(
        [str(shutil.which("python", path=warm)), "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert asking.stdout is not None
    command = int(asking.stdout.readline())
    assert command != asking.pid
    asking.kill()
    asking.communicate()  # to the end of its output, which the command holds open
    while alive(command):
        time.sleep(0.01)


def test_torchrun_launches_warm_commands(warm: str, tmp_path: Path) -> None:
    """And its children see what follows the name of the script or the module."""
    # In one piece, also where nothing is buffered: both write at the same time.
    words = "os.environ['RANK'], str('torch' in sys.modules), *sys.argv[1:], '\\n'"
    code = f"import os, sys; os.write(1, ' '.join([{words}]).encode())"
    (tmp_path / "ranks.py").write_text(code)
    command = [str(shutil.which("torchrun", path=warm)), "--standalone", "--nproc-per-node", "2"]
    for words in (["ranks.py", "a"], ["-m", "ranks", "a"]):
        done = subprocess.run(
            [*command, *words],
            cwd=tmp_path,
            env={**os.environ, "PATH": warm},
            text=True,
            capture_output=True,
            check=True,
        )
        assert sorted(done.stdout.splitlines()) == ["0 True a ", "1 True a "]


def run(block: Block, folder: Path, warm: str) -> None:
    environment = dict(os.environ, OMP_NUM_THREADS="1", COLUMNS="120", PATH=warm)
    command = ["python", "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    program = str(shutil.which(command[0], path=warm))
    done = subprocess.run(
        [program, *command[1:], block.script],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{block.script}\nstdout:\n{done.stdout[-4000:]}\nstderr:\n{done.stderr[-4000:]}"


def run_page(path: Path, folder: Path, done: dict[Made, Path], warm: str) -> None:
    """All its blocks; what `done` has already is copied to where the page makes it."""
    folder.mkdir()
    makes = {command: (into, made) for command, into, made in made_by(commands_of(path))}
    for block in runnable(path):
        if block.need is not None and reason(block.need) is not None:
            continue
        for command in block.script.splitlines():
            if command in makes and makes[command][1] in done:
                into, made = makes[command]
                (folder / into).parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if done[made].is_dir() else shutil.copy)(done[made], folder / into)
        run(block, folder, warm)
    done |= {made: folder / into for into, made in makes.values()}


@pytest.mark.slow
@pytest.mark.parametrize("pages", page_groups(), ids=lambda pages: "+".join(name(page) for page in pages))
def test_marked_commands_run(pages: list[Path], tmp_path: Path, warm: str) -> None:
    done: dict[Made, Path] = {}
    for page in pages:
        run_page(page, tmp_path / page.stem, done, warm)
    need(*{block.need for page in pages for block in runnable(page) if block.need is not None})


def test_pages_share_what_the_same_commands_make() -> None:
    first = ["mixbit train a --run runs/float", "mixbit search --weights runs/float/model.safetensors --run runs/s"]
    one, two = ({made for *_, made in made_by([*begin, *first])} for begin in ([], ["mixbit list models"]))
    assert one == two and len(one) == 2
    other = {made for *_, made in made_by([first[0].replace("train a", "train b"), first[1]])}
    assert not one & other  # the same search, of other weights
    assert [[page.stem for page in pages] for pages in page_groups() if len(pages) > 1] == [
        ["README", "qfa", "quickstart"],
        ["kure", "stress"],
    ]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_command_block_is_marked(path: Path) -> None:
    assert [block.body for block in blocks(path.read_text()) if block.mark is None] == []


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_relative_links_exist(path: Path) -> None:
    targets = {match["target"] for match in LINK.finditer(path.read_text())}
    local = {target for target in targets if not re.match(r"[a-z]+:", target)}
    assert {target for target in local if not (path.parent / target).exists()} == set()


def missing_files(text: str) -> set[str]:
    """Of those that a page names."""
    named = {match["path"] for match in FILE.finditer(text)} - EXAMPLES
    roots = (ROOT, ROOT / "src" / "mixbit", ROOT / "tests")
    return {one for one in named if not any(list(root.glob(one)) for root in roots)}


def missing_names(text: str) -> set[str]:
    """Names of the package that a page has and Python does not."""
    return {match["name"] for match in NAME.finditer(text) if not is_there(match["name"])}


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or what a module or a class holds."""
    try:
        return pkgutil.resolve_name(dotted) is not None
    except (ImportError, AttributeError):
        return False


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_files_and_names_in_the_text_exist(path: Path) -> None:
    assert (missing_files(path.read_text()), missing_names(path.read_text())) == (set(), set())


def test_a_file_or_a_name_that_is_not_there_is_found() -> None:
    text = (
        "`tests/test_docs.py`, `tests/moved.py::test_a`, `mixbit.export.lower(x)`, `mixbit.export.moved`, `tests/c*.py`"
    )
    assert (missing_files(text), missing_names(text)) == ({"tests/moved.py"}, {"mixbit.export.moved"})


def test_tables_and_numbers_are_made_from_the_result_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever looks measured in prose has a key or a kind: docs/contributing.md says how."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("tables")  # here: in a process of its own it would import PyTorch again
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        tables.main()
    assert ended.value.code is None


# --------------------------------------------------------------------------------------------- whose a formula is

WHOSE = "What is the paper's, what is the released code's, what is ours"
WHOSE_SECTION = re.compile(
    rf"^#+ {WHOSE}(?: \{{ #[\w-]+ \}})?$\n(?P<body>.*?)(?=^#{{1,4}} |\Z)", re.DOTALL | re.MULTILINE
)
WHOSE_MARK = re.compile(r"\A\s*<!-- whose: (?P<names>[^>]+) -->\n")
LISTS = ("The paper's", "The released code's", "Ours", "Tested against")


def published() -> set[str]:
    """All that comes from papers, by where it is found and its name."""
    steps = get_args(get_type_hints(PTQConfig)["method"])
    rooms = {
        "method": methods.names(),
        "attack": attacks.names(),
        "weights": WEIGHTS,
        "activations": ACTIVATIONS,
        "rule": RULES,
        "ptq": steps,
    }
    alone = {f"training/{KURTOSIS}", f"training/{NOISE}", "certificate/smoothing", "certificate/irs"}
    return {f"{room}/{one}" for room, names in rooms.items() for one in names} | alone


def whose_sections(text: str) -> list[str]:
    return [match["body"] for match in WHOSE_SECTION.finditer(text)]


def whose_names(body: str) -> list[str]:
    mark = WHOSE_MARK.match(body)
    return mark["names"].split() if mark else []


def whose_faults(body: str) -> list[str]:
    """What such a section lacks."""
    pieces = re.split(rf"^\*\*({'|'.join(LISTS)}):\*\*", body, flags=re.MULTILINE)
    parts = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    faults = [f"no list: {name}" for name in LISTS[:3] if not re.search(r"^\* \S", parts.get(name, ""), re.MULTILINE)]
    tested = parts.get("Tested against", "").split("\n\n")[0]
    if not re.search(r"\b[Tt]he authors' numbers:|No numbers of the authors' exist to test against:", tested):
        faults.append("does not say whether numbers of the authors' are tested against")
    named = re.findall(r"`(tests/[\w/]+\.py)`", tested)
    return faults + [f"no such test: {path}" for path in named or ["none"] if not (ROOT / path).is_file()]


def test_every_method_quantizer_and_rule_says_whose_it_is() -> None:
    """The next one too: it is found by its name, and its section is missing."""
    found = [name for page in PAGES for body in whose_sections(page.read_text()) for name in whose_names(body)]
    assert sorted(found) == sorted(published())


@pytest.mark.parametrize("path", [page for page in PAGES if WHOSE in page.read_text()], ids=name)
def test_a_section_of_whose_has_its_lists_and_its_tests(path: Path) -> None:
    sections = whose_sections(path.read_text())
    assert len(sections) == path.read_text().count(WHOSE)  # the heading is the same everywhere
    assert {body.split("-->")[0]: whose_faults(body) for body in sections if whose_faults(body)} == {}


def test_a_method_is_explained_where_the_list_of_methods_leads() -> None:
    index = ROOT / "docs" / "methods" / "index.md"
    pages = dict(re.findall(r"^\| \[`([\w-]+)`\]\(([\w-]+\.md)", index.read_text(), re.MULTILINE))
    where = {one: page.name for page in PAGES for body in whose_sections(page.read_text()) for one in whose_names(body)}
    assert pages == {name: where[f"method/{name}"] for name in methods.names()}


def test_what_a_section_of_whose_lacks_is_found() -> None:
    whole = (
        f"## {WHOSE}\n\n<!-- whose: rule/a rule/b -->\n**The paper's:**\n\n* one\n\n"
        "**The released code's:** of none.\n\n* two\n\n**Ours:**\n\n* three\n\n"
        "**Tested against:** the authors' numbers: (`tests/test_docs.py`).\n\nmore\n\n## Next\n\n* four\n"
    )
    (body,) = whose_sections(whole)
    assert whose_names(body) == ["rule/a", "rule/b"] and whose_faults(body) == [] and "four" not in body
    for old, new, told in (
        ("* two\n", "", "no list: The released code's"),
        ("* three\n", "", "no list: Ours"),
        ("the authors' numbers:", "numbers", "does not say whether numbers of the authors' are tested against"),
        ("tests/test_docs.py", "tests/test_dogs.py", "no such test: tests/test_dogs.py"),
        ("(`tests/test_docs.py`)", "by hand", "no such test: none"),
    ):
        assert whose_faults(whose_sections(whole.replace(old, new))[0]) == [told]
    assert whose_sections(whole.replace("ours\n", "mine\n", 1)) == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly: a broken link or an unresolved API name fails here."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    # Nothing is looked up in it here, no listing is read, and a signature that fits its line is not formatted.
    without = {"MIXBIT_DOCS_SEARCH": "false", "MIXBIT_DOCS_SOURCE": "false", "MIXBIT_DOCS_LINE": "9999"}
    environment = {**os.environ, **without}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_site_builds_strictly(site: Path) -> None:
    assert (site / "index.html").exists()
    assert 'href="https://fonts' not in (site / "index.html").read_text()


@pytest.mark.slow
def test_every_public_name_is_on_an_api_page(site: Path) -> None:
    """By the name that users import it by, e.g. `mixbit.cost.Budget`."""
    anchors = {
        name for page in (site / "api").glob("*.html") for name in re.findall(r'id="(mixbit[\w.]+)"', page.read_text())
    }
    missing = [
        f"{module}.{public}"
        for module, names in public_names().items()
        for public in names
        if f"{module}.{public}" not in anchors
    ]
    assert missing == []


def public_names() -> dict[str, list[str]]:
    """Module -> its `__all__`, for the rooms that users import from."""
    source = ROOT / "src" / "mixbit"
    found = {}
    for path in [*source.glob("[a-z]*.py"), *source.glob("[a-z]*/__init__.py")]:
        module = "mixbit." + (path.parent.name if path.name == "__init__.py" else path.stem)
        listed = re.search(r"^__all__ = (\[.*?\])", path.read_text(), re.DOTALL | re.MULTILINE)
        if listed is not None and module != "mixbit.cli":
            found[module] = ast.literal_eval(listed[1])
    return found


def test_the_public_face_is_listed_whole() -> None:
    listed = re.search(r"^__all__ = (\[.*?\])", (ROOT / "src/mixbit/__init__.py").read_text(), re.DOTALL | re.MULTILINE)
    assert listed is not None
    page = (ROOT / "docs/api/index.md").read_text()
    assert [name for name in ast.literal_eval(listed[1]) if f"[`{name}`]" not in page] == ["__version__"]


@pytest.mark.slow
def test_doctests_are_code_on_the_api_pages(site: Path) -> None:
    """Outside of listings of source code, `>>>` stands in highlighted blocks only."""
    page = (site / "api" / "cost.html").read_text()
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert not re.search(r"<p>\s*&gt;&gt;&gt;|<blockquote>", page)


def test_version_is_the_same_everywhere() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/mixbit/_version.py").read_text())
    assert version is not None
    assert f"version: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()


# --------------------------------------------------------------------------- the reader of pages does what it says

PAGE = """
<!-- runs -->
```console
$ one \\
    --two
output
$ three
```

<!-- not run: hours -->
```bash
four
```

```python
five
```

```json
{}
```
"""


def test_a_block_that_needs_something_runs_where_it_is(
    warm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says what it needs, by the name of tests/needs.py."""
    page = tmp_path / "page.md"
    for there in (True, False):
        monkeypatch.setitem(NEEDS, "an-anvil", ("an anvil", lambda there=there: there))
        page.write_text(
            f"<!-- runs with an-anvil -->\n```bash\necho > struck-{there}\n```\n<!-- runs -->\n```bash\necho\n```\n"
        )
        assert [block.need for block in blocks(page.read_text())] == ["an-anvil", None]
        run_page(page, tmp_path / str(there), {}, warm)
        assert (tmp_path / str(there) / f"struck-{there}").exists() is there


def test_what_an_earlier_page_made_is_there_before_the_command(warm: str, tmp_path: Path) -> None:
    """The folder of the first page is copied, so that a command finds it; each page goes on in its own."""
    page, done = tmp_path / "page.md", {}
    page.write_text(
        "<!-- runs -->\n```bash\ntest -e runs/a || mkdir -p runs/a; echo $PWD >> runs/a/log; true --run runs/a\n```\n"
    )
    for name in ("first", "second"):
        run_page(page, tmp_path / name, done, warm)
    assert [Path(line).name for line in (tmp_path / "second/runs/a/log").read_text().split()] == ["first", "second"]
    assert [Path(line).name for line in (tmp_path / "first/runs/a/log").read_text().split()] == ["first"]


def test_blocks_reads_marks_and_commands() -> None:
    found = list(blocks(PAGE))
    assert [block.mark for block in found] == ["runs", "not run: hours", None]
    assert [block.runs for block in found] == [True, False, False]
    assert found[0].script == "one \\\n    --two\nthree\n"


def test_run_reports_a_failing_command(warm: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="false"):
        run(Block("bash", "runs", "false\n"), tmp_path, warm)


def test_run_stops_at_the_first_failure(warm: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(Block("console", "runs", "$ false\n$ touch later\n"), tmp_path, warm)
    assert not (tmp_path / "later").exists()
