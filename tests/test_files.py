"""Files that are whole or absent, and JSON that is strict."""

from fractions import Fraction

import pytest

from tla_ops.training.files import plain, write_atomically


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


def test_plain_is_strict_json():
    value = {"a": (1, float("nan"), Fraction(3, 16)), 2: {"b": None, "c": True}}
    assert plain(value) == {"a": [1, None, "3/16"], "2": {"b": None, "c": True}}
