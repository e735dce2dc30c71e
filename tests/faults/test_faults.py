"""The short forms of the fault scripts beside this file."""

import pytest
from faults import damage, full_disk, kills, two_processes


def test_a_killed_process_loses_nothing_it_acknowledged() -> None:
    figures = kills.run(4)
    for what in ("sessions that do not restore", "sessions that do not verify", "acknowledged saves that are lost"):
        assert figures[what] == 0, what
    assert figures["acknowledged"] > 0


def test_damaged_files_are_noticed_and_told_of_once() -> None:
    figures = damage.run(50)
    for what in ("accepted", "silent", "sound segments before the damage not used", "told more than once a file"):
        assert figures[what] == 0, what
    assert figures["moved to quarantine"] > 0


def test_a_full_disk_loses_nothing() -> None:
    try:
        outcome = full_disk.fill()
    except full_disk.MountError as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    assert "No space left" in outcome.error
    assert outcome.saves > 0
    assert outcome.sound
    assert outcome.left_aside == 0
    assert outcome.after_room


def test_a_read_only_directory_can_be_read() -> None:
    try:
        error, reads = full_disk.read_only()
    except full_disk.MountError as mount_error:
        pytest.skip(f"no tmpfs can be mounted here: {mount_error}")
    assert "Read-only" in error
    assert reads


def test_two_processes_share_a_directory() -> None:
    figures = two_processes.run(4)
    for what in ("crashed", "wrong", "damaged", "broken afterwards"):
        assert figures[what] == 0, what
    assert figures["saves"] > 0
