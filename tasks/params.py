"""params.yaml, read once into frozen dataclasses that live beside the code they drive.

A stage declares its section as a class under ``@params`` and reads it with ``read_section``.
Everything that could silently do nothing is an error: an unknown key, a missing key, a value of
the wrong type or out of range. DVC owns overrides (``dvc exp run -S``), so there is no second way
to set a value.

A value that comes in several kinds, a model or an objective, says which in its key ``kind``: its
type is a `Tagged` union of dataclasses whose ``kind`` is a literal.

Why pydantic: Prefect brings it, and its strict mode states exactly the rules wanted here. Why
ruamel.yaml: DVC reads the same file with it, and PyYAML takes ``1e-4`` for a string.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as _pydantic_dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import PedAlignError

PARAMS_FILE = Path("params.yaml")

T = TypeVar("T")


# Ranges that many sections share. Lists are tuples, so that a section stays hashable.
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Ints = tuple[int, ...]
Floats = tuple[float, ...]
Strings = tuple[str, ...]
Tagged = Field(discriminator="kind")
"""Makes a union of sections with a literal ``kind`` a tagged one: ``Annotated[A | B, Tagged]``."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def params(cls: type[T]) -> type[T]:
    """Make a class a strict, frozen, keyword-only section of params.yaml."""
    config = ConfigDict(extra="forbid", strict=True)
    return _pydantic_dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[return-value]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        PedAlignError: The file is missing, is not YAML, or is not a mapping.
    """
    try:
        loaded = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PedAlignError(
            f"{path}: no such file",
            "every run reads a complete params.yaml",
            "cp profiles/tiny.yaml params.yaml",
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise PedAlignError(
            f"{path}: not readable as YAML ({' '.join(str(error).split())})",
            "the file is YAML 1.2 in UTF-8",
            "mend the line named above",
        ) from error
    if not isinstance(loaded, dict):
        raise PedAlignError(
            f"{path}: holds a {type(loaded).__name__}",
            "the top level is a mapping of stage names to their parameters",
            f"compare it with profiles/tiny.yaml; this one begins {loaded!r:.40}",
        )
    return loaded


def read_section(cls: type[T], key: str, path: Path = PARAMS_FILE) -> T:
    """Read one section of the parameter file into its dataclass.

    Args:
        cls: A class decorated with `params`.
        key: Dotted path of the section, for example ``"finetune.datasets.target"``.
        path: The parameter file.

    Returns:
        The checked, frozen section.

    Raises:
        PedAlignError: A key is unknown or missing, or a value has the wrong type or range. All
            faults of the section are named at once.
    """
    value: Any = read_yaml(path)
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else "none"
            raise PedAlignError(
                f"{path}: section `{key}` is missing",
                f"the sections there are: {known}",
                f"add `{part}:`, as in profiles/tiny.yaml",
            )
        value = value[part]
    return check_section(cls, value, key, path)


def check_section(
    cls: type[T],
    value: object,
    key: str,
    path: Path = PARAMS_FILE,
    example: str = "profiles/tiny.yaml",
) -> T:
    """Check an already loaded mapping against a section's class. See `read_section`.

    Args:
        cls: A class decorated with `params`.
        value: The mapping.
        key: Dotted path of the section; empty for a whole file.
        path: Where it comes from, for messages.
        example: A file that keeps the rules, for messages.
    """
    # By way of JSON: strict mode then takes a mapping for a dataclass and a list for a tuple.
    text = json.dumps(value, default=str)
    try:
        return TypeAdapter(cls).validate_json(text)
    except ValidationError as error:
        raise _explain(error, cls, key, path, example) from None


def _explain(
    error: ValidationError, cls: type[Any], key: str, path: Path, example: str
) -> PedAlignError:
    found, rules, remedies = [], [], []
    for fault in error.errors(include_url=False):
        place, kinds = _place(cls, fault["loc"])
        name = ".".join([*([key] if key else []), *place])
        section = ".".join([*([key] if key else []), *place[:-1]]) or path.name
        legal = ", ".join(dict.fromkeys(field for kind in kinds for field in _fields(kind)))
        if fault["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
            found.append(f"{path}: unknown key `{name}` (value {fault['input']!r:.60})")
            rules.append(f"`{section}` knows only: {legal}")
            remedies.append(f"remove `{name}` or correct its spelling")
        elif fault["type"] in {"missing", "missing_argument"}:
            found.append(f"{path}: missing key `{name}`")
            rules.append(f"`{section}` needs all of: {legal}")
            remedies.append(f"add `{name}`, as in {example}")
        elif fault["type"] == "union_tag_not_found":
            found.append(f"{path}: missing key `{name}.kind`")
            rules.append(f"`{name}` comes in several kinds and says which it is")
            remedies.append(f"add `{name}.kind`, as in {example}")
        elif fault["type"] == "union_tag_invalid":
            found.append(f"{path}: `{name}.kind` is {fault['ctx']['tag']!r:.80}")
            rules.append(f"the kinds of `{name}` are {fault['ctx']['expected_tags']}")
            remedies.append(f"set `{name}.kind` to one of them")
        elif fault["type"] == "value_error" and not isinstance(fault["input"], str | int | float):
            # A rule between several keys, whose text names them: all of them would be no help here.
            found.append(f"{path}: `{name or path.name}`: {fault['ctx']['error']}")
            rules.append("the keys of a section fit each other")
            remedies.append("change one of those named")
        else:
            found.append(f"{path}: `{name}` is {fault['input']!r:.80}")
            rules.append(fault["msg"])
            remedies.append(f"set `{name}` to a value that keeps the rule")
    unique = list(dict.fromkeys(rules))
    return PedAlignError("\n".join(found), "; ".join(unique), "; ".join(dict.fromkeys(remedies)))


def _place(cls: type[Any], loc: tuple[str | int, ...]) -> tuple[list[str], list[type[Any]]]:
    """Find a fault: its keys as the file has them, and the classes that its section may be of.

    pydantic also names the kind that it tried, between a tagged section and the section's keys.
    """
    kinds: list[type[Any]] = [cls]
    place: list[str] = []
    for at, part in enumerate(loc):
        tagged = [kind for kind in kinds if part in get_args(_fields(kind).get("kind"))]
        if tagged and place:
            kinds = tagged
            continue
        place.append(str(part))
        if at < len(loc) - 1:
            inner = [_fields(kind)[part] for kind in kinds if part in _fields(kind)]
            kinds = [each for hint in inner for each in _sections(hint)] or kinds
    return place, kinds


def _fields(cls: type[Any]) -> dict[Any, Any]:
    """Types of a section's keys."""
    return get_type_hints(cls)


def _sections(hint: Any) -> list[type[Any]]:
    """The sections that a type holds, at any depth."""
    if hasattr(hint, "__dataclass_fields__"):
        return [hint]
    return [each for part in get_args(hint) for each in _sections(part)]
