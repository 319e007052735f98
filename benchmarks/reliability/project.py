"""A copy of the project, its undisturbed run, and how another run is compared with that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

from ruamel.yaml import YAML

from benchmarks.reliability.processes import MARK

ROOT = Path(__file__).resolve().parents[2]
CODE = ("flows", "tasks", "models", "profiles")
FILES = ("dvc.yaml", "pyproject.toml", ".dvcignore", ".gitignore")
KEPT = ("README.md", "nothing")
"""What lies in data and comes from no stage."""
CHECKPOINT_SECONDS = {"micro": 0.3, "tiny": 10.0}
"""Between running checkpoints here, so that short trainings have some; changes no result."""


@dataclass(frozen=True)
class Entry:
    """A finished piece of work in the store: a shard, or a training."""

    inode: int
    written: int
    """Modification time in nanoseconds."""


@dataclass
class Reference:
    """The undisturbed run."""

    code: str
    """Digest of the code that was copied."""
    seconds: float
    digests: dict[str, str]
    """SHA-256 of every file under data."""
    outputs: dict[str, list[str]]
    """Paths that each stage writes, in the order in which they ran."""
    commands: dict[str, str]
    """The command of each stage, as dvc.yaml has it."""
    owners: dict[str, str]
    """Store entry -> the stage that made it."""
    timings: dict[str, str] = field(default_factory=dict)
    """Files of .cache/timings: what every stage cost, which the report shows."""

    def save(self, path: Path) -> None:
        """Write it down."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read it again."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Project:
    """A copy of the project that runs real DVC."""

    def __init__(self, folder: Path, profile: str = "micro") -> None:
        """Stand for a copy at ``folder``, made or not yet made."""
        self.folder, self.profile = folder, profile
        bin_folder = str(Path(sys.executable).parent)
        self.environment = os.environ | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site-cache"),
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(folder),
        }
        self.environment.pop("PREFECT_API_URL", None)

    def create(self) -> None:
        """Copy the code and start a repository."""
        self.folder.mkdir(parents=True)
        for name in CODE:
            shutil.copytree(
                ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        (self.folder / "data").mkdir()
        for name in (*FILES, *(f"data/{name}" for name in KEPT)):
            shutil.copy(ROOT / name, self.folder / name)
        shutil.copy(ROOT / "profiles" / f"{self.profile}.yaml", self.folder / "params.yaml")
        subprocess.run(["git", "init", "-q"], cwd=self.folder, check=True)
        self.call("dvc", "init", "-q")
        shutil.copy(ROOT / ".dvc" / "config", self.folder / ".dvc" / "config")

    def copy_from(self, other: Path) -> None:
        """Become an exact copy of another folder, hard links among its files included."""
        if self.folder.is_mount():
            for child in self.folder.iterdir():
                shutil.rmtree(child) if child.is_dir() else child.unlink()
        elif self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"{other}/.", str(self.folder)], check=True)

    def configure(self, port: int, runner: str = "threads") -> None:
        """Write runtime.yaml: the server's port and who computes shards."""
        seconds = CHECKPOINT_SECONDS[self.profile]
        lines = [f"port: {port}", f"runner: {runner}", f"checkpoint_seconds: {seconds}"]
        (self.folder / "runtime.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    # ------------------------------------------------------------------ running

    def start(
        self, module: str, *arguments: str, sink: IO[bytes], mark: str, shell: str = "/bin/sh"
    ) -> subprocess.Popen[bytes]:
        """Start ``python -m MODULE`` in a session and process group of its own.

        Args:
            module: ``dvc``, or one of the project's.
            *arguments: For it.
            sink: Takes what it and its children say.
            mark: Recognises the processes that come of it; see `processes`.
            shell: The shell that DVC starts stages with.
        """
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment | {MARK: mark, "SHELL": shell},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def call(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m MODULE`` to its end."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    # ------------------------------------------------------------------ looking

    def lock(self) -> dict[str, Any]:
        """The stages of dvc.lock."""
        text = (self.folder / "dvc.lock").read_text(encoding="utf-8")
        return dict(YAML(typ="safe").load(text)["stages"])

    def write_lock(self, stages: dict[str, Any]) -> None:
        """Write dvc.lock with these stages."""
        with (self.folder / "dvc.lock").open("w", encoding="utf-8") as sink:
            YAML().dump({"schema": "2.0", "stages": stages}, sink)

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file under data, by its path."""
        data = self.folder / "data"
        return {
            path.relative_to(data).as_posix(): _sha256(path)
            for path in sorted(data.rglob("*"))
            if path.is_file() and path.relative_to(data).as_posix() not in KEPT
        }

    def entries(self) -> dict[str, Entry]:
        """Finished work in the store, by its record's path: content and record are there.

        What an entry ``KEY-word`` holds beside the shard ``KEY`` is finished with that shard.
        """
        found = {}
        cache_folder = self.folder / ".cache"
        for record in [*cache_folder.glob("shards/*.json"), *cache_folder.glob("trainings/*.json")]:
            content = record.with_suffix(".parquet" if record.parent.name == "shards" else "")
            try:
                status = content.stat()
            except FileNotFoundError:
                continue
            name = record.relative_to(cache_folder).as_posix()
            found[name] = Entry(status.st_ino, status.st_mtime_ns)
        return {
            n: e for n, e in found.items() if "-" not in n or f"{n.split('-')[0]}.json" in found
        }

    def leftovers(self) -> list[str]:
        """Temporary files that a killed process left in the store."""
        found = (self.folder / ".cache").rglob("*.tmp")
        return sorted(path.relative_to(self.folder).as_posix() for path in found)


@cache
def code_digest() -> str:
    """Digest of everything that a copy takes over."""
    digest = hashlib.sha256()
    for name in CODE:
        for path in sorted((ROOT / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0{_sha256(path)}\n".encode())
    digest.update((ROOT / "dvc.yaml").read_bytes())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


# ------------------------------------------------------------------ the undisturbed run


def make_reference(project: Project, port: int, log: Path) -> Reference:
    """Copy the project and rebuild it without disturbance.

    Raises:
        RuntimeError: The rebuild failed.
    """
    shutil.rmtree(project.folder, ignore_errors=True)
    code = code_digest()
    project.create()
    project.configure(port)
    started = time.monotonic()
    done = project.call("dvc", "repro")
    seconds = time.monotonic() - started
    log.write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"the undisturbed run failed; see {log}")
    return describe(project, code, seconds)


def describe(project: Project, code: str, seconds: float) -> Reference:
    """Say what a finished rebuild left, and which stage made which store entry."""
    folder = project.folder / ".cache" / "timings"
    timings = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
    timings.sort(key=lambda timing: timing["started"])
    owners = {}
    for name, entry in project.entries().items():
        # Stages run one after the other, so the time of writing tells whose an entry is.
        began = [t["stage"] for t in timings if t["started"] * 1e9 <= entry.written]
        if began:
            owners[name] = began[-1]
    lock = project.lock()
    order = {timing["stage"]: at for at, timing in enumerate(timings)}
    stages = sorted(lock, key=lambda stage: order.get(stage, len(order)))
    return Reference(
        code=code,
        seconds=round(seconds, 1),
        digests=project.digests(),
        outputs={stage: [out["path"] for out in lock[stage].get("outs", [])] for stage in stages},
        commands={stage: lock[stage]["cmd"] for stage in stages},
        owners=owners,
        timings={path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")},
    )


def differing(found: dict[str, str], reference: Reference) -> list[str]:
    """Files that are missing, foreign or of other content, each with what is wrong."""
    expected = reference.digests

    def fault(path: str) -> str:
        return "missing" if path not in found else "foreign" if path not in expected else "differs"

    return sorted(
        f"{path}: {fault(path)}"
        for path in found.keys() | expected.keys()
        if found.get(path) != expected.get(path)
    )
