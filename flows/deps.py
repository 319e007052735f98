"""``python -m flows.deps [--write]``: keep the code dependencies of dvc.yaml complete.

A module that a stage imports and dvc.yaml does not name is the classic silent failure: the edit is
made and DVC says "didn't change". This compares every stage's ``deps`` with the first-party import
closure of its flow (`tasks.provenance.closure`) and, with ``--write``, mends the file. A test runs
the comparison.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML

from tasks.provenance import PACKAGES, ROOT, closure, data_files, module_path

DVC_FILE = ROOT / "dvc.yaml"
_yaml = YAML()
_yaml.width = 100
_yaml.indent(mapping=2, sequence=4, offset=2)


def stages(dvc: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every stage's name and body; of a ``foreach`` stage, what it does for each."""
    for name, body in dvc["stages"].items():
        yield name, body.get("do", body)


def code_of(stage: str) -> list[str]:
    """List the files that a stage's flow imports or reads and that can change its bytes, sorted."""
    names = closure(f"flows.{stage}")
    paths = [path for name in names if (path := module_path(name)) is not None]
    paths += [file for name in names for file in data_files(name)]
    return sorted({path.relative_to(ROOT).as_posix() for path in paths})


def declared(body: dict[str, Any]) -> list[str]:
    """List the files of this project's packages among a stage's deps."""
    return sorted(str(dep) for dep in body["deps"] if _is_code(str(dep)))


def _is_code(dep: str) -> bool:
    return dep.startswith(tuple(f"{package}/" for package in PACKAGES))


def main(*, write: bool) -> int:
    """Compare, and mend if asked; return the number of stages that differ."""
    dvc = _yaml.load(DVC_FILE.read_text(encoding="utf-8"))
    wrong = 0
    for name, body in stages(dvc):
        needed, listed = code_of(name), declared(body)
        if needed == listed:
            continue
        wrong += 1
        missing, spare = sorted(set(needed) - set(listed)), sorted(set(listed) - set(needed))
        print(f"{name}: add {missing}, drop {spare}")
        data = [dep for dep in body["deps"] if not _is_code(str(dep))]
        body["deps"][:] = [*data, *needed]
    if write and wrong:
        with DVC_FILE.open("w", encoding="utf-8") as sink:
            _yaml.dump(dvc, sink)
    return wrong


if __name__ == "__main__":
    sys.exit(0 if main(write="--write" in sys.argv) == 0 or "--write" in sys.argv else 1)
