from __future__ import annotations

from pathlib import Path

import pytest

from emgup_model.files import atomic_path, write_atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_atomic(target, "old")

    def fail() -> None:
        with atomic_path(target) as tmp:
            tmp.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_mode_is_set_before_the_file_appears_under_its_name(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "secret", b"x", mode=0o600)
    assert (tmp_path / "deep" / "secret").stat().st_mode & 0o777 == 0o600
