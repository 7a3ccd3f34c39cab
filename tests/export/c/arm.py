"""The DSP kernels on any machine: each instruction of their assembly as the C that says what it does.

The kernels keep all else that they are, the compiler's sanitizers see every byte that they touch, and no Arm tool is
needed. What only a core can show (registers, the order of instructions, counts) is left to the emulated boards.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mixbit.export.c._emit import ALL_SWITCHES, config_text

KERNELS = Path(__file__).parents[3] / "src" / "mixbit" / "export" / "c" / "kernels"
_STATEMENT = re.compile(r"__asm__\s*(?:volatile)?\s*\(")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OPERAND = re.compile(r'(?:\[(\w+)\]\s*)?"[^"]*"\s*\((.*)\)$', re.DOTALL)
_SHIFTS = ("lsl", "lsr", "asr", "ror")


def compile_dsp(folder: Path, *, flags: Sequence[str]) -> Path:
    """All kernels with the DSP extension switched on, to link networks with, as `compile_kernels` does for the others.

    Args:
        folder: made.
        flags: of the compiler.
    """
    folder.mkdir(parents=True)
    config = config_text(ALL_SWITCHES).replace("#define MIXBIT_DSP 0", "#define MIXBIT_DSP 1")
    (folder / "mixbit_config.h").write_text(config)
    includes = [f"-I{folder}", f"-I{KERNELS}", f"-I{Path(__file__).parent}"]
    preprocess = ["gcc", "-E", "-P", "-std=c99", *includes, "-include", "arm_instructions.h"]
    for source in KERNELS.glob("*.c"):
        (folder / source.name).write_text(translated(_call([*preprocess, str(source)])))
    _call(["gcc", "-std=c99", "-w", *flags, "-c", *sorted(one.name for one in folder.glob("*.c"))], folder)
    return folder


def _call(command: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def translated(source: str) -> str:
    """Preprocessed C whose assembly is replaced, statement by statement.

    >>> translated('__asm__("sxtb16 %0, %1, ror #8" : "=r"(y) : "r"(x));')
    '{ (y) = arm_sxtb16(arm_ror((x), 8)); };'
    """
    parts, at = list[str](), 0
    while found := _STATEMENT.search(source, at):
        end = _closing(source, found.end())
        text = source[found.end() : end]
        parts.append(source[at : found.start()])
        parts.append(_statement(text) if ":" in _TEXT.sub("", text) else source[found.start() : end + 1])
        at = end + 1
    return "".join(parts) + source[at:]


def _closing(source: str, at: int) -> int:
    """Where the parenthesis that is open at a place is closed."""
    depth = 1
    while True:
        if source[at] == '"':
            at = source.index('"', at + 1)
        depth += {"(": 1, ")": -1}.get(source[at], 0)
        if not depth:
            return at
        at += 1


def _statement(text: str) -> str:
    """`"template" : outputs : inputs : clobbered`."""
    template, *sections = (part.strip() for part in re.split(r":(?=\s*(?:\[|\"|$|:))", text))
    operands: dict[str, str] = {}
    for number, operand in enumerate(one for part in sections[:2] for one in _split(part)):
        found = _OPERAND.match(operand)
        assert found is not None, operand
        operands[found[1] or str(number)] = f"({found[2]})"
    lines = "".join(_TEXT.findall(template)).replace("\\t", " ").split("\\n")
    return "{ " + " ".join(_instruction(line.strip(), operands) for line in lines if line.strip()) + " }"


def _split(text: str) -> list[str]:
    """At commas outside of parentheses and brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _instruction(line: str, operands: dict[str, str]) -> str:
    """`op destination, source, ...`, the last source shifted or not; loads move their pointer on."""
    name, _, rest = line.partition(" ")
    texts = [re.sub(r"%(?:\[(\w+)\]|(\d))", lambda m: operands[m[1] or m[2]], one) for one in _split(rest)]
    if name in ("ldr", "ldrd"):
        *to, pointer, step = texts
        loads = [f"{one} = ((const uint32_t *){pointer[1:-1]})[{at}];" for at, one in enumerate(to)]
        assert pointer[0] == "[" and len(to) == {"ldr": 1, "ldrd": 2}[name]
        return " ".join([*loads, f"{pointer[1:-1]} = (const void *)((const char *){pointer[1:-1]} + {step[1:]});"])
    to, *sources = texts
    shift = re.match(rf"({'|'.join(_SHIFTS)}) #?(.*)$", sources[-1])
    if shift:
        sources[-2:] = [f"arm_{shift[1]}({sources[-2]}, {shift[2]})"]
    return f"{to} = arm_{name}({', '.join(one.removeprefix('#') for one in sources)});"
