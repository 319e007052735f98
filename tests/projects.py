"""Copies of the project that run real DVC on the ``micro`` profile, a few seconds a stage.

One rebuild a session serves every test of DVC (fixture `rebuilt`): a test takes a copy of it, or
clones it, and changes that. Stages talk to one Prefect server a session (`prefect_server`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
CODE = ("flows", "tasks", "models", "profiles")
FILES = (
    "dvc.yaml", "pyproject.toml", ".dvcignore", ".gitignore", "data/README.md", "data/nothing",
)  # fmt: skip
STAGES = 13
"""Of the micro profile."""


class Project:
    """A folder in which git and DVC are called."""

    def __init__(self, folder: Path) -> None:
        """Stand for a project at ``folder``, made or not yet made."""
        self.folder = folder
        programs = str(Path(sys.executable).parent)
        kept = {k: v for k, v in os.environ.items() if k not in {"PREFECT_API_URL", "DVC_ROOT"}}
        self.environment = kept | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site-cache"),
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
            # Neither the user's git settings nor hooks have a say here.
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
        }  # fmt: skip

    # ------------------------------------------------------------------ where it comes from

    def create(self, port: int, profile: str = "micro") -> None:
        """Copy this checkout's code, with a profile, into a new repository."""
        for name in CODE:
            shutil.copytree(
                ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        (self.folder / "data").mkdir()
        for name in FILES:
            shutil.copy(ROOT / name, self.folder / name)
        shutil.copy(ROOT / "profiles" / f"{profile}.yaml", self.folder / "params.yaml")
        (self.folder / "runtime.yaml").write_text(f"port: {port}\n")
        self.call("git", "init", "-q", "-b", "main")
        self.call("dvc", "init", "-q")
        shutil.copy(ROOT / ".dvc" / "config", self.folder / ".dvc" / "config")

    def copy(self, folder: Path) -> Project:
        """Make an independent copy: outputs, both stores and history, hard links among them."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return Project(folder)

    def clone(self, folder: Path) -> Project:
        """Clone what git knows, as a colleague would: no outputs, no stores, no runtime.yaml."""
        self.call("git", "clone", "-q", str(self.folder), str(folder))
        return Project(folder)

    # ------------------------------------------------------------------ what is called in it

    def call(self, *command: str) -> str:
        """Run ``git …``, or a Python module such as ``dvc``, and return what it prints."""
        program = ["git"] if command[0] == "git" else [sys.executable, "-m", command[0]]
        done = subprocess.run(
            [*program, *command[1:]],
            cwd=self.folder if self.folder.exists() else self.folder.parent,
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done.stdout

    def repro(self, *arguments: str) -> list[str]:
        """Run ``dvc repro`` and return the stages that ran, in order."""
        shutil.rmtree(self.folder / ".cache" / "reuse", ignore_errors=True)
        return stages_run(self.call("dvc", "repro", *arguments))

    def commit(self, message: str) -> str:
        """Commit everything that git does not ignore; return the commit."""
        self.call("git", "add", "-A")
        self.call("git", "commit", "-q", "-m", message)
        return self.call("git", "rev-parse", "HEAD").strip()

    def computed(self, stage: str) -> tuple[int, int]:
        """Shards, or trainings, of a stage in the last repro: (computed, all)."""
        record = json.loads((self.folder / ".cache" / "reuse" / f"{stage}.json").read_bytes())
        return record["shards"] - record["reused"], record["shards"]

    def edges(self) -> set[tuple[str, str]]:
        """``(stage, stage that depends on it)``, by what DVC itself says of its graph."""
        return set(re.findall(r'"([^"]+)" -> "([^"]+)"', self.call("dvc", "dag", "--dot")))

    # ------------------------------------------------------------------ what is changed in it

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that occurs once in a file."""
        file = self.folder / path
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        file.write_text(text.replace(old, new), encoding="utf-8")

    def set(self, key: str, value: object) -> None:
        """Set a value of params.yaml that differs so far."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        loaded = yaml.load(path.read_text(encoding="utf-8"))
        *parents, last = key.split(".")
        section = loaded
        for part in parents:
            section = section[part]
        assert last in section, key
        assert section[last] != value, key
        section[last] = value
        with path.open("w", encoding="utf-8") as sink:
            yaml.dump(loaded, sink)

    def files(self, folder: str) -> dict[str, bytes]:
        """Contents of the files below a folder by their relative path."""
        root = self.folder / folder
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }


def stages_run(said: str) -> list[str]:
    """Name the stages that ran, in order, by what DVC said."""
    return re.findall(r"Running stage '([^']+)'", said)


@contextmanager
def serve(folder: Path) -> Iterator[int]:
    """Run a Prefect server that keeps what it keeps in ``folder``; yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | settings, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1):
                    break
            except OSError:
                assert server.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the Prefect server did not start"
                time.sleep(0.5)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
