"""Policies and scores: exact round trips, hand edits, and files that mean harm."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixbit.cost import cost_table
from mixbit.errors import BudgetError, PolicyError
from mixbit.network import FloatParameter, Network
from mixbit.policy import LayerBits, LayerScores, Pairs, Policy, Program, Scores, bits_digest, resolve_pins
from tests.support import chain, layer, network, random_latency, random_network, random_scores

HOSTILE = Path(__file__).parent / "adversarial_files"
EIGHT = LayerBits(8, 8)
PRINT = "sha256:0123456789abcdef"


def resnet_like() -> Network:
    return network([layer("conv1", "x", "a"), layer("layer1.0.conv1", "a", "b"), layer("fc", "b", "out")])


def edited(path: Path, **changes: object) -> Path:
    """The file with some top-level keys replaced."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


# ------------------------------------------------------------------------------------------------ policies


def test_policy_round_trip(tmp_path: Path) -> None:
    net = resnet_like()
    policy = replace(
        Policy.uniform(net, 3, None, {"fc": EIGHT}),
        seed=2**64 - 1,
        budget={"bitops": "3x4"},
        notes=["a note, with ünicode"],
        allocation={"objective": 4.617391, "slack": {"bitops": 12}, "proven": True, "nothing": None, "list": [1, 2.5]},
    )
    policy.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json") == policy


@settings(max_examples=50, deadline=None)
@given(
    bits=st.lists(st.tuples(*[st.none() | st.integers(2, 8)] * 2), min_size=1, max_size=5),
    name=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()),
    seed=st.none() | st.integers(0, 2**64 - 1),
)
def test_any_policy_survives_its_file(
    tmp_path_factory: pytest.TempPathFactory, bits: list[tuple[int | None, int | None]], name: str, seed: int | None
) -> None:
    layers = {f"{name}.{i}": LayerBits(*pair) for i, pair in enumerate(bits)}
    policy = Policy(fingerprint=PRINT, layers=layers, method=name, seed=seed, costs={"bitops": 2**63 - 1, "ratio": 0.1})
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    policy.save(path)
    assert Policy.load(path) == policy


def test_the_file_is_made_for_people(tmp_path: Path) -> None:
    Policy.uniform(resnet_like(), 3, 4, {"conv1": EIGHT}).save(tmp_path / "policy.json")
    content = json.loads((tmp_path / "policy.json").read_text())
    assert list(content)[:3] == ["format", "version", "fingerprint"]
    assert list(content)[-1] == "layers"
    assert content["layers"] == {
        "conv1": {"weight_bits": 8, "activation_bits": 8},
        "layer1.0.conv1": {"weight_bits": 3, "activation_bits": 4},
        "fc": {"weight_bits": 3, "activation_bits": 4},
    }


def test_a_minimal_hand_written_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    layers = {"fc": {"weight_bits": 4, "activation_bits": None}}
    path.write_text(json.dumps({"format": "mixbit-policy", "version": 1, "fingerprint": PRINT, "layers": layers}))
    policy = Policy.load(path)
    assert policy.layers == {"fc": LayerBits(4, None)}
    assert policy.method == "by hand"


def test_uniform_policy_carries_its_costs() -> None:
    net = chain((10, 100), (20, 300))
    policy = Policy.uniform(net, 3, 4, {"l0": EIGHT})
    assert policy.costs["bitops"] == 100 * 64 + 300 * 12
    assert policy.costs["float_bitops"] == 400 * 1024
    assert policy.notes == ["pinned: l0 W8A8"]
    assert policy.check(net) is policy
    uncounted = Policy.uniform(network(net.layers, other_macs=77), 3, 4, {})
    assert uncounted.notes == [
        "77 MACs outside the layers (products without parameters, as in attention) stay in float, uncounted"
    ]
    assert uncounted.costs["float_bitops"] == 400 * 1024
    with pytest.raises(PolicyError, match="Did you mean 'conv1'"):
        Policy.uniform(resnet_like(), 3, 4, {"conv": EIGHT})
    with pytest.raises(PolicyError, match=r"weight_bits '9' is not legal"):
        Policy.uniform(net, 9, 4, {})


