"""Faults of a dataset as a whole, each in a dataset of its own: ingestion stops and says why."""

import gzip
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tasks.ingest.poison import JPEG, Payload, good, payload


@dataclass(frozen=True)
class Fault:
    kind: str
    found: str
    """What the error says was found, in part."""
    text: Callable[[list[dict[str, Any]]], bytes] | None = None
    """The annotation file's bytes, from good entries."""
    entries: Callable[[list[dict[str, Any]]], list[Any]] | None = None
    """Or its entries."""
    spoil: Callable[[Path], None] | None = None
    """Or what is done to the dataset's folder after its fingerprint is made."""
    section: dict[str, str] = field(default_factory=dict)
    """Parameters that differ; ROOT stands for the raw folder."""
    file: str = "a.json"
    """Name of the annotation file."""


def _plain(entries: list[Any]) -> bytes:
    return json.dumps(entries).encode()


def _pipe(root: Path) -> None:
    os.mkfifo(root.parent / "pipe.json")


def _folder_with_pipe(root: Path) -> None:
    (root.parent / "folder").mkdir()
    os.mkfifo(root.parent / "folder" / "a.json")


FAULTS = [
    Fault("JSON cut short", "broken after 5 entries", lambda e: _plain(e)[:-40]),
    Fault("JSON without a comma", "where a comma belongs",
          lambda e: _plain(e).replace(b"}, {", b"} {", 1)),
    Fault("JSON with a raw control character", "broken after 0 entries",
          lambda e: _plain(e).replace(b"a man", b"a \x01man", 1)),
    Fault("JSON of brackets alone", "nested too deeply", lambda e: b"[" * 200_000),
    Fault("JSON with a number of 5,000 digits", "broken after 0 entries",
          lambda e: _plain(e).replace(b'"id": 0', b'"id": ' + b"9" * 5000)),
    Fault("mapping instead of a list", "a mapping", lambda e: json.dumps({"images": e}).encode()),
    Fault("JSON lines named .json", "a mapping",
          lambda e: b"\n".join(json.dumps(entry).encode() for entry in e)),
    Fault("nothing in the file", "holds nothing", lambda e: b""),
    Fault("no entries", "no entries", lambda e: b"[]"),
    Fault("web page named .json", "begins with '<'", lambda e: b"<!DOCTYPE html>"),
    Fault("Latin-1", "not UTF-8", lambda e: _plain([good(0, captions=["cafX"]), *e[1:]])
          .replace(b"X", b"\xe9")),
    Fault("UTF-16", "not UTF-8", lambda e: json.dumps(e).encode("utf-16")),
    Fault("gzip named .json", "not UTF-8", lambda e: gzip.compress(_plain(e), mtime=0)),
    Fault("pickle named .json", "not UTF-8", lambda e: payload(Path("unpickled"))),
    Fault("pickle of protocol 0 named .json", "begins with 'c'",
          lambda e: pickle.dumps(Payload("unpickled"), 0)),
    Fault("pickle named .pkl", "ends in '.pkl'", lambda e: payload(Path("unpickled")),
          file="a.pkl"),
    Fault("CSV for a format of JSON", "6 of 6 entries are faulty",
          lambda e: b"path,words\n" + b"".join(b"%d.jpg,a man\n" % n for n in range(6)),
          file="a.csv"),
    Fault("CSV with a column twice", "several columns are called id",
          lambda e: b"file_path,id,id\n1.jpg,1,2\n", file="a.csv"),
    Fault("no annotation file", "no annotation file", section={"annotation": "ROOT/b.json"}),
    Fault("named pipe as the annotation", "no annotation file", spoil=_pipe,
          section={"annotation": "ROOT/../pipe.json"}),
    Fault("named pipe among the annotations", "not a regular file", spoil=_folder_with_pipe,
          section={"annotation": "ROOT/../folder"}),
    Fault("one image in two entries", "stand in several entries", entries=lambda e: [*e, e[0]]),
    Fault("one image in two spellings", "stand in several entries",
          entries=lambda e: [*e, good(0, file_path="./good//0.jpg")]),
    Fault("one person in two splits", "people stand in two splits",
          entries=lambda e: [*e[:5], good(5, id=0, split="test")]),
    Fault("unknown split", "split 'trian'", entries=lambda e: [*e[:5], good(5, split="trian")]),
    Fault("split of another type", "split '3'", entries=lambda e: [*e[:5], good(5, split=3)]),
    Fault("split null", "belong to no split", entries=lambda e: [*e[:5], good(5, split=None)]),
    Fault("most entries lack a key", "4 of 6 entries are faulty",
          entries=lambda e: e[:2] + [{"image": "x.jpg"}] * 4),
    Fault("most entries are no mappings", "4 of 6 entries are faulty",
          entries=lambda e: e[:2] + ["x.jpg"] * 4),
    Fault("most images are somewhere else", "6 of 6 images looked for are not there",
          section={"images": "img"}),
    Fault("a file more than in the fingerprint", "differ from fingerprint",
          spoil=lambda root: (root / "imgs/new.jpg").write_bytes(JPEG) and None),
    Fault("a file cut since the fingerprint", "differ from fingerprint",
          spoil=lambda root: os.truncate(root / "imgs/good/0.jpg", 99)),
    Fault("no fingerprint", "FileNotFoundError",
          spoil=lambda root: (root / "fingerprint.json").unlink()),
    Fault("fingerprint that is none", "JSONDecodeError",
          spoil=lambda root: (root / "fingerprint.json").write_bytes(b"{") and None),
    Fault("no folder", "no such folder", section={"root": "ROOT/nowhere"}),
]  # fmt: skip
