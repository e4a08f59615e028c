"""Addresses of repositories, which may carry a name and a password, or a token."""

from __future__ import annotations

import re
from typing import Final

_LOGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#]*)@", re.IGNORECASE)


def without_login(url: str) -> str:
    """What everybody may see of an address. The name that ssh needs is no secret."""
    found = _LOGIN.match(url)
    if found is None:
        return url
    scheme, login = found.groups()
    name = f"{login.partition(':')[0]}@" if scheme.lower() == "ssh://" else ""
    return f"{scheme}{name}{url[found.end() :]}"


def with_login(given: str, stored: str) -> str:
    """The address given by one who sees no logins: the stored one, if it is that."""
    return stored if given == without_login(stored) else given
