"""The forms of the Redis setting: what they mean, and what a bad one is answered."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from services.chassis.redis_url import Login, SentinelUrl, redis_url, sentinel_url
from services.chassis.settings import SettingsError, load, var


@dataclass(frozen=True, slots=True)
class Settings:
    redis: str = var("TK_REDIS", redis_url, help="the Redis", example="redis://h")


def complaint(given: str) -> str:
    """What the start says about it."""
    with pytest.raises(SettingsError) as refused:
        load(Settings, {"TK_REDIS": given})
    return str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        "redis://h",
        "rediss://u:p@h:1/0",
        "unix:///run/s?db=1",
        "unix://u:p@/run/s",
        "redis://h?cluster=true",
        "redis://h/0?cluster=true",
        "redis://h?cluster=true&db=0",
        "redis+sentinel://h/town",
        "rediss+sentinel://u:p@h:1,[::1]:2/town/3?sentinel_password=x",
    ],
)
def test_good_ones_are_taken_as_they_are(given: str) -> None:
    """Whoever connects takes them apart."""
    assert given == redis_url(given)


@pytest.mark.parametrize(
    "given",
    [
        "http://h",
        "redis://",
        "redis://h:port",
        "redis://h:1,i:2/town",
        "unix://h/s",
        "unix:///s?cluster=true",
        "redis://h?cluster=perhaps",
        "redis://h/1?cluster=true",
        "redis://h?cluster=true&db=1",
        "redis://h?db=one",
        "unix:///s?db=",
        "redis://h?ssl=1",
        "redis://[::1",
        "http+sentinel://h/town",
    ],
)
def test_bad_ones_name_the_variable(given: str) -> None:
    """One message, with what a good one looks like."""
    assert "TK_REDIS" in complaint(given)
    assert "redis://h" in complaint(given)


class TestSentinels:
    def test_a_whole_one_comes_apart(self) -> None:
        """Ports are Sentinel's own where they are left out, logins are decoded."""
        given = (
            "rediss+sentinel://tk:p%40ss%2F@10.0.0.1:1,sentinel-2,[::1]:3/my.town/4"
            "?sentinel_username=tk-s&sentinel_password=p%26q"
        )

        assert sentinel_url(given) == SentinelUrl(
            sentinels=(("10.0.0.1", 1), ("sentinel-2", 26379), ("::1", 3)),
            service="my.town",
            db=4,
            tls=True,
            login=Login("tk", "p@ss/"),
            sentinel_login=Login("tk-s", "p&q"),
        )

    def test_a_short_one_has_no_login_and_no_tls(self) -> None:
        """The default user of database 0."""
        assert sentinel_url("redis+sentinel://h/town") == SentinelUrl(
            sentinels=(("h", 26379),),
            service="town",
            db=0,
            tls=False,
            login=Login(),
            sentinel_login=Login(),
        )

    def test_a_password_without_a_user_is_the_default_users(self) -> None:
        """As in the other forms."""
        found = sentinel_url("redis+sentinel://:pass@h/town")

        assert Login("", "pass") == found.login

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            pytest.param("redis+sentinel://u:hunter2@/town", "host:port", id="none"),
            pytest.param("redis+sentinel://u:hunter2@h,/town", "host:port", id="comma"),
            pytest.param("redis+sentinel://u:hunter2@h:x/town", "host:port", id="port"),
            pytest.param("redis+sentinel://u:hunter2@h:0/town", "port", id="port 0"),
            pytest.param("redis+sentinel://u:hunter2@h:1", "service", id="no service"),
            pytest.param("redis+sentinel://u:hunter2@h:1/", "service", id="empty"),
            pytest.param("redis+sentinel://u:hunter2@h/t/x", "database", id="database"),
            pytest.param("redis+sentinel://u:hunter2@h/t/0/1", "address", id="more"),
            pytest.param("redis+sentinel://u:hunter2@h/t#x", "address", id="fragment"),
            pytest.param("redis+sentinel://u:hunter2@h/t?db=1", "db", id="option"),
            pytest.param("redis+sentinel://u:hunter2@h/t?cluster=1", "cluster", id="c"),
            pytest.param("http+sentinel://u:hunter2@h/town", "address", id="scheme"),
        ],
    )
    def test_a_bad_one_is_answered_with_a_good_one(self, given: str, says: str) -> None:
        """What is wrong, an example of Sentinels, and nothing of the login."""
        said = complaint(given)

        assert says in said
        assert "redis+sentinel://10.0.0.1:26379" in said
        assert "hunter2" not in said

    def test_no_password_is_shown(self) -> None:
        """Not even where the whole is printed."""
        url = "redis+sentinel://u:hunter2@h/town?sentinel_password=hunter3"

        assert "hunter" not in repr(sentinel_url(url))


@pytest.mark.parametrize("given", ["redis://u:hunter2℀@h:1", "redis://u:hunter2@[::1"])
def test_what_is_no_url_at_all_is_not_repeated(given: str) -> None:
    """Python's own complaint has the login in it."""
    assert "hunter2" not in complaint(given)
    assert "TK_REDIS has no valid host or port" in complaint(given)
