"""Files that are whole or absent, and JSON that is strict."""

import os
from fractions import Fraction

import pytest

from tla_ops.training.files import plain, write_atomically, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_an_interruption_after_the_renaming_stays_one(tmp_path, monkeypatch):
    path, replace = tmp_path / "file", os.replace

    def interrupted(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sync", [True, False])
def test_the_disk_is_waited_for_before_the_renaming(sync, tmp_path, monkeypatch):
    happened = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: happened.append("synchronised"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: happened.append("renamed") or replace(*paths))
    write_json(tmp_path / "file", {"a": 1}, sync=sync)
    assert (tmp_path / "file").read_text() == '{\n  "a": 1\n}\n'
    assert happened == [*(["synchronised"] if sync else []), "renamed"]


def test_plain_is_strict_json():
    value = {"a": (1, float("nan"), Fraction(3, 16)), 2: {"b": None, "c": True}}
    assert plain(value) == {"a": [1, None, "3/16"], "2": {"b": None, "c": True}}
