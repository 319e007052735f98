"""What a result depends on besides its data: code, weights and libraries, each as a digest.

Code counts by its *syntax tree without docstrings*, over the modules that a computation imports
from this project, so an edit of one line recomputes and a comment or a docstring does not. With a
module count the data files beside it that its text names (`data_files`), and the libraries that it
imports (`imported_libraries`): nobody has to remember to list them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError

from tasks.errors import PedAlignError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "models")
_FILE_NAME = re.compile(r"^(\.\./)?(\w[\w-]*/)*\w[\w.-]*\.\w+$")

# Modules that no stage's bytes depend on: they report, watch, describe errors or choose devices.
EXEMPT = frozenset(
    {
        "flows",
        "flows.faults",
        "flows.guard",
        "flows.liveness",
        "flows.mending",
        "flows.shards",
        "flows.stage",
        "flows.supplies",
        "flows.together",
        "flows.workers",
        "flows.windows",
        "tasks",
        "tasks.collecting",
        "tasks.errors",
        "tasks.locks",
        "tasks.provenance",
        "tasks.runtime",
        "tasks.store",
        "models",
    }
)


# Libraries that a result does not depend on: they check, watch, name places or hand out work.
_SPECTATORS = frozenset({"filelock", "prefect", "psutil", "pydantic", "ruamel", "tqdm", "upath"})
# Distributions whose name is not that of their package.
_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# What computes on behalf of a library, without being imported here.
_BEHIND = {"transformers": ("safetensors", "tokenizers"), "diffusers": ("safetensors",)}


def digest(*parts: object) -> str:
    """SHA-256 of JSON-able parts, written canonically."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def module_path(module: str) -> Path | None:
    """Find a first-party module's file; None if the name is no module."""
    base = ROOT.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.exists():
            return path
    return None


def _parse(source: str) -> ast.Module:
    """Parse, again if need be.

    CPython before 3.13 counts the recursion of building a tree in one place for all threads, so
    another thread that parses meanwhile (Prefect's do) makes it raise SystemError (gh-106905).
    """
    for _ in range(20):
        try:
            return ast.parse(source)
        except SystemError:
            time.sleep(0.05)
    return ast.parse(source)


