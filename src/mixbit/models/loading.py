"""Models named in one string: a zoo name, `package.module:factory` or a Python file."""

from __future__ import annotations

import dis
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import BuiltinFunctionType, ModuleType

from torch import nn

from mixbit import _io
from mixbit.errors import MixbitError, did_you_mean
from mixbit.models.registry import build, factory_parameters, names

__all__ = ["import_code", "load_model", "load_object", "source_file"]

_USUAL_NAMES = ("task", "build_task", "build_model", "build", "make_model", "create_model", "model", "Model", "Net")
_IMPORTED: dict[Path, ModuleType] = {}
"""Files that were imported for what they register: they are run once, for what is entered twice is an error."""


def load_model(spec: str, num_classes: int | None = None, in_channels: int | None = None) -> nn.Module:
    """Make the model that a string names.

    Args:
        spec: a zoo name (`resnet20`), `package.module:factory`, or `path/to/file.py` with or without `:factory`. A
            factory is a function or class that can be called without arguments and gives an `nn.Module`, or a module
            that is ready. Without one, a file is searched for task, build_task, build_model, build, make_model,
            create_model, model, Model, Net, in this order. A file is run as Python code: give only files that you
            trust.
        num_classes: passed to the factory if it has a parameter of that name.
        in_channels: channels of the images, passed in the same way.

    Raises:
        MixbitError: no such model, file, module or factory, it fails when called, or gives something else.

    >>> type(load_model("resnet20", num_classes=100).linear).__name__
    'Linear'
    >>> load_model("resnet20", in_channels=1).conv1.weight.shape
    torch.Size([16, 1, 3, 3])
    """
    made = load_object(spec, num_classes, in_channels)
    if not isinstance(made, nn.Module):
        raise MixbitError(
            f"Model {spec!r} gives a {type(made).__name__}; it must give a torch.nn.Module. A task brings its own "
            "data: leave --data out."
        )
    return made


def load_object(spec: str, num_classes: int | None = None, in_channels: int | None = None) -> object:
    """What a string names, as `load_model`, but of any type: a user's file may hold a task as well as a model."""
    known = {"num_classes": num_classes, "in_channels": in_channels}
    arguments = {key: value for key, value in known.items() if value is not None}
    place, factory = _split(spec)
    if place.endswith(".py"):
        return _make(_from_file(place, f"Model {spec!r}"), factory, spec, arguments)
    if factory is not None:
        return _make(_import(place, f"Model {spec!r}"), factory, spec, arguments)
    if spec not in names():
        legal = f"a zoo name ({', '.join(names())}), package.module:factory or FILE.py:factory"
        raise MixbitError(f"No model {spec!r}; write {legal}.{did_you_mean(spec, names())}")
    return build(spec, **{key: value for key, value in arguments.items() if key in factory_parameters(spec)})


def import_code(spec: str) -> ModuleType:
    """Import a file or a module for what it registers: methods, models, quantizers, exporters of your own.

    A file is run once a process; a model that is named in it later comes from the same module.

    Args:
        spec: `path/to/file.py`, which is run as Python code, so give only files that you trust; or `package.module`.

    Raises:
        MixbitError: no such file or module, or it fails.

    >>> import_code("mine.py:net")
    Traceback (most recent call last):
        ...
    mixbit.errors.MixbitError: Import of 'mine.py:net': a file or a module is imported, whole. Write FILE.py or ...
    """
    what = f"Import of {spec!r}"
    place, factory = _split(spec)
    if factory is not None:
        raise MixbitError(f"{what}: a file or a module is imported, whole. Write FILE.py or package.module.")
    if not place.endswith(".py"):
        return _import(place, what)
    module = _IMPORTED[Path(place).resolve()] = _from_file(place, what)
    return module


def source_file(spec: str) -> Path | None:
    """The Python file that a string names, or None for a zoo name or an installed module.

    >>> source_file("tasks/mine.py:task").name
    'mine.py'
    >>> source_file("resnet20") is None
    True
    """
    place, _ = _split(spec)
    return Path(place) if place.endswith(".py") else None


def _split(spec: str) -> tuple[str, str | None]:
    """`a.b:c` -> (`a.b`, `c`); the colon of a Windows drive stays with its path."""
    place, colon, factory = spec.rpartition(":")
    if not colon or spec.endswith(".py"):
        return spec, None
    return place, factory


