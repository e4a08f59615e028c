"""What a request may name for git, and where its credential goes."""

import pytest

from services.chassis.errors import Reason, ServiceError
from services.supervisor.git import (
    check_revision,
    credential_line,
    plain_url,
    token_login,
)


@pytest.mark.parametrize(
    ("url", "plain", "login"),
    [
        pytest.param("https://h/o/r.git", "https://h/o/r.git", "", id="without"),
        pytest.param("https://u:p@h:1/r", "https://h:1/r", "u:p", id="name, password"),
        pytest.param("git@h:o/r.git", "git@h:o/r.git", "", id="ssh keeps its user"),
        pytest.param("file:///srv/r.git", "file:///srv/r.git", "", id="file"),
    ],
)
def test_a_credential_leaves_the_url(url, plain, login):
    """The URL is stored where agents read; the credential is not."""
    assert (plain, login) == plain_url(url)


@pytest.mark.parametrize("url", ["ext::sh -c id", "--upload-pack=id", "https://h/\n"])
def test_a_url_that_would_run_something_is_refused(url):
    """Transports that execute a command, options and control characters."""
    with pytest.raises(ServiceError) as refused:
        plain_url(url)

    assert Reason.FIELD_INVALID is refused.value.reason


def test_a_token_is_escaped_in_its_file():
    """A token may hold what separates the parts of a URL."""
    login = token_login("https://gitlab.example/o/r", "a@b/c")

    line = credential_line("https://gitlab.example/o/r", login)

    assert "https://oauth2:a%40b%2Fc@gitlab.example\n" == line


@pytest.mark.parametrize(
    "revision", ["main", "gt/toast/b-1", "v1.2", "HEAD", "0123abc", "user@host+x"]
)
def test_plain_revisions_pass(revision):
    """Branches as agents name them, tags and hashes."""
    assert revision == check_revision(revision, "branch")


@pytest.mark.parametrize(
    "revision",
    [
        "",
        "-x",
        "--all",
        "a..b",
        "a/../b",
        "/a",
        "a/",
        "a b",
        "a~1",
        "a^",
        "x.lock",
        "é",
    ],
)
def test_odd_revisions_are_refused(revision):
    """Nothing that git reads as an option, a range or a path."""
    with pytest.raises(ServiceError) as refused:
        check_revision(revision, "branch")

    assert Reason.FIELD_INVALID is refused.value.reason
    assert "branch" == refused.value.metadata["field"]
