"""Malformed commands, as tables: each is refused with one message and exit status 2.

In the words, `@` is the folder of the case, where the files lie that it brings; `%` is a folder with runs that are in
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from tests.fuzz.junk import FILES, VALUES, Change, changed

TRAIN = ("train", "%/net.py:net", "--data", "digits", "--run", "@/run")
SEARCH = ("%/net.py:net", "--data", "digits", "--run", "@/run")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command that must be refused."""

    group: str
    name: str
    words: tuple[str, ...]
    files: dict[str, bytes | Change] = field(default_factory=dict)
    """Below the folder of the case."""
    like: str | None = None
    """A folder below `%` that is copied into the case's first."""

    @property
    def id(self) -> str:
        """For pytest: no long texts, no control characters."""
        return f"{self.group}-{self.name}".encode("ascii", "replace").decode()[:60]


# ------------------------------------------------------------------------------------------------------- settings

WRONG_NUMBERS = (
    "text",
    "nan",
    "not a number",
    "infinity",
    "beyond float",
    "digits",
    "list",
    "object",
    "deep",
    "nothing",
)
SETTINGS: dict[str, tuple[str, ...]] = {
    "epochs": ("0", "-1", "1.5", "true", "9" * 24, *WRONG_NUMBERS, "null"),
    "batch_size": ("0", "16.5", '"x"', *WRONG_NUMBERS),
    "lr": ("0", "-1", "true", *WRONG_NUMBERS, "{", "null"),
    "step_lr": ("0", "-1", "nan"),
    "momentum": ("-5", "1", "null", *WRONG_NUMBERS),
    "weight_decay": ("-1", '"x"', "Infinity"),
    "warmup_epochs": ("-1", "nan", "NaN"),
    "final_lr": ("-1", "2", "nan"),
    "label_smoothing": ("-1", "2", "nan"),
    "distill": ("-0.1", "1.1", "nan"),
    "temperature": ("0", "-1", "nan"),
    "clip_value": ("-1", "0", "x"),
    "ema": ("0", "1", "nan", "x"),
    "bn_samples": ("-5", "1.5", "x"),
    "fraction": ("0", "1.1", "nan"),
    "seed": ("-1", "1.5", "x"),
    "checkpoint_seconds": ("-1", "nan", "x"),
    "validate_every": ("-1", "1.5", "x"),
    "optimizer": ("adam", "5", "null"),
    "schedule": ("cosine", "[]"),
    "precision": ("fp8", "16"),
    "augment": ("x", "1", "null"),
    "compile": ("5", "x"),
    "channels_last": ("x",),
    "drop_zero_gradients": ("maybe", "0"),
    "kurtosis": ("x", "-1", "NaN", '{"weight":NaN}', '{"gap":0}', '{"wieght":1}', "[1]"),
    "quantize": (
        "[]",
        "5",
        '{"zz":1}',
        *(f'{{"activation_rule":{value}}}' for value in ("5", "-1", "NaN", '"zz"', "{}")),
        *(f'{{"per_channel":{value}}}' for value in ("5", "-1", "NaN", '"zz"', "[]")),
        *(f'{{"gradient_scale":{value}}}' for value in ('"x"', "-1", "NaN", "[]")),
        *(f'{{"step_range":{value}}}' for value in ('"zz"', "-1", "NaN", "[]", "[1]", "[2,1]", "[0,1]", "[1,NaN]")),
        *(f'{{"weights":{value}}}' for value in ("-1", "NaN", '"lsqq"', "{}")),
        '{"weight_rule":{}}',
        '{"clip_decay":[]}',
        '{"activations":"pact","clip":-1}',
    ),
    "epoch": ("1",),
    "": ("1",),
}


