"""No file outside the dataset's folder is opened, and a changed folder is noticed."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import PedAlignError
from tasks.images import ImageError
from tasks.ingest.raw import PathError, RawFolder, check_fingerprint, fingerprint, safe_path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret", "unsafe-path"),
        ("a/../../secret", "unsafe-path"),
        ("/etc/passwd", "unsafe-path"),
        ("C:/windows/a.jpg", "unsafe-path"),
        ("..\\secret", "unsafe-path"),
        ("a\\b.jpg", "unsafe-path"),
        ("", "bad-path"),
        ("  ", "bad-path"),
        (".", "bad-path"),
        ("a\0.jpg", "bad-path"),
        ("a\n.jpg", "bad-path"),
        ("\ud800.jpg", "bad-path"),
        ("x" * 2000, "bad-path"),
        (None, "bad-path"),
        (7, "bad-path"),
        (["a"], "bad-path"),
    ],
)
def test_unsafe_paths(path, reason):
    with pytest.raises(PathError) as caught:
        safe_path(path)
    assert caught.value.reason == reason


def test_one_file_has_one_spelling():
    assert safe_path("./a//b/./c.jpg") == "a/b/c.jpg"


@given(st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "b.jpg", "C:", "é", " "]), max_size=6))
def test_a_path_that_passes_stays_inside(parts):
    try:
        path = safe_path("/".join(parts))
    except PathError:
        return
    assert os.path.normpath(f"/root/{path}").startswith("/root/")
    assert safe_path(path) == path


def test_reading(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub/a.jpg").write_bytes(b"data")
    (root / "inside").symlink_to(root / "sub/a.jpg")
    (root / "outside").symlink_to(tmp_path / "secret")
    (root / "way").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    folder = RawFolder(root)
    assert folder.read("sub/a.jpg") == b"data"
    assert folder.read("inside") == b"data"
    expected = {
        "outside": "unsafe-path",
        "way/secret": "unsafe-path",
        "nothing": "missing",
        "sub/a.jpg/b": "missing",
        "sub": "not-a-file",
        "pipe": "not-a-file",
        "loop": "unreadable",
    }
    for path, reason in expected.items():
        with pytest.raises(ImageError) as caught:
            folder.read(path)
        assert caught.value.reason == reason, path


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/a.jpg").write_bytes(b"data")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert RawFolder(tmp_path / "link").read("a.jpg") == b"data"
    with pytest.raises(PedAlignError, match="no such folder"):
        RawFolder(tmp_path / "nothing")


def test_the_fingerprint_follows_the_content_and_not_the_time(tmp_path):
    root = tmp_path / "raw"
    (root / "imgs/cam_a/deep").mkdir(parents=True)
    (root / "imgs/cam_a/deep/1.jpg").write_bytes(b"one")
    (root / "imgs/cam_a/2.jpg").write_bytes(b"four")
    (root / ".hidden").write_bytes(b"x")
    fingerprint(root)
    first = (root / "fingerprint.json").read_bytes()
    body = json.loads(first)
    assert (body["files"], body["bytes"]) == (2, 7)
    assert list(body["folders"]) == ["imgs/cam_a"]
    os.utime(root / "imgs/cam_a/2.jpg", (1, 1))
    fingerprint(root)
    assert (root / "fingerprint.json").read_bytes() == first
    check_fingerprint(root, root / "fingerprint.json")
    # Same name and size, other content: only a new fingerprint can tell.
    (root / "imgs/cam_a/2.jpg").write_bytes(b"FOUR")
    check_fingerprint(root, root / "fingerprint.json")
    fingerprint(root)
    assert json.loads((root / "fingerprint.json").read_bytes())["content"] != body["content"]


def test_a_changed_folder_is_refused(tmp_path):
    root = tmp_path / "raw"
    (root / "imgs").mkdir(parents=True)
    (root / "imgs/1.jpg").write_bytes(b"one")
    with pytest.raises(PedAlignError, match="FileNotFoundError") as caught:
        check_fingerprint(root, root / "fingerprint.json")
    assert caught.value.remedy.startswith("pedalign fingerprint")
    fingerprint(root)
    (root / "imgs/2.jpg").write_bytes(b"two")
    with pytest.raises(PedAlignError, match="'imgs' \\(1 files then, 2 now\\)"):
        check_fingerprint(root, root / "fingerprint.json")
    (root / "fingerprint.json").write_text("[]")
    with pytest.raises(PedAlignError, match="pedalign fingerprint"):
        check_fingerprint(root, root / "fingerprint.json")


def test_the_locks_of_a_database_are_not_its_content(tmp_path):
    root = tmp_path / "raw"
    (root / "lmdb").mkdir(parents=True)
    (root / "lmdb/data.mdb").write_bytes(b"data")
    (root / "block.mdb").write_bytes(b"no lock")
    fingerprint(root)
    for lock in ("lmdb/lock.mdb", "lock.mdb", "one.lmdb-lock", "lmdb/one.mdb-lock"):
        (root / lock).write_bytes(b"readers")
    check_fingerprint(root, root / "fingerprint.json")
    assert json.loads((root / "fingerprint.json").read_bytes())["files"] == 2
