from __future__ import annotations

from pathlib import Path

from autoshrink.own_folder import OwnFolder


def test_what_a_killed_process_left_is_removed_and_the_living_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "mine-left").mkdir()
    (tmp_path / "mine-left" / "file").write_text("x")
    (tmp_path / "another").mkdir()
    with OwnFolder("mine-", tmp_path) as first:
        with OwnFolder("mine-", tmp_path) as second:
            assert sorted(tmp_path.iterdir()) == sorted([first.path, second.path, tmp_path / "another"])
            assert first.path.stat().st_mode & 0o077 == 0
        assert sorted(tmp_path.iterdir()) == sorted([first.path, tmp_path / "another"])
        second.remove()
    assert list(tmp_path.iterdir()) == [tmp_path / "another"]
