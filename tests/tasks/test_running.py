"""A running checkpoint: absent or whole, and refused where it belongs to another training."""

import pickle

import pytest
import torch

from tasks.errors import PedAlignError
from tasks.running import read_running, write_running


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "running.pt"
    with read_running(path, 10, "cpu") as state:
        assert state is None
    write_running(path, {"weights": torch.arange(3.0), "step": 4, "steps": 10})
    with read_running(path, 10, "cpu") as state:
        assert state is not None
        assert state["step"] == 4
        assert state["weights"].tolist() == [0.0, 1.0, 2.0]


def test_a_failed_write_leaves_the_one_before(tmp_path):
    path = tmp_path / "running.pt"
    write_running(path, {"step": 1, "steps": 2})
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        write_running(path, {"step": lambda: 0, "steps": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["running.pt"]
    with read_running(path, 2, "cpu") as state:
        assert state == {"step": 1, "steps": 2}


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other length", "no length", "code"])
def test_what_does_not_belong_is_refused(tmp_path, damage):
    path = tmp_path / "running.pt"
    write_running(path, {"step": 1, "steps": 2, "weights": torch.zeros(100)})
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("hello")
    elif damage == "no length":
        write_running(path, {"step": 1})
    elif damage == "code":
        torch.save({"steps": 2, "run": print}, path)
    with (
        pytest.raises(PedAlignError, match="of another training, or damaged"),
        read_running(path, 3 if damage == "other length" else 2, "cpu"),
    ):
        pass


def test_weights_that_do_not_fit_are_explained(tmp_path):
    path = tmp_path / "running.pt"
    write_running(path, {"steps": 2, "model": torch.nn.Linear(3, 4).state_dict()})

    def take_over():
        with read_running(path, 2, "cpu") as state:
            torch.nn.Linear(3, 5).load_state_dict(state["model"])

    with pytest.raises(PedAlignError, match="size mismatch"):
        take_over()
