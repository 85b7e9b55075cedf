"""Where survivors put their state: in memory that is given back, also by the run after one that was killed."""

import fcntl

from ziggurat.training import snapshot as handover


def test_folders_without_an_owner_are_removed_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(handover, "MEMORY", tmp_path)
    dead, alive, begun = (tmp_path / f"{handover.PREFIX}{name}" for name in ("dead", "alive", "begun"))
    for folder in (dead, alive, begun):
        folder.mkdir()
    (dead / handover.OWNER).touch()
    with (alive / handover.OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        with handover.memory_folder() as folder:
            assert set(tmp_path.iterdir()) == {alive, begun, folder}
            with handover.memory_folder() as other:  # of another run at the same time
                assert folder.is_dir()
                assert other.is_dir()
        assert set(tmp_path.iterdir()) == {alive, begun}


def test_where_the_system_has_no_memory_folder_nothing_is_handed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(handover, "MEMORY", tmp_path / "nowhere")
    with handover.memory_folder() as folder:
        assert folder is None
    assert handover.handed_over(None, "a run") is None
