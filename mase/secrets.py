"""Passwords in addresses of databases: taken from the environment, and kept out of all that is written or shown."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_plus

from mase.errors import ConfigError

VARIABLE = "MASE_STORAGE_PASSWORD"  # stands in a run folder for the password that a configuration held
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
PASSWORD = re.compile(r"^([A-Za-z][\w+.-]*://[^:/?#@]*:)([^@]*)(@)")  # as SQLAlchemy reads an address
QUERY_SECRET = re.compile(r"pass|pwd|secret|token|key|credential", re.IGNORECASE)
HOW = f"give it before the @, or through the environment, such as ${{{VARIABLE}}}"


def check(address: str) -> str:
    """Return the address of a storage whose password, if it has one, stands where it can be kept out of files.

    Raises:
        ConfigError: it does not; the text does not show the address.
    """
    rest = address.partition("://")[2]
    authority, _, query = rest.partition("?")
    if authority.count("@") > 1:
        raise ConfigError("storage: the address has several @; write one that belongs to a password as %40")
    for pair in filter(None, query.split("&")):
        value = pair.partition("=")[2]
        if QUERY_SECRET.search(unquote_plus(pair)) and not REFERENCE.fullmatch(value):
            raise ConfigError(f"storage: the part behind the ? holds a password; {HOW}")
    return address


def written(address: str) -> str:
    """Return the address as files have it: a reference to a variable in place of the password."""
    found = PASSWORD.match(address)
    if found is None or not found[2] or REFERENCE.fullmatch(found[2]):
        return address
    return PASSWORD.sub(lambda m: f"{m[1]}${{{VARIABLE}}}{m[3]}", address)


def resolved(address: str) -> str:
    """Return the address with every ``${NAME}`` replaced; what is part of an address is encoded as it needs.

    Raises:
        ConfigError: a variable is not set.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            told = "; it stands for the password, which is not kept in a run folder" if name == VARIABLE else ""
            raise ConfigError(f"storage {shown(address)}: the environment variable {name} is not set{told}")
        return os.environ[name] if found[0] == address else quote(os.environ[name], safe="")

    return REFERENCE.sub(value, address) if "://" in address or REFERENCE.fullmatch(address) else address


def shown(address: object) -> str:
    """Return what messages call a storage."""
    text = written(str(address)) if REFERENCE.search(str(address)) else PASSWORD.sub(r"\1***\3", str(address))
    return re.sub(r"([?&][^=&]*=)[^&]*", lambda m: m[0] if not QUERY_SECRET.search(m[0]) else f"{m[1]}***", text)


def hidden(text: str, address: str) -> str:
    """Return a text, such as one of a database's driver, without the secrets of an address."""
    found = PASSWORD.match(address)
    values = [found[2]] if found is not None else []
    values += [pair.partition("=")[2] for pair in address.partition("?")[2].split("&") if QUERY_SECRET.search(pair)]
    for value in filter(None, values):
        for form in (value, unquote_plus(value), quote(unquote_plus(value), safe="")):
            text = text.replace(form, "***")
    return text
