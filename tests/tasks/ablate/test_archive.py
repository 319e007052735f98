"""Records in one file: the same pages from them, and nothing that is there is touched."""

import json
import tarfile

import pytest

from tasks.ablate.archive import pack, unpack
from tasks.ablate.pages import write
from tasks.ablate.records import read_answers, read_record
from tasks.errors import PedAlignError
from tests.ablations import small, write_records


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    experiment = small()
    folder = tmp_path_factory.mktemp("archive")
    folders = write_records(experiment, folder / "records")
    pack(folders, folder / "records.tar.xz", whole={("no-pretraining", 0)})
    return experiment, folders, folder / "records.tar.xz"


def test_the_pages_are_the_same_from_what_was_packed(packed, tmp_path):
    experiment, folders, path = packed
    taken = unpack(path, tmp_path / "taken")
    assert len(taken) == len(folders)
    for name, records in (("one", folders), ("other", taken)):
        write(experiment, records, tmp_path / name)
    for file in sorted((tmp_path / "one").iterdir()):
        assert (tmp_path / "other" / file.name).read_bytes() == file.read_bytes(), file.name
    # First pictures are there where they were asked for, and nowhere else.
    shown, hidden = (
        read_answers([read_record(tmp_path / "taken" / name)], "tuned").tops[0]
        for name in ("no-pretraining/seed-0", "no-pretraining/seed-1")
    )
    assert all(shown)
    assert not any(hidden)


def test_the_same_records_give_the_same_bytes_in_whatever_order(packed, tmp_path):
    _, folders, path = packed
    pack(folders[::-1], tmp_path / "again.tar.xz", whole={("no-pretraining", 0)})
    assert (tmp_path / "again.tar.xz").read_bytes() == path.read_bytes()


def test_a_run_that_is_there_stays(packed, tmp_path):
    _, folders, path = packed
    own = tmp_path / "no-pretraining" / "seed-0"
    own.mkdir(parents=True)
    (own / "result.json").write_text(json.dumps({"own": True}))
    (tmp_path / "no-pretraining" / "seed-1").mkdir()  # of a kill: nothing says that it is whole
    assert len(unpack(path, tmp_path)) == len(folders) - 1
    assert json.loads((own / "result.json").read_text()) == {"own": True}
    assert (tmp_path / "no-pretraining" / "seed-1" / "result.json").exists()
    assert unpack(path, tmp_path) == []
    # A record of another plan gives way, or the run would be computed again.
    assert own in unpack(path, tmp_path, {"planned"})
    assert json.loads((own / "result.json").read_text())["arm"] == "no-pretraining"


def test_another_file_is_refused(tmp_path):
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(PedAlignError, match="no records of an experiment"):
        unpack(tmp_path / "text", tmp_path / "out")
    for name in ("../../outside", "/outside/file", "a/../b", "alone"):
        with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as archive:
            archive.addfile(tarfile.TarInfo(name))
        with pytest.raises(PedAlignError, match="it holds"):
            unpack(tmp_path / "bad.tar.xz", tmp_path / "out")
    assert not (tmp_path / "out").exists()