def test_parameters_in_float_are_counted_and_told_with_the_first_five() -> None:
    """Their own operations are not told again among those that nothing counts."""
    bare = chain((10, 100), (20, 300))
    rest = tuple(FloatParameter(name=f"p{i}", size=10 + i, reason="added", macs=2) for i in range(7))
    net = replace(bare, float_parameters=rest, other_macs=20)
    found = Policy.uniform(net, 3, 4, {})
    assert found.notes == [
        "7 parameters of 91 elements stay in float32, counted at 32 bits: p0 (added), p1 (added), p2 (added), "
        "p3 (added), p4 (added) and 2 more, see mixbit inspect",
        "6 MACs outside the layers (products without parameters, as in attention) stay in float, uncounted",
    ]
    five = Policy.uniform(replace(net, float_parameters=rest[:5], other_macs=10), 3, 4, {}).notes
    assert len(five) == 1 and five[0].endswith("p4 (added)")
    assert found.costs["bitops"] == 400 * 12 + 14 * 1024 and found.costs["weight_bytes"] == -(-(30 * 3 + 91 * 32) // 8)


def test_edited_bits_are_welcome_and_costs_follow(tmp_path: Path) -> None:
    net = resnet_like()
    path = tmp_path / "policy.json"
    replace(Policy.uniform(net, 3, 4, {}), allocation={"objective": 1.0, "gap": 0.0}).save(path)
    layers = json.loads(path.read_text())["layers"]
    layers["fc"]["weight_bits"] = 5
    policy = Policy.load(edited(path, layers=layers)).check(net)
    assert policy.layers["fc"] == LayerBits(5, 4)
    assert policy.costs == cost_table(net, policy.layers)
    assert policy.allocation == {}
    assert policy.notes == [
        "costs recomputed for these bits and this input size: bitops, weight_bytes had other values"
    ]
    assert policy.check(net) is policy


def test_a_measured_latency_stays_with_its_bits() -> None:
    net = resnet_like()
    table = random_latency(net)
    plain = Policy.uniform(net, 3, 4, {})
    policy = replace(plain, costs=cost_table(net, plain.layers, latency=table))
    assert policy.check(net) is policy
    assert policy.check(net, table) is policy
    other = random_latency(net, seed=1)
    assert policy.check(net, other).costs["latency_ns"] == other.cost(policy.layers)
    assert plain.check(net, table) == policy
    edited_bits = replace(policy, layers={**policy.layers, "fc": LayerBits(4, 4)}, allocation={"objective": 1.0})
    without = edited_bits.check(net)
    assert "latency_ns" not in without.costs
    assert without.allocation == {}
    assert "latency_ns" in without.notes[-1]
    assert edited_bits.check(net, table).costs["latency_ns"] == table.cost(edited_bits.layers)


def test_flash_and_ram_stay_with_their_bits() -> None:
    """What was counted of a device's form holds as long as the bits do."""
    net = resnet_like()
    plain = Policy.uniform(net, 3, 4, {})
    policy = replace(plain, costs={**plain.costs, "flash_bytes": 1234, "ram_bytes": 567})
    assert policy.check(net) is policy
    edited_bits = replace(policy, layers={**policy.layers, "fc": LayerBits(4, 4)}).check(net)
    assert not {"flash_bytes", "ram_bytes"} & set(edited_bits.costs)
    assert "flash_bytes" in edited_bits.notes[-1] and "ram_bytes" in edited_bits.notes[-1]


def test_a_file_without_costs_gets_them_without_a_note() -> None:
    net = resnet_like()
    policy = replace(Policy.uniform(net, 3, 4, {}), costs={})
    assert policy.check(net) == Policy.uniform(net, 3, 4, {})


def test_costs_are_recomputed_in_the_policys_own_counting() -> None:
    net = network([layer("a", "x", "y", macs=784, limpq=812)])
    policy = Policy.uniform(net, 3, 4, {}, macs="limpq")
    assert policy.costs["bitops"] == 812 * 12
    assert policy.check(net) is policy


def test_policy_of_another_model_names_the_difference() -> None:
    net = resnet_like()
    policy = Policy.uniform(net, 3, 4, {})
    wider = network([layer("conv1", "x", "a"), layer("layer1.0.conv1", "a", "b"), layer("fc", "b", "out", weights=7)])
    renamed = network([layer("conv1", "x", "a"), layer("layer1.0.conv2", "a", "b"), layer("fc", "b", "out")])
    longer = network([*net.layers, layer("extra", "out", "end")])
    for other, text in (
        (wider, "the layers have the same names, but other kinds, weight shapes or groups"),
        (renamed, "its layer 'layer1.0.conv1' is not in this network. Did you mean 'layer1.0.conv2'"),
        (longer, "it has 3 layers, this network has 4"),
    ):
        with pytest.raises(PolicyError, match="This policy was made for another model") as caught:
            policy.check(other)
        assert text in str(caught.value)
        assert policy.fingerprint in str(caught.value)


def test_unknown_and_missing_layers_of_an_edited_policy() -> None:
    net = resnet_like()
    policy = Policy.uniform(net, 3, 4, {})
    with pytest.raises(PolicyError, match=r"'layer1.0.conv', which .* Did you mean 'layer1.0.conv1'"):
        replace(policy, layers={**policy.layers, "layer1.0.conv": EIGHT}).check(net)
    with pytest.raises(PolicyError, match=r"no bits for 1 of 3 layers: fc"):
        replace(policy, layers={name: bits for name, bits in policy.layers.items() if name != "fc"}).check(net)
    with pytest.raises(PolicyError, match=r"layer 'fc' holds \(4, 4\)"):
        replace(policy, layers={**policy.layers, "fc": (4, 4)}).check(net)  # type: ignore[dict-item]
    with pytest.raises(PolicyError, match="newer mixbit"):
        replace(policy, version=2).check(net)


def test_a_missing_file_and_a_folder_are_policy_errors(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="No file at"):
        Policy.load(tmp_path / "none.json")
    with pytest.raises(PolicyError, match="Cannot read"):
        Scores.load(tmp_path)


# -------------------------------------------------------------------------------------------------- scores


def test_scores_round_trip(tmp_path: Path) -> None:
    scores = replace(random_scores(random_network(0)), settings={"epochs": 5, "lr": [0.01, 1e-05], "faithful": True})
    scores.save(tmp_path / "scores.json")
    loaded = Scores.load(tmp_path / "scores.json")
    assert loaded == scores
    assert [list(one.weight) for one in loaded.layers.values()] == [list(one.weight) for one in scores.layers.values()]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(2, 8), st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_harm_survives_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, curve: dict[int, float]) -> None:
    scores = Scores(fingerprint=PRINT, method="m", layers={"a": LayerScores(curve, curve)})
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    scores.save(path)
    loaded = Scores.load(path).layers["a"]
    assert [(b, h.hex()) for b, h in loaded.weight.items()] == [(b, h.hex()) for b, h in curve.items()]