def of_settings() -> Iterator[Case]:
    """`--set`, by itself and twice."""
    for key, values in SETTINGS.items():
        for value in values:
            name = f"{key}={value[:24]}"
            yield Case(group="set", name=name, words=(*TRAIN, "--set", f"{key}={VALUES.get(value, value)}"))
    yield Case(group="set", name="twice", words=(*TRAIN, "--set", "lr=1", "--set", "lr=2"))
    yield Case(group="set", name="beside its option", words=(*TRAIN, "--lr", "1", "--set", "lr=1"))
    yield Case(group="set", name="no value", words=(*TRAIN, "--set", "lr"))
    for option, values in {
        "--epochs": ("0", "-3", "9" * 24, "9" * 5000, "1.5"),
        "--lr": ("inf", "nan", "-1", "0"),
        "--batch-size": ("0", "9" * 24),
        "--fraction": ("nan", "2"),
        "--seed": ("-1", str(2**63), str(2**64), "9" * 24),
    }.items():
        yield from (Case(group="option", name=f"{option} {v[:24]}", words=(*TRAIN, option, v)) for v in values)


def of_methods() -> Iterator[Case]:
    """Settings of search methods, by `search` and by `compare`."""
    wrong = [
        ("limpq", "epochs", "x"),
        ("limpq", "epochs", "1.5"),
        ("limpq", "alpha", "NaN"),
        ("limpq", "faithful", "x"),
        ("limpq", "lr", "NaN"),
        ("limpq", "bits", "4"),
        ("limpq", "bits", "[9]"),
        ("limpq", "bits", "[4.0]"),
        ("limpq", "precision", "fp8"),
        ("fit", "seed", "NaN"),
        ("fit", "noise", "white"),
        ("fit", "images", "true"),
        ("hawq-v2", "tolerance", "-1"),
        ("clado", "cache_mib", "0.5"),
        ("sqnr", "rule", "5"),
        ("one-at-a-time", "measure", "[]"),
        ("topological-entropy", "label", "x"),
        ("weight-entropy", "bit", "[4]"),
        ("uniform", "bits", "9" * 5000),
    ]
    for method, key, value in wrong:
        name = f"{method} {key}={value[:16]}"
        yield Case(group="search", name=name, words=("search", method, *SEARCH, "--set", f"{key}={value}"))
        entry = f"{method}?{key}={value}"
        words = ("compare", *SEARCH, "--budget", "bitops=3x3", "--methods", entry)
        yield Case(group="compare", name=name, words=words)
    for text in ("fit?seed", "fit?=1", "fit?seed=1&seed=2", "nope", "fit?seed=" + "[" * 100_000):
        words = ("compare", *SEARCH, "--budget", "bitops=3x3", "--methods", text)
        yield Case(group="compare", name=text[:24], words=words)


# ------------------------------------------------------------------------------------------------ words and models

DATA = (
    "nope",
    "digits:x",
    "digits?seed=x",
    "digits?seed=-1",
    "digits?seed=" + "9" * 5000,
    "digits?seed=1.5",
    "digits?mean=nan",
    "digits?mean=",
    "digits?std=0",
    "digits?std=inf,1",
    "digits?zz=1",
    "digits?seed=1&seed=2",
    "digits?seed",
    "digits?corrupt=zz",
    "digits?corrupt=jpeg&severity=9",
    "digits?corrupt=jpeg&severity=" + "9" * 5000,
    "digits?quality=zz",
    "digits?quality=mixed&weights=nan,1,1",
    "cifar10",
    "cifar10:",
    "cifar10:/nope",
    "cifar10:" + "a" * 5000,
    "cifar10:@?size=100000",
    "cifar10:@?size=0",
    "cifar10:@?records=99999999999999999999",
    "cifar10:@?records=0",
    "cifar10:@?mean=nan,0,0",
    "cifar10:/etc/passwd",
    "fashion-mnist:@",
    "fashion-mnist:@?mean=a",
    "imagefolder:@",
    "imagefolder:@?size=1000000",
    "imagefolder:@?crop=1e-9",
    "imagefolder:@?crop=nan",
    "imagefolder:@?workers=-1",
    "imagefolder:@?workers=100000",
)
MODELS = {
    "sys:exit": "sys:exit",
    "os:abort": "os:abort",
    "builtins:exit": "builtins:exit",
    "torch:zeros": "torch:zeros",
    "no module": "nope.nope:x",
    "no name": "@/models.py:nope",
    "no file": "@/nope.py",
    "a folder": "@/folder.py",
    "long": "x" * 5000 + ".py",
    "zero byte": "a\0b.py",
    "exit": "@/models.py:leaves",
    "exit 0": "@/models.py:leaves_well",
    "exit with text": "@/models.py:leaves_with_text",
    "own BaseException": "@/models.py:raises_own",
    "KeyboardInterrupt": "@/models.py:interrupts",
    "GeneratorExit": "@/models.py:raises_generator_exit",
    "no model": "@/models.py:gives_five",
    "no layers": "@/models.py:NoLayers",
    "returns None": "@/models.py:ReturnsNone",
    "meta": "@/models.py:meta",
    "exits on import": "@/exits.py:net",
    "fails on import": "@/fails.py:net",
    "no Python": "@/text.py:net",
}
MODEL_FILES = {
    "models.py": b"""
import sys
import torch
from torch import nn

class Own(BaseException):
    pass

def leaves(): sys.exit(7)
def leaves_well(): sys.exit(0)
def leaves_with_text(): raise SystemExit("bye")
def raises_own(): raise Own("x")
def interrupts(): raise KeyboardInterrupt
def raises_generator_exit(): raise GeneratorExit
def gives_five(): return 5

class NoLayers(nn.Module):
    def forward(self, x): return torch.relu(x)

class ReturnsNone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
    def forward(self, x):
        self.conv(x)

def meta(): return nn.Conv2d(1, 1, 1, device="meta")
""",
    "exits.py": b"raise SystemExit(0)",
    "fails.py": b"1 / 0",
    "text.py": b"hello world",
    "folder.py/x": b"",
}


