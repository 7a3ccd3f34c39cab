"""The package can be built anywhere, and its pins are the set that is tested."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.needs import needs

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OURS = [texts for name, texts in EXTRAS.items() if name != "peers"]  # these have an environment and pins of their own
REQUIREMENTS = [Requirement(text) for texts in [PROJECT["dependencies"], *OURS] for text in texts]
PEERS = ROOT / "benchmarks" / "peers" / "constraints.txt"


def pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """Package -> version of a constraints file."""
    lines = path.read_text().splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in found.items()}


def build(folder: Path, **environment: str) -> list[Path]:
    """The libraries that setup.py builds into a folder."""
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        str(folder),
        "--build-temp",
        str(folder / "t"),
    ]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True, timeout=300)
    return list(folder.rglob("*.so"))


@pytest.mark.slow
@needs("ldd")
def test_kernels_bring_no_openmp_runtime_of_their_own(tmp_path: Path) -> None:
    """A second runtime beside the one that torch has loaded means two thread pools, or a crash."""
    libraries = build(tmp_path)
    assert sorted(path.name.partition(".")[0] for path in libraries) == ["_births", "_kernels", "_lattice"]
    for library in libraries:
        needed = subprocess.run(["ldd", str(library)], text=True, capture_output=True, check=False).stdout
        assert "omp" not in needed


@pytest.mark.slow
def test_without_a_compiler_the_build_goes_on(tmp_path: Path) -> None:
    assert build(tmp_path, CC="/nonexistent/cc") == []


@pytest.mark.slow
def test_files_beside_the_code_are_installed(tmp_path: Path) -> None:
    """C sources that exported networks are made of ship with the package; those of setup.py are compiled instead."""
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    source = ROOT / "src"
    compiled = {path.with_suffix(".c") for path in source.rglob("*.so")} | set(source.glob("mixbit/*/_*.c"))
    wanted = {
        path.relative_to(source)
        for path in (source / "mixbit").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".so") and path not in compiled
    }
    assert Path("mixbit/export/c/kernels/mixbit_conv.c") in wanted
    assert sorted(path for path in wanted if not (tmp_path / path).exists()) == []


def test_every_requirement_is_pinned_within_its_range() -> None:
    pinned = pins()
    for requirement in REQUIREMENTS:
        if requirement.name != "mixbit":
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(Version(version)), f"{requirement} does not allow {version}"


def test_other_toolkits_are_pinned_for_their_own_environment() -> None:
    pinned = pins(PEERS)
    for text in [*PROJECT["dependencies"], *EXTRAS["peers"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(Version(pinned[canonicalize_name(requirement.name)])), text
    assert pinned["torch"] == pins()["torch"]


@pytest.mark.parametrize("path", [ROOT / "constraints.txt", PEERS], ids=["ours", "peers"])
def test_pins_serve_everywhere(path: Path) -> None:
    """A local version such as +cpu exists on one index only, and an address belongs to one machine only."""
    text = path.read_text()
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins(path).values())
    assert not re.search(r"://|--|@", text.replace("pip install -c", ""))


def test_torch_is_capped_and_no_build_requirement() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert "torch" not in tomllib.loads(text)["build-system"]["requires"]
    (torch,) = [one for one in REQUIREMENTS if one.name == "torch"]
    assert any(part.operator == "<" for part in torch.specifier)


def test_every_extra_is_one_that_code_asks_for() -> None:
    """An error that names an extra (`mixbit[data]`) names one that exists."""
    named = {
        match for path in (ROOT / "src").rglob("*.py") for match in re.findall(r"mixbit\[(\w+)\]", path.read_text())
    }
    assert named <= EXTRAS.keys()
