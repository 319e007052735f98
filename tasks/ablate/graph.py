"""The DAG of dvc.yaml under any parameters, without DVC: what computes a folder, and from what.

`Graph` fills in dvc.yaml's templates and follows dependencies, so that two sets of parameters can
be compared stage by stage before anything runs. A stage's *identity* is a digest of its command,
the parameters that it names, its other dependencies (what no stage makes, weights and annotations,
by their content) and the identities of the stages before it: equal identities give equal results,
with one code. Code is no part of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tasks.errors import PedAlignError
from tasks.provenance import PACKAGES, digest, folder_digest

DVC_FILE = Path("dvc.yaml")
_TEMPLATE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Stage:
    """A stage of the DAG, of a ``foreach`` one for one of its entries."""

    name: str
    """As DVC calls it: ``ingest@target``."""
    command: str
    deps: tuple[str, ...]
    """Without code."""
    outs: tuple[str, ...]
    params: Mapping[str, Any]
    """By dotted key, the values that DVC watches."""

    @property
    def word(self) -> str:
        """The name without the entry."""
        return self.name.partition("@")[0]


class Graph:
    """All stages under some parameters."""

    def __init__(self, values: Mapping[str, Any], dag: Mapping[str, Any]) -> None:
        """Fill in dvc.yaml's templates.

        Args:
            values: The whole of params.yaml.
            dag: The whole of dvc.yaml, as `read_yaml` gives it.
        """
        self.stages = {
            stage.name: stage
            for name, body in dag["stages"].items()
            for stage in _stages(name, body, values)
        }
        self._identities: dict[str, str] = {}

    def maker(self, path: str) -> str | None:
        """Name the stage that makes a path; None where none does."""
        for stage in self.stages.values():
            if any(path == out or path.startswith(f"{out}/") for out in stage.outs):
                return stage.name
        return None

    def before(self, targets: Iterable[str]) -> list[str]:
        """Name the targets and all stages that they need, each after those that it needs."""
        found: list[str] = []

        def visit(name: str) -> None:
            if name in found:
                return
            for dep in self.stages[name].deps:
                if (other := self.maker(dep)) is not None:
                    visit(other)
            found.append(name)

        for target in targets:
            visit(target)
        return found

    def identity(self, name: str) -> str:
        """Digest of everything but code that a stage's result depends on."""
        if name not in self._identities:
            stage = self.stages[name]
            made_by = [self.maker(dep) for dep in stage.deps]
            given = [
                (dep, content(dep))
                for dep, maker in zip(stage.deps, made_by, strict=True)
                if maker is None
            ]
            earlier = sorted(self.identity(maker) for maker in made_by if maker is not None)
            self._identities[name] = digest(stage.command, dict(stage.params), given, earlier)
        return self._identities[name]


def content(path: str) -> str:
    """Digest of a file or a folder, such as weights; ``absent`` where there is none."""
    place = Path(path)
    if not place.exists():
        return "absent"
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    told = [(str(file), file.stat()) for file in files if file.is_file()]
    return _content(path, tuple((name, at.st_size, at.st_mtime_ns) for name, at in told))


@cache
def _content(path: str, _: tuple[tuple[str, int, int], ...]) -> str:
    """Read it; once as long as sizes and times stay."""
    place = Path(path)
    if place.is_dir():
        return folder_digest(place)
    with place.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _stages(name: str, body: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Stage]:
    if "foreach" not in body:
        yield _stage(name, body, values)
        return
    entries = _fill(body["foreach"], values)
    for key, item in entries.items():
        yield _stage(f"{name}@{key}", body["do"], {**values, "key": key, "item": item})


def _stage(name: str, body: Mapping[str, Any], values: Mapping[str, Any]) -> Stage:
    def paths(part: str) -> tuple[str, ...]:
        # An entry with options is a mapping of one path.
        told = (each if isinstance(each, str) else next(iter(each)) for each in body.get(part, ()))
        return tuple(str(_fill(each, values)) for each in told)

    keys = [str(_fill(key, values)) for key in body.get("params", ())]
    code = tuple(f"{package}/" for package in PACKAGES if package != "models")
    return Stage(
        name=name,
        command=str(_fill(body["cmd"], values)),
        deps=tuple(
            dep for dep in paths("deps") if not dep.startswith(code) and not dep.endswith(".py")
        ),
        outs=paths("outs") + paths("metrics") + paths("plots"),
        params={key: _value(key, values) for key in keys},
    )


def _fill(template: str, values: Mapping[str, Any]) -> Any:
    """Fill in a template; one that is nothing else gives the value itself."""
    if whole := _TEMPLATE.fullmatch(template):
        return _value(whole[1], values)
    return _TEMPLATE.sub(lambda found: str(_value(found[1], values)), template)


def _value(key: str, values: Mapping[str, Any]) -> Any:
    value: Any = values
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise PedAlignError(
                f"the parameters have no `{key}`",
                f"{DVC_FILE} names it",
                "complete the profile: compare it with profiles/tiny.yaml",
            )
        value = value[part]
    return value