def test_harm_by_the_formula() -> None:
    scores = Scores(
        fingerprint=PRINT, method="m", alpha=2.0, layers={"a": LayerScores({4: 0.1, 2: 0.5}, {4: 0.3, 2: 0.9})}
    )
    assert scores.harm("a", LayerBits(4, 2)) == 0.9 + 2 * 0.1
    assert scores.harm("a", LayerBits(4, 2), alpha=0.0) == 0.9
    assert scores.harm("a", LayerBits(None, 4)) == 0.3
    with pytest.raises(PolicyError, match=r"no score for 'a', weight at 3 bits. Legal: \[2, 4\]"):
        scores.harm("a", LayerBits(3, 4))
    with pytest.raises(PolicyError, match="no scores for the layer 'b'"):
        scores.harm("b", LayerBits(4, 4))


@pytest.mark.parametrize(
    "curve", [{}, {0: 0.1}, {17: 0.1}, {4: float("nan")}, {4: float("inf")}, {4.0: 0.1}, {True: 0.1}, {None: 0.1}]
)
def test_illegal_curves_in_memory(curve: dict[int, float]) -> None:
    with pytest.raises(PolicyError):
        LayerScores(weight=curve, activation={4: 0.1})
    with pytest.raises(PolicyError):
        LayerScores(weight={4: 0.1}, activation=curve)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_illegal_alpha(alpha: float) -> None:
    with pytest.raises(PolicyError, match=r"alpha .* is not legal"):
        Scores(fingerprint=PRINT, method="m", alpha=alpha, layers={})


