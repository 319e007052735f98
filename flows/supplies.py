"""What a profile reads that no stage makes: datasets and model folders, looked for at the start.

DVC notices a missing dependency when it comes to the stage that reads it, and with the paper's
profile that may be days after the start. So a rebuild of everything looks first:
``python -m flows.repro`` before it starts DVC, and the first stage of a ``dvc repro`` without
targets. A ``dvc repro STAGE`` is not held up by what other stages need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from flows import guard
from tasks.errors import PedAlignError
from tasks.inputs import NOTHING
from tasks.params import PARAMS_FILE, read_yaml

MODELS = {
    "base": "diffusion.base",
    "poser": "screen.poser",
    "people": "screen.people",
    "embedder": "screen.embedder",
    "judge": "gap.judge.features",
    "init": "pretrain.init",
    "captioner": "caption.{method}.model",
    "attributes": "caption.{method}.attributes",
    "detector": "annotate.proposer",
    "parser": "annotate.parser",
    "vision": "pretrain.vision",
    "text": "pretrain.text",
}
"""Keys of section ``inputs`` that are model folders, or a file of words, and the parameter that
names it; ``{method}`` is the part of section ``caption`` that its method reads."""
_WEIGHTS = frozenset({".safetensors", ".bin", ".pth", ".cfg"})  # a spaCy pipeline has a config.cfg
_UNFINISHED = ".cache/huggingface/download"  # where `hf download --local-dir` keeps its parts


def check(params_file: Path = PARAMS_FILE) -> None:
    """Look for everything that a rebuild of the profile reads and does not make.

    Raises:
        PedAlignError: Something is not there; all that is not is named.
    """
    found = sorted(set(lacking(read_yaml(params_file))))
    if found:
        raise PedAlignError(
            f"{params_file} names what is not on this disk:\n  " + "\n  ".join(found),
            "all that a rebuild reads is there before its first stage begins: some take days",
            "docs/datasets.md and docs/weights.md say what comes from where; "
            "`dvc repro STAGE` asks only for what that stage and those before it read",
        )


def lacking(params: Mapping[str, Any]) -> Iterator[str]:
    """Name each file and folder that is missing, with the parameter that asks for it.

    Args:
        params: The whole of params.yaml. What it lacks is the stages' matter.
    """
    for name, dataset in params.get("ingest", {}).get("datasets", {}).items():
        for key in ("annotation", "fingerprint"):
            path = dataset[key]
            if path != NOTHING and not Path(path).exists():
                hint = f"; pedalign fingerprint {dataset['root']}" if key == "fingerprint" else ""
                yield f"{path} (ingest.datasets.{name}.{key}{hint}{_pull(path)})"
    for name, entry in params.get("describe", {}).get("datasets", {}).items():
        for key in ("captioner", "attributes"):
            path = entry[key]
            if path != NOTHING and (fault := _fault(Path(path))):
                yield f"{path} (describe.datasets.{name}.{key}: {fault}{_pull(path)})"
    for name, entry in params.get("reid", {}).get("datasets", {}).items():
        path = entry["start"]  # that of an earlier stage is made on the way
        if not path.startswith("data/checkpoints/") and (fault := _fault(Path(path))):
            yield f"{path} (reid.datasets.{name}.start: {fault}{_pull(path)})"
    method = params.get("caption", {}).get("method", "")
    for part, parameter in ((part, key.format(method=method)) for part, key in MODELS.items()):
        path = params.get("inputs", {}).get(part, NOTHING)
        if path != NOTHING and "://" not in path and (fault := _fault(Path(path))):
            yield f"{path} (inputs.{part}: {fault}{_pull(path)})"
        named: Any = params
        for key in parameter.split("."):
            named = named.get(key, {})
        # A hub name is legal, and so is a word such as `embedded`; a path into data is neither.
        inside = isinstance(named, str) and named.startswith("data/")
        if named != path and inside and (fault := _fault(Path(named))):
            yield f"{named} ({parameter}: {fault}{_pull(named)})"


def _fault(folder: Path) -> str:
    """What is wrong with a model's folder; nothing if it can be loaded from by the look of it."""
    if not folder.exists():
        return "no such folder"
    if folder.is_file():
        return ""
    if any((folder / _UNFINISHED).rglob("*.incomplete")):
        return "its download did not finish; the same command goes on"
    if not any(file.suffix in _WEIGHTS for file in folder.rglob("*")):
        return "no weights in it"
    return ""


def _pull(path: str) -> str:
    """How to get what DVC tracks, for a path or a folder above it that has a ``.dvc`` file."""
    tracked = [f"{place}.dvc" for place in (Path(path), *Path(path).parents)]
    return next((f"; dvc pull {file}" for file in tracked if Path(file).is_file()), "")


def wants_everything(command: Sequence[str]) -> bool:
    """Say whether a command line is a ``dvc repro`` without targets."""
    words = list(command)
    return "repro" in words and all(w.startswith("-") for w in words[words.index("repro") + 1 :])


def check_for_dvc() -> None:
    """For a stage that DVC started: `check`, if DVC was asked for everything.

    Raises:
        PedAlignError: See `check`.
    """
    commands: list[list[str]] = []
    with contextlib.suppress(psutil.Error):  # gone, or another user's
        commands = [process.cmdline() for process in guard.keepers()]
    if any(wants_everything(command) for command in commands):
        check()