def of_words() -> Iterator[Case]:
    """Shapes, bits, pins, seeds, data and models as they are typed."""
    for spec in DATA:
        words = ("inspect", "resnet20", "--data", spec)
        yield Case(group="data", name=spec[:40], words=words, files={"x/a": b""})
    for text in ("x", "0x8", "-1", "1x100000000x100000", "9" * 4400, "1x" + "9" * 17, "", "3x32x32x", "1.5x2"):
        yield Case(group="input", name=text[:24], words=("inspect", "digits-resnet", "--input", text))
    for name, spec in MODELS.items():
        yield Case(group="model", name=name, words=("inspect", spec, "--input", "1x8x8"), files=MODEL_FILES)
    allocate = ("allocate", "%/search", "--budget", "bitops=3x3", "--out", "@/policy.json")
    for text in ("fc", "=W4A4", "fc=W4", "fc=W0A8", "fc=W9A9", "fc=W" + "9" * 5000 + "A8", "nope=W4A4", "re:(=W4A4"):
        yield Case(group="pin", name=text[:24], words=(*allocate, "--pin", text))
    yield Case(group="pin", name="twice", words=(*allocate, "--pin", "0=W4A4", "--pin", "0=W8A8"))
    for text in ("nan", "inf", "-1", "1e400", "abc"):
        yield Case(group="alpha", name=text, words=(*allocate, "--alpha", text))
    for text in ("bitops", "bitops=", "bitops=-1", "bitops=nan", "bitops=1e999", "zz=1", "bitops=" + "9" * 5000):
        words = ("allocate", "%/search", "--budget", text, "--out", "@/policy.json")
        yield Case(group="budget", name=text[:24], words=words)
    build = ("latency", "build", "digits-resnet", "--target", "onnxruntime", "--out", "@/l.json")
    for option in ("--repeats", "--checks"):
        yield Case(group="latency build", name=option, words=(*build, option, "9" * 30))
    yield Case(group="latency build", name="bits", words=(*build, "--bits", "9"))
    for option, text in product(("--seeds",), ("x", "1.5", "", "9" * 5000)):
        words = ("compare", *SEARCH, "--budget", "bitops=3x3", "--methods", "fit", option, text)
        yield Case(group="seeds", name=text[:24], words=words)


# ---------------------------------------------------------------------------------------------------------- files


def of_files() -> Iterator[Case]:
    """Every file that is read back, with contents that nobody wrote, and with one value wrong."""
    for name, text in FILES.items():
        yield from _readers(name, text)
    for group, some in CHANGES.items():
        for name, change in some.items():
            yield next(case for case in _readers(name, change) if case.group == group)


