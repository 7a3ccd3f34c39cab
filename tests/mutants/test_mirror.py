"""The rule of which tests stand for which file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mirror import ROOT, SRC, TESTS, mirror_of, own_tests


def names(source: str) -> set[str]:
    return {str(test.relative_to(ROOT)) for test in mirror_of(SRC / source)}


def test_a_public_module_has_its_file_and_its_doctest() -> None:
    assert names("training/groups.py") == {"tests/training/test_groups.py", "src/mixbit/training/groups.py"}
    assert names("training/loop.py") == {"tests/training/test_loop.py"}  # no doctest of its own
    assert own_tests(SRC / "methods" / "limpq.py") == [TESTS / "methods" / "test_limpq.py"]


def test_a_private_module_has_its_own_file_and_those_of_its_users() -> None:
    assert names("training/_optim.py") >= {"tests/training/test__optim.py", "tests/training/test_loop.py"}
    assert "tests/allocation/test_solver.py" in names("allocation/_dp.py")
    assert "tests/test_cli.py" in names("cli/_choosing.py")  # by way of the package's face
    assert "tests/methods/test_fit.py" in names("sensitivity/curvature.py")  # used in another room alone


@pytest.mark.parametrize(
    ("source", "test"),
    [
        ("quantizers/_kernels.c", "tests/quantizers/test_operator.py"),
        ("topology/_lattice.c", "tests/topology/test_lattice.py"),
        ("export/c/kernels/mixbit_add.c", "tests/export/c/test_host.py"),
        ("export/c/kernels/mixbit_add.c", "tests/reference/test_litert.py"),
    ],
)
def test_c_files_have_the_tests_of_what_runs_them(source: str, test: str) -> None:
    assert test in names(source)


def test_a_reference_test_stands_for_what_it_names() -> None:
    assert "tests/reference/test_hawqv3.py" in names("methods/hawq.py")
    assert "tests/reference/test_hawqv3.py" not in names("methods/limpq.py")


def test_the_rule_is_a_command() -> None:
    command = [sys.executable, "-m", "tests.mirror", "src/mixbit/metric.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "tests/test_metric.py"
