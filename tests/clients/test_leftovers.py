"""The clients of these tests leave nothing behind, even when their tests break."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.clients import Containerd, Dockerd, processes_of

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("daemon", [Dockerd, Containerd])
@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_a_daemon_leaves_no_process_mount_or_file(
    daemon: type[Dockerd | Containerd], mirror_host: str, *, is_killed: bool
) -> None:
    with daemon(mirror_host) as running:
        folder = running.folder
        assert processes_of(folder)
        if is_killed:
            running.kill()
    assert not processes_of(folder)
    assert str(folder) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert not folder.exists()