def _readers(name: str, text: bytes | Change) -> Iterator[Case]:
    allocate = ("allocate", "@", "--budget", "bitops=3x3", "--out", "@/out.json")
    latency = ("allocate", "%/search", "--budget", "latency=45us", "--latency", "@/l.json", "--out", "@/out.json")
    yield Case(group="policy", name=name, words=(*TRAIN, "--policy", "@/p.json"), files={"p.json": text})
    yield Case(group="scores", name=name, words=allocate, files={"scores.json": text}, like="search")
    yield Case(group="network", name=name, words=allocate, files={"network.json": text}, like="search")
    picked = ("front", "@/front.json", "--budget", "bitops=3x3", "--out", "@/out.json")
    yield Case(group="front", name=name, words=picked, files={"front.json": text}, like="search")
    yield Case(group="latency", name=name, words=latency, files={"l.json": text})
    yield Case(group="config", name=name, words=("evaluate", "@"), files={"config.json": text}, like="search")
    yield Case(group="searched", name=name, words=allocate, files={"config.json": text}, like="search")
    words = ("verify", "@", "--run", "%/search", "--images", "2")
    yield Case(group="manifest", name=name, words=words, files={"manifest.json": text})


CHANGES: dict[str, dict[str, Change]] = {
    "network": {
        "macs negative": changed("network", "layers", 1, "macs", to=-5),
        "macs text": changed("network", "layers", 1, "macs", to="5"),
        "macs huge": changed("network", "layers", 1, "macs", to=10**30),
        "macs digits": changed("network", "layers", 1, "macs", to="DIGITS"),
        "shape negative": changed("network", "layers", 1, "weight_shape", to=[-1, 2]),
        "shape zero": changed("network", "layers", 1, "weight_shape", to=[0, 0]),
        "no layers": changed("network", "layers", to=[]),
        "a name twice": changed("network", "layers", 1, "name", to="0"),
        "groups 0": changed("network", "layers", 1, "groups", to=0),
        "tensor null": changed("network", "layers", 1, "input_tensor", to=None),
        "kind list": changed("network", "layers", 1, "kind", to=[]),
        "no steps": changed("network", "steps", to=[]),
        "no tensors": changed("network", "tensors", to=[]),
        "newer": changed("network", "version", to=99),
        "joins": changed("network", "joins", to=[1]),
    },
    "scores": {
        "harm nan": changed("scores", "layers", "LAYER", "weight", "2", to=float("nan")),
        "harm text": changed("scores", "layers", "LAYER", "weight", "2", to="0.5"),
        "harm true": changed("scores", "layers", "LAYER", "weight", "2", to=True),
        "bits": changed("scores", "layers", "LAYER", "weight", to={"9": 1.0}),
        "no curve": changed("scores", "layers", "LAYER", "weight", to={}),
        "layers list": changed("scores", "layers", to=[1]),
        "alpha": changed("scores", "alpha", to=-1),
        "program": changed("scores", "program", to=[]),
    },
    "front": {
        "no points": changed("front", "points", to=[]),
        "points object": changed("front", "points", to={"0": {}}),
        "point number": changed("front", "points", 0, to=5),
        "quality nan": changed("front", "points", 0, "quality", "loss", to=float("nan")),
        "quality missing": changed("front", "points", 0, "quality", "loss", drop=True),
        "quality list": changed("front", "points", 0, "quality", to=[]),
        "costs text": changed("front", "points", 0, "costs", to={"bitops": "few"}),
        "layers list": changed("front", "points", 0, "layers", to=["0"]),
        "a layer less": changed("front", "points", 0, "layers", "0", drop=True),
        "bits text": changed("front", "points", 0, "layers", "0", "weight_bits", to="4"),
        "bits huge": changed("front", "points", 0, "layers", "0", "weight_bits", to="DIGITS"),
        "no metrics": changed("front", "measured", "metrics", to=[]),
        "metric number": changed("front", "measured", "metrics", 0, to=1),
        "metric unnamed": changed("front", "measured", "metrics", 0, "name", to=""),
        "metric reserved": changed("front", "measured", "metrics", 0, "name", to="samples"),
        "metric of another": changed("front", "measured", "metrics", 0, "name", to="zz"),
        "no measured": changed("front", "measured", drop=True),
        "weights absolute": changed("front", "weights", to={"path": "/etc/passwd", "digest": "blake2b:0"}),
        "weights gone": changed("front", "weights", to={"path": "../none", "digest": "blake2b:0"}),
        "weights folder": changed("front", "weights", to={"path": ".", "digest": "blake2b:0"}),
        "weights zero byte": changed("front", "weights", to={"path": "a\0b", "digest": "blake2b:0"}),
        "weights text": changed("front", "weights", to="w"),
        "fingerprint": changed("front", "fingerprint", to="sha256:0123456789abcdef"),
        "newer": changed("front", "version", to=99),
        "settings list": changed("front", "settings", to=[1]),
    },
    "config": {
        "command list": changed("config", "command", to=[]),
        "subject null": changed("config", "subject", to=None),
        "subject list": changed("config", "subject", to=[]),
        "subject key": changed("config", "subject", "zz", to=1),
        "no model": changed("config", "subject", "model", drop=True),
        "model number": changed("config", "subject", "model", to=5),
        "data number": changed("config", "subject", "data", to=5),
        "data list": changed("config", "subject", "data", to=["digits"]),
        "seed text": changed("config", "subject", "seed", to="x"),
        "seed huge": changed("config", "subject", "seed", to=2**70),
        "weights number": changed("config", "subject", "weights", to=5),
        "settings list": changed("config", "settings", to=[1]),
        "no subject": changed("config", "subject", drop=True),
    },
    "manifest": {
        "no options": changed("manifest", "options", drop=True),
        "options list": changed("manifest", "options", to=[]),
        "options key": changed("manifest", "options", "zz", to=1),
        "options kernels": changed("manifest", "options", "kernels", to="zz"),
        "options vectors": changed("manifest", "options", "vectors", to="x"),
        "options vectors negative": changed("manifest", "options", "vectors", to=-1),
        "options alignment": changed("manifest", "options", "row_alignment", to=10**9),
        "options cmsis": changed("manifest", "options", "cmsis_nn", to=5),
        "no roundings": changed("manifest", "roundings", drop=True),
        "roundings list": changed("manifest", "roundings", to=[]),
        "roundings word": changed("manifest", "roundings", to={"Conv": "zz"}),
        "cmsis list": changed("manifest", "cmsis_nn", to=[]),
    },
}


