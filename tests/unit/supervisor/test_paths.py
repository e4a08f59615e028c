"""Paths that a request names stay below the folder they belong to."""

import os

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.paths import beneath, empty_folder


@pytest.mark.parametrize("relative", ["a.db", "a/b.db", "./a", "new/deep/a.db"])
def test_a_path_below_is_given_back_absolute(tmp_path, relative):
    """Whether it exists or not."""
    assert (tmp_path / relative) == beneath(tmp_path, relative, "database")


@pytest.mark.parametrize(
    "relative",
    ["", ".", "/a", "..", "a/../../b", "a\0", "x" * 2000, "link", "link/a", "pipe"],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path, relative):
    """Absolute, upwards, too long, over a link, or no plain file at its end."""
    (tmp_path / "link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ServiceError) as refused:
        beneath(tmp_path, relative, "database")

    assert Reason.FIELD_INVALID is refused.value.reason
    assert "database" == refused.value.metadata["field"]


def test_an_emptied_folder_is_private_and_follows_no_link(tmp_path):
    """What a link points at is somebody else's."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(kept)

    empty_folder(folder)

    assert [] == list(folder.iterdir())
    assert (kept / "file").exists()
