import pytest

from mixbit import attacks
from mixbit.errors import MixbitError


def test_registry_names_makes_and_refuses() -> None:
    assert "pgd" in attacks.names(access="gradients") and "pgd" not in attacks.names(access="labels")
    assert attacks.make("pgd", {"steps": 3}) == attacks.Pgd(steps=3)
    for name, settings, said in (
        ("pdg", {}, "Did you mean 'pgd'"),
        ("pgd", {"step_s": 1}, "steps"),
        ("pgd", {"steps": 0}, "from 1"),
    ):
        with pytest.raises(MixbitError, match=said):
            attacks.make(name, settings)
    with pytest.raises(MixbitError, match="registered already"):
        attacks.register("pgd", "", source="ours", access="labels")(attacks.Pgd)
    with pytest.raises(MixbitError, match="access 'score' is not legal"):
        attacks.register("x", "", source="ours", access="score")  # type: ignore[arg-type]