def _from_file(path: str, what: str) -> ModuleType:
    file = Path(path)
    with _io.filesystem(path):
        found = file.is_file()
    if not found:
        raise MixbitError(f"{what}: no file at {path!r}, seen from {Path.cwd()}.")
    if (known := _IMPORTED.get(file.resolve())) is not None:
        return known
    name = f"mixbit_user_{file.stem}"
    loader = importlib.util.spec_from_file_location(name, file)
    if loader is None or loader.loader is None:
        raise MixbitError(f"{what}: {path!r} cannot be imported as Python.")
    module = importlib.util.module_from_spec(loader)
    # Dataclasses and torch.export look a class's module up here.
    sys.modules[name] = module
    try:
        loader.loader.exec_module(module)
    except BaseException as cause:
        del sys.modules[name]
        raise _failed(f"{what}: running {path!r} failed", cause, file) from cause
    return module


def _import(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as cause:
        remedy = f"install it, or run where {name!r} can be imported"
        raise MixbitError(f"{what}: no module named {cause.name!r}; {remedy}.") from cause
    except BaseException as cause:
        raise _failed(f"{what}: importing {name!r} failed", cause) from cause


def _make(module: ModuleType, factory: str | None, spec: str, arguments: Mapping[str, int]) -> object:
    found = _find(module, factory, spec)
    ready = isinstance(found, nn.Module) or not callable(found)
    made = found if ready else _call(found, spec, arguments)
    if isinstance(made, nn.Module):
        _check_numbers(made, spec)
    return made


def _check_numbers(model: nn.Module, spec: str) -> None:
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            raise MixbitError(
                f"Model {spec!r}: {name!r} is on the meta device and holds no numbers. Build it on the CPU."
            )


def _find(module: ModuleType, factory: str | None, spec: str) -> object:
    usable = [name for name, value in vars(module).items() if _is_factory(value, module)]
    wanted = _USUAL_NAMES if factory is None else (factory,)
    for name in wanted:
        if hasattr(module, name):
            return getattr(module, name)
    listed = ", ".join(usable) or "nothing that could be one"
    if factory is None:
        raise MixbitError(f"Model {spec!r}: which factory? Write {spec}:NAME; the file defines: {listed}.")
    raise MixbitError(f"Model {spec!r}: no {factory!r} there; it defines: {listed}.{did_you_mean(factory, usable)}")


def _is_factory(value: object, module: ModuleType) -> bool:
    own = getattr(value, "__module__", None) == module.__name__
    return isinstance(value, nn.Module) or (own and callable(value))


def _call(factory: object, spec: str, arguments: Mapping[str, int]) -> object:
    if isinstance(factory, BuiltinFunctionType):  # such as sys.exit or os.abort: none of them makes a module
        raise MixbitError(f"Model {spec!r} is a built-in function; name a Python function, a class or a module.")
    assert callable(factory)
    try:
        # The signature is only asked for where it matters: some callables have none.
        taken = set(inspect.signature(factory).parameters) if arguments else set()
        return factory(**{key: value for key, value in arguments.items() if key in taken})
    except MixbitError:
        raise
    except BaseException as cause:
        raise _failed(f"Model {spec!r}: the factory failed", cause, _home(factory)) from cause


def _by_statement(cause: BaseException) -> bool:
    """Whether a `raise` of some code made it; the keyboard interrupts between other instructions."""
    last = cause.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def _home(factory: object) -> Path | None:
    """The file that a factory is written in."""
    try:
        return Path(inspect.getfile(factory))  # type: ignore[arg-type]  # of anything else it is an error
    except (TypeError, OSError):
        return None


def _where(cause: BaseException, file: Path | None) -> str:
    """File and line of the innermost call in the user's file, in brackets; nothing where there is none.

    Where the file is not known, it is the first that is neither this one nor Python's own importing.
    """
    frames = traceback.extract_tb(cause.__traceback__)
    theirs = [one.filename for one in frames if one.filename != __file__ and "importlib" not in one.filename]
    home = Path(theirs[0]) if file is None and theirs else file
    lines = [one.lineno for one in frames if home is not None and Path(one.filename).absolute() == home.absolute()]
    return f" ({home}, line {lines[-1]})" if lines else ""


def _failed(what: str, cause: BaseException, file: Path | None = None) -> BaseException:
    """As an error, whatever the user's code raised: an exit in it must not end the command as if all were done.

    An interruption from the keyboard stays one.
    """
    if isinstance(cause, KeyboardInterrupt) and not _by_statement(cause):
        return cause
    return MixbitError(f"{what}: {type(cause).__name__}: {cause}{_where(cause, file)}.")
