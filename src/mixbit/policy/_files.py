"""Reading mixbit's own JSON documents: what is wrong is said in the reader's words, and never as a traceback."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from mixbit import _io
from mixbit.errors import PolicyError, did_you_mean

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from mixbit.policy._schema import Document

    Model = TypeVar("Model", bound=Document)

__all__ = ["JSON", "check_header", "read_document"]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
"""Whatever a JSON file can hold."""

SHOWN = 5


def read_document(path: str | os.PathLike[str], model: type[Model], *, format: str, version: int) -> Model:  # noqa: A002
    """Read and check a document of the given format.

    Raises:
        PolicyError: no such file, not JSON, of another format, newer, or not as the schema says; at most five findings.
    """
    from pydantic import ValidationError

    content = _io.read_json(path, error=PolicyError)
    if not isinstance(content, dict):
        raise PolicyError(f"{str(path)!r} holds {_short(content)}; a {format} file is an object.")
    check_header(content.get("format"), content.get("version"), format=format, version=version, where=str(path))
    try:
        return model.model_validate(content)
    except ValidationError as cause:
        raise PolicyError(_explain(str(path), cause, model)) from None
    except RecursionError as cause:
        raise PolicyError(f"{str(path)!r} is nested too deeply to be a {format} file.") from cause


def check_header(found_format: object, found_version: object, *, format: str, version: int, where: str) -> None:  # noqa: A002
    """Raise `PolicyError` unless the format is right and the version is from 1 to `version`."""
    if not isinstance(found_format, str) or found_format != format:
        raise PolicyError(
            f"{where!r} has format {_short(found_format)}, wanted {format!r}. A mixbit-policy file is read by "
            "Policy.load, a mixbit-scores file by Scores.load, a mixbit-front file by Front.load."
        )
    whole = isinstance(found_version, int) and not isinstance(found_version, bool)
    if whole and isinstance(found_version, int) and found_version > version:
        raise PolicyError(
            f"{where!r} is version {_short(found_version)} of {format}; this mixbit reads up to {version}. "
            "It was written by a newer mixbit: upgrade mixbit, or save the file again with this one."
        )
    if not (whole and isinstance(found_version, int) and found_version >= 1):
        legal = "1" if version == 1 else f"1 to {version}"
        raise PolicyError(f"{where!r} has version {_short(found_version)} of {format}. Legal: {legal}.")


def _explain(where: str, error: ValidationError, model: type[Document]) -> str:
    # A union reports each of its members; for the reader that is one finding.
    lines = list(dict.fromkeys(_finding(one, model) for one in error.errors(include_url=False, include_context=False)))
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return f"{where!r} is not a valid file: {'; '.join(lines[:SHOWN] + more)}."


def _finding(error: ErrorDetails, model: type[Document]) -> str:
    """One finding: where, what was received, what is legal."""
    place = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        legal = model.keys(place)
        return f"{_path(place)} is an unknown key.{did_you_mean(place[-1], legal)} Legal: {', '.join(legal)}"
    received = "is missing" if error["type"] == "missing" else f"is {_short(error['input'])}"
    return f"{_path(place[: model.depth(place)])} {received}. Legal: {model.legal(place)}"


def _path(place: list[str]) -> str:
    return " > ".join(repr(part[:80]) for part in place)


def _short(value: Any) -> str:
    """A received value, cut to fit a message; a huge integer has no short text of its own."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, list | dict):
        kind = "object" if isinstance(value, dict) else "list"
        return f"an empty {kind}" if not value else {"object": "an object", "list": "a list"}[kind]
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