def test_scores_may_leave_layers_out_but_not_invent_them() -> None:
    net = resnet_like()
    scores = random_scores(net)
    replace(scores, layers={"fc": scores.layers["fc"]}).check(net)
    with pytest.raises(PolicyError, match=r"'conv2', which this network does not have. Did you mean 'conv1'"):
        replace(scores, layers={**scores.layers, "conv2": scores.layers["fc"]}).check(net)
    with pytest.raises(PolicyError, match="This score table was made for another model"):
        replace(scores, fingerprint=PRINT).check(net)
    with pytest.raises(PolicyError, match="newer mixbit"):
        replace(scores, version=3).check(net)


# ------------------------------------------------------------------------------------------------ programs

TWO = (("a", "weight", 2), ("b", "activation", 4))


def programs() -> st.SearchStrategy[Program]:
    """Of a table with the layers `a` and `b`."""
    entry = st.floats(allow_nan=False, allow_infinity=False)
    pairs = entry.map(lambda harm: Pairs(TWO, ((0.0, harm), (harm, 0.0))))  # type: ignore[arg-type]
    plain = st.builds(
        Program,
        coupled=st.booleans(),
        box=st.booleans(),
        order=st.sampled_from([(), ("a",), ("b", "a")]),
        activation_order=st.sampled_from([None, (), ("b",)]),
    )
    return plain | st.builds(Program, coupled=st.booleans(), pairs=pairs)


def small_table(program: Program) -> Scores:
    curve = LayerScores({4: 0.0, 2: 1.0}, {4: 0.25, 2: 0.5})
    return Scores(fingerprint=PRINT, method="m", layers={"a": curve, "b": curve}, program=program)


@settings(max_examples=50, deadline=None)
@given(program=programs())
def test_any_program_survives_its_file(tmp_path_factory: pytest.TempPathFactory, program: Program) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    small_table(program).save(path)
    assert Scores.load(path) == small_table(program)
    content = json.loads(path.read_text())
    assert content["version"] == (1 if program == Program() else 2)
    assert ("program" in content) == (program != Program())


def test_a_file_without_a_program_is_as_before(tmp_path: Path) -> None:
    small_table(Program()).save(tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())
    assert list(content) == ["format", "version", "fingerprint", "method", "seed", "alpha", "settings", "layers"]
    assert content["version"] == 1