def of_places() -> Iterator[Case]:
    """Where nothing can be read or written."""
    files = {"file": b"x", "folder/x": b""}
    out = ("allocate", "%/search", "--budget", "bitops=3x3", "--out")
    for name, path in {
        "a folder": "@/folder",
        "below a file": "@/file/x.json",
        "long": "@/" + "a" * 300,
        "proc": "/proc/mixbit/x.json",
        "dev": "/dev/null/x",
    }.items():
        yield Case(group="write", name=name, words=(*out, path), files=files)
        words = ("search", "uniform", "%/net.py:net", "--data", "digits", "--run", path.replace("folder", "file"))
        yield Case(group="run", name=name, words=words, files=files)
    for name, path in {
        "missing": "@/nope",
        "a folder": "@/folder",
        "below a file": "@/file/x",
        "long": "a" * 5000,
        "zero byte": "a\0b",
        "a device": "/dev/zero",
        "pipe": "@/pipe",
    }.items():
        yield Case(group="read", name=f"policy {name}", words=(*TRAIN, "--policy", path), files=files)
        words = ("evaluate", "%/net.py:net", "--data", "digits", "--weights", path)
        yield Case(group="read", name=f"weights {name}", words=words, files=files)
        yield Case(group="read", name=f"run {name}", words=("export", path), files=files)
        yield Case(group="read", name=f"source {name}", words=("allocate", path, *out[2:], "@/o.json"), files=files)


def all_cases() -> list[Case]:
    """Every case, group by group."""
    return [*of_settings(), *of_methods(), *of_words(), *of_files(), *of_places()]