@cache
def _tree(path: Path) -> ast.Module:
    return _parse(path.read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """List the first-party modules that a module's text imports, anywhere in it."""
    path = module_path(module)
    if path is None:
        return set()
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            # `from tasks import shards` names a module by its last word.
            found |= {
                name
                for alias in node.names
                if module_path(name := f"{node.module}.{alias.name}") is not None
            }
    return {name for name in found if name.split(".")[0] in PACKAGES and module_path(name)}


def closure(*modules: str, exempt: Iterable[str] = EXEMPT) -> list[str]:
    """List the modules reached from some modules by first-party imports, themselves included.

    Exempt modules are neither listed nor followed.
    """
    seen: set[str] = set()
    waiting = list(modules)
    skipped = set(exempt)
    while waiting:
        module = waiting.pop()
        if module in seen or module in skipped:
            continue
        seen.add(module)
        waiting.extend(imports(module))
        # Importing `a.b.c` runs `a.b` too.
        waiting.extend([module.rpartition(".")[0]] if "." in module else [])
    return sorted(seen)


def data_files(module: str) -> list[Path]:
    """List the files beside a module that a text in it names: word lists, templates.

    So a module that reads ``Path(__file__).with_name("synonyms.json")`` depends on that file, and
    one that names ``"../tiny/regions/regions.json"`` on that one.
    """
    path = module_path(module)
    if path is None:
        return []
    texts = {
        node.value
        for node in ast.walk(_bare_tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    beside = ((path.parent / text).resolve() for text in sorted(texts) if _FILE_NAME.match(text))
    return [file for file in beside if file.suffix != ".py" and file.is_file()]


@cache
def imported_libraries(*modules: str) -> tuple[str, ...]:
    """List the distributions that modules import, and all modules that they import from here.

    The standard library belongs to Python, whose version shapes every syntax tree.
    """
    names: set[str] = set()
    for module in closure(*modules):
        path = module_path(module)
        for node in ast.walk(_tree(path)) if path is not None else ():
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    names -= {*sys.stdlib_module_names, *PACKAGES, *_SPECTATORS}
    behind = {other for name in names for other in _BEHIND.get(name, ())}
    return tuple(sorted(_DISTRIBUTIONS.get(name, name) for name in names | behind))


class _Bare(ast.NodeTransformer):
    """Removes docstrings, also those under attributes: they compute nothing."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop a bare string."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


@cache
def _bare_tree(path: Path) -> ast.AST:
    return _Bare().visit(_parse(path.read_text(encoding="utf-8")))


def source_digest(source: str) -> str:
    """Digest of Python source without comments, docstrings and layout."""
    return _tree_digest(_Bare().visit(_parse(source)))


def _tree_digest(tree: ast.AST) -> str:
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@cache
def code_digest(*modules: str) -> str:
    """Digest of the code that some modules run: their own and all they import from this project.

    The data files that the modules name count too.
    """
    found = closure(*modules)
    sources = [(name, _tree_digest(_bare_tree(path))) for name in found
               if (path := module_path(name)) is not None]  # fmt: skip
    data = [(name, file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for name in found
            for file in data_files(name)]  # fmt: skip
    return digest(sources, data)


@cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def library_versions(*names: str) -> dict[str, str]:
    """Versions of the libraries that compute, as installed; "absent" for an optional one."""
    return {name: _version(name) for name in sorted(names)}


def folder_digest(folder: Path, pattern: str = "**/*") -> str:
    """Digest of a folder's file names and contents: the revision of a local model.

    Hidden files do not count: ``hf download`` keeps the time of each download in some.
    """
    parts = []
    for path in sorted(folder.glob(pattern)):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            with path.open("rb") as source:
                content = hashlib.file_digest(source, "sha256").hexdigest()
            parts.append((path.relative_to(folder).as_posix(), content))
    return digest(parts)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


@cache
def model_revision(name: str) -> str:
    """Say exactly which weights a model name stands for.

    Args:
        name: A local folder or file of weights, or the name of a model on the hub.

    Returns:
        The digest of the local files, or the hub's commit: the one in the local cache where there
        is no network.

    Raises:
        PedAlignError: It is neither local nor a model that can be reached or is cached.
    """
    if Path(name).is_dir():
        return folder_digest(Path(name))
    if Path(name).is_file():
        return folder_digest(Path(name).parent, Path(name).name)
    try:
        return str(HfApi().model_info(name, timeout=10).sha)
    except (OSError, ValueError, HfHubHTTPError) as error:
        reference = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "main"
        if reference.exists():
            return reference.read_text(encoding="utf-8").strip()
        raise PedAlignError(
            f"model {name!r}: neither on this disk, nor did the hub answer "
            f"({type(error).__name__})",
            "a model is local, or a name that the hub knows or the local cache holds",
            f"check the spelling, or fetch it once: hf download {name}",
        ) from error


def computation_key(
    stage: str,
    *,
    inputs: Iterable[str],
    params: object,
    code: Iterable[str] = (),
    revisions: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> str:
    """Name a computation by everything that its bytes depend on.

    Args:
        stage: The stage's name. Its flow is the code that counts, with all that it imports from
            this project and the versions of the libraries that these import.
        inputs: Digests of the input shards or folders.
        params: The parameters that matter: a dataclass, a list of them, or anything JSON-able.
        code: Further modules that compute.
        revisions: Digest or hub commit of every model that is used.
        device: Class of device, without its index: two GPUs of a machine give the same bytes.
    """
    flow = f"flows.{stage}"
    modules = sorted({*code, *([flow] if module_path(flow) else [])})
    return digest(
        stage,
        list(inputs),
        _plain(params),
        code_digest(*modules),
        dict(revisions or {}),
        library_versions(*imported_libraries(*modules)),
        device.partition(":")[0],
        torch.get_num_threads(),
        platform.machine(),
    )