def test_a_program_in_its_file(tmp_path: Path) -> None:
    pairs = Pairs(TWO, ((0.0, 0.5), (0.5, 0.0)))  # type: ignore[arg-type]
    small_table(Program(coupled=True, pairs=pairs)).save(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["program"] == {
        "coupled": True,
        "order": [],
        "box": False,
        "pairs": {"variables": [["a", "weight", 2], ["b", "activation", 4]], "matrix": [[0.0, 0.5], [0.5, 0.0]]},
    }


def test_total_counts_joint_harm_once_and_pinned_layers_not() -> None:
    pairs = Pairs(TWO, ((0.0, 0.5), (0.5, 0.0)))  # type: ignore[arg-type]
    scores = small_table(Program(pairs=pairs))
    low = {"a": LayerBits(2, 2), "b": LayerBits(4, 4), "fc": EIGHT}
    assert scores.total(low) == (1.0 + 0.5) + (0.0 + 0.25) + 0.5
    assert scores.total({**low, "b": LayerBits(4, 2)}) == 1.5 + 0.5
    assert replace(scores, program=Program()).total(low) == 1.75
    with pytest.raises(PolicyError, match="no score for 'a', weight at 8 bits"):
        scores.total({"a": EIGHT})


@pytest.mark.parametrize(
    ("variables", "matrix", "message"),
    [
        (TWO, ((0.0, 1.0),), "not 2 x 2"),
        (TWO, ((0.0, 1.0), (2.0, 0.0)), "not symmetric"),
        (TWO, ((0.0, float("inf")), (float("inf"), 0.0)), "not finite"),
        (TWO, ((0.0, 1.0), (1.0, -1.0)), "diagonal at"),
        ((("a", "bias", 2),), ((0.0,),), "Legal: weight, activation"),
        ((("a", "weight", 9),), ((0.0,),), "Legal"),
        ((("a", "weight", None),), ((0.0,),), "Legal: whole numbers 1 to 8"),
        ((TWO[0], TWO[0]), ((0.0, 0.0), (0.0, 0.0)), "more than once"),
    ],
)
def test_illegal_pairs_in_memory(variables: tuple[Any, ...], matrix: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Pairs(variables, matrix)


def test_a_difference_beyond_rounding_is_not_taken() -> None:
    with pytest.raises(PolicyError, match="not symmetric"):
        Pairs(TWO, ((0.0, 1.0), (1.00001, 0.0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("rule", "named"), [({"box": True}, "box"), ({"order": ("a",)}, "order")])
def test_pairs_go_with_no_other_rule(rule: dict[str, Any], named: str) -> None:
    pairs = Pairs(TWO, ((0.0, 1.0), (1.0, 0.0)))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=f"both pairs and {named}"):
        Program(pairs=pairs, **rule)
    assert Program(pairs=pairs, coupled=True).coupled


def test_a_matrix_that_is_symmetric_to_rounding_is_taken() -> None:
    Pairs(TWO, ((0.0, 0.1 + 0.2), (0.3, 0.0)))  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- files

# File -> a piece of the message that its reader needs. Every file of the folder is in this table.
MESSAGES = {
    "policy_bits_beyond_digits": "thousands of digits",
    "policy_bits_bool": "'fc' > 'weight_bits' is true. Legal: a whole number 1 to 8, or null",
    "policy_bits_extra_key": "'bias_bits' is an unknown key. Did you mean 'weight_bits'",
    "policy_bits_float": "'weight_bits' is 4.0. Legal: a whole number 1 to 8",
    "policy_bits_huge": "'weight_bits' is a whole number of 13288 bits",
    "policy_bits_missing_side": "'activation_bits' is missing",
    "policy_bits_nan": "the number nan; all numbers must be finite",
    "policy_bits_nine": "'weight_bits' is 9. Legal: a whole number 1 to 8",
    "policy_bits_text": "'weight_bits' is \"4\"",
    "policy_bits_zero": "'weight_bits' is 0",
    "policy_budget_number": "'budget' > 'bitops' is 3. Legal: an object of texts",
    "policy_cost_huge": "'costs' > 'bitops' is a whole number of 1329 bits",
    "policy_cost_infinite": "the number inf",
    "policy_cost_nan": "the number nan",
    "policy_cost_text": "'costs' > 'bitops' is \"1.2G\"",
    "policy_empty": "is not JSON: Expecting value at line 1, column 1",
    "policy_fingerprint_malformed": "Legal: 'sha256:' and 16 hex digits",
    "policy_huge_version": "newer mixbit",
    "policy_is_a_list": "holds a list; a mixbit-policy file is an object",
    "policy_is_null": "holds null",
    "policy_is_scores": 'has format "mixbit-scores"',
    "policy_layer_is_number": "'layers' > 'fc' is 4. Legal: an object with weight_bits and activation_bits",
    "policy_layer_is_pair": "'layers' > 'fc' is a list",
    "policy_layer_twice": "the key 'fc' twice",
    "policy_layers_empty": "'layers' is an empty object",
    "policy_layers_list": "'layers' is an empty list",
    "policy_macs_unknown": "'macs' is \"approximate\". Legal: 'exact' or 'limpq'",
    "policy_nested_deep": "nested too deeply",
    "policy_nested_infinity": "the number -inf",
    "policy_newer_version": "is version 2 of mixbit-policy; this mixbit reads up to 1. It was written by a newer",
    "policy_not_utf8": "is not UTF-8",
    "policy_notes_text": "'notes' is \"one note\". Legal: a list of texts",
    "policy_seed_huge": "'seed' is a whole number of 1329 bits",
    "policy_seed_negative": "'seed' is -1",
    "policy_truncated": "is not JSON",
    "policy_unknown_key": "'layrs' is an unknown key. Did you mean 'layers'",
    "policy_version_is_float": "has version 1.0",
    "policy_version_is_true": "has version true",
    "policy_version_is_zero": "has version 0",
    "policy_without_fingerprint": "'fingerprint' is missing",
    "policy_without_format": "has format null, wanted 'mixbit-policy'",
    "policy_without_version": "has version null",
    "scores_alpha_nan": "the number nan",
    "scores_alpha_negative": "'alpha' is -2.0. Legal: a finite number from 0 up",
    "scores_bits_newline": r"""'weight' > '4\n'""",
    "scores_bits_nine": '\'weight\' > \'9\' is "9". Legal: an object from bits "1" to "8"',
    "scores_bits_padded": "'weight' > '04'",
    "scores_bits_sixteen": "'weight' > '16'",
    "scores_bits_space": "'weight' > '4 '",
    "scores_bits_twice": "the key '4' twice",
    "scores_bits_unicode": "'weight' > '٤'",
    "scores_curve_empty": "'weight' is an empty object",
    "scores_harm_bool": "'weight' > '4' is true",
    "scores_harm_huge": "'weight' > '4' is a whole number of 1329 bits",
    "scores_harm_infinite": "the number -inf",
    "scores_harm_nan": "the number nan",
    "scores_harm_null": "'weight' > '4' is null",
    "scores_harm_text": "'weight' > '4' is \"0.1\"",
    "scores_is_policy": 'has format "mixbit-policy"',
    "scores_nested_deep": "nested too deeply",
    "scores_newer_version": "is version 7 of mixbit-scores",
    "scores_order_twice": "order: the layer 'fc' occurs more than once",
    "scores_order_unknown_layer": "order: there are no scores for the layer 'convv'. Did you mean 'conv'",
    "scores_pairs_bits_nine": "weight_bits of 'conv', '9' is not legal. Legal: whole numbers 1 to 8",
    "scores_pairs_bits_not_scored": "no weight score for 'conv' at 3 bits. Legal: [2, 4]",
    "scores_pairs_diagonal": "the diagonal at ('fc', 'weight', 2) is not zero",
    "scores_pairs_extra_key": "'diagonal' is an unknown key. Legal: variables, matrix",
    "scores_pairs_nan": "the number nan",
    "scores_pairs_not_symmetric": "not symmetric: ('fc', 'weight', 2) with ('conv', 'weight', 2) is 0.5",
    "scores_pairs_ragged": "the matrix is not 2 x 2",
    "scores_pairs_short_variable": "'variables' > '1' > '2' is missing",
    "scores_pairs_side": 'is "bias". Legal: a list of [layer,',
    "scores_pairs_text": "'matrix' > '0' > '1' is \"0.5\". Legal: a list of rows of finite numbers",
    "scores_pairs_twice": "the variable ('fc', 'weight', 2) occurs more than once",
    "scores_pairs_unknown_layer": "pairs: there are no scores for the layer 'cnv'. Did you mean 'conv'",
    "scores_pairs_with_order": "both pairs and order",
    "scores_program_coupled_text": "'program' > 'coupled' is \"yes\". Legal: true or false",
    "scores_program_in_version_1": "is version 1 but has a 'program'",
    "scores_program_is_list": "'program' is an empty list. Legal: an object with some of coupled, order, "
    "activation_order, box, pairs",
    "scores_program_unknown_key": "'copled' is an unknown key. Did you mean 'coupled'",
    "scores_unknown_key": "'methd' is an unknown key. Did you mean 'method'",
    "scores_without_method": "'method' is missing",
}


def test_the_table_of_hostile_files_is_complete() -> None:
    assert {path.stem for path in HOSTILE.iterdir()} == set(MESSAGES)


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_hostile_file_is_a_clear_policy_error(name: str) -> None:
    path = HOSTILE / f"{name}.json"
    with pytest.raises(PolicyError) as caught:
        (Policy if name.startswith("policy") else Scores).load(path)
    assert MESSAGES[name] in str(caught.value)
    assert repr(str(path)) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("depth", [100, 300, 900])
def test_nesting_that_json_still_reads_ends_in_a_value_or_a_policy_error(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "policy.json"
    Policy(fingerprint=PRINT, layers={"fc": EIGHT}).save(path)
    text = path.read_text().replace('"allocation": {}', '"allocation": {"a": ' + "[" * depth + "]" * depth + "}")
    path.write_text(text)
    try:
        found = list(Policy.load(path).allocation)
    except PolicyError as error:
        found = ["a"] if "nested too deeply" in str(error) or "'allocation'" in str(error) else [str(error)]
    assert found == ["a"]


@settings(max_examples=40, deadline=None)
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_any_json_value_in_any_place_is_a_policy_or_a_policy_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "policy.json"
    Policy(fingerprint=PRINT, layers={"fc": EIGHT}).save(path)
    whole = json.loads(path.read_text())
    for key in whole:
        path.write_text(json.dumps({**whole, key: content}))
        with suppress(PolicyError):
            Policy.load(path)


def test_many_findings_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    Policy(fingerprint=PRINT, layers={"fc": EIGHT}).save(path)
    edited(path, layers={f"l{i}": {"weight_bits": 99, "activation_bits": 4} for i in range(500)})
    with pytest.raises(PolicyError, match=r"'l4' > 'weight_bits' is 99.*; \.\.\. and 495 more"):
        Policy.load(path)


def test_pydantic_is_loaded_by_files_only() -> None:
    code = "import sys, mixbit.policy; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------- pins


def named(*names: str) -> Network:
    return network([layer(name, f"t{i}", f"t{i + 1}") for i, name in enumerate(names)])


def test_first_and_last_by_default() -> None:
    net = named("stem", "a", "b", "fc")
    assert resolve_pins(net) == {"stem": EIGHT, "fc": EIGHT}
    assert resolve_pins(net, first_last=None) == {}
    assert resolve_pins(net, first_last=LayerBits(6, None)) == {"stem": LayerBits(6, None), "fc": LayerBits(6, None)}
    assert resolve_pins(named("only")) == {"only": EIGHT}


def test_names_expressions_and_precedence() -> None:
    net = named("stem", "block.1", "block.2", "fc")
    four, five = LayerBits(4, 4), LayerBits(5, 5)
    assert resolve_pins(net, {"re:block.*": four}) == {"stem": EIGHT, "block.1": four, "block.2": four, "fc": EIGHT}
    assert list(resolve_pins(net, {"fc": four, "block.1": four})) == ["stem", "block.1", "fc"]
    assert resolve_pins(net, {"fc": four})["fc"] == four  # explicit over first/last
    exact = {"block.1": five, "re:block.*": four}
    assert resolve_pins(net, exact)["block.1"] == resolve_pins(net, dict(reversed(exact.items())))["block.1"] == five


def test_an_exact_name_is_no_expression_and_expressions_match_whole_names() -> None:
    net = named("stem", "a.b", "axb", "fc")
    assert set(resolve_pins(net, {"a.b": EIGHT}, None)) == {"a.b"}
    assert set(resolve_pins(net, {"re:a.b": EIGHT}, None)) == {"a.b", "axb"}
    with pytest.raises(BudgetError, match=r"'re:a' matches no layer"):
        resolve_pins(net, {"re:a": EIGHT})


def test_expressions_that_disagree() -> None:
    net = named("stem", "block.1", "fc")
    with pytest.raises(BudgetError, match=r"'block.1' is pinned at W4A4 by 're:block.*' and at W5A5 by 're:.*1'"):
        resolve_pins(net, {"re:block.*": LayerBits(4, 4), "re:.*1": LayerBits(5, 5)})
    resolve_pins(net, {"re:block.*": LayerBits(4, 4), "re:.*1": LayerBits(4, 4)})
    resolve_pins(net, {"re:block.*": LayerBits(4, 4), "re:.*1": LayerBits(5, 5), "block.1": EIGHT})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("block1", r"'block1' matches no layer. Did you mean 'block.1'"),
        ("re:blok.*", "matches no layer"),
        ("re:(", "is no regular expression"),
        ("re:a{999999999999}", "is no regular expression|matches no layer"),
        ("", "matches no layer"),
    ],
)
def test_pins_that_match_nothing(pattern: str, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        resolve_pins(named("stem", "block.1", "fc"), {pattern: EIGHT})


def test_policies_of_the_same_bits_have_one_digest_whatever_their_order() -> None:
    """Written out once, since folders and ledgers of comparisons are named after it."""
    a, b = LayerBits(3, 4), LayerBits(8, None)
    assert bits_digest({"a": a, "b": b}) == bits_digest({"b": b, "a": a}) == "3ecef31e1569"
    assert bits_digest({"a": b, "b": a}) != bits_digest({"a": a, "b": b})
