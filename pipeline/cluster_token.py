"""The token of a cluster: from the environment or a file of mode 0600, never a command line."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import ConfigError


def read_token(file: str | None = None, environment: Mapping[str, str] = os.environ) -> str | None:
    """RAY_AUTH_TOKEN, or what the file of RAY_AUTH_TOKEN_PATH or ``file`` holds; None without any.

    Raises:
        ConfigError: the file cannot be read, is empty, or others than its owner may read it.
    """
    if token := environment.get("RAY_AUTH_TOKEN"):
        return token
    named = environment.get("RAY_AUTH_TOKEN_PATH") or file
    if not named:
        return None
    path = Path(named).expanduser()
    try:
        status = path.stat()
        token = path.read_text().strip()
    except OSError as error:
        raise ConfigError([f"token file {path}: cannot be read: {error.strerror}"]) from None
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 or status.st_uid != os.getuid():
        raise ConfigError(
            [
                f"token file {path}: given mode {mode:04o} and owner {status.st_uid}, allowed: "
                f"0600 and yours; `chmod 600 {path}` mends it"
            ]
        )
    if not token:
        raise ConfigError([f"token file {path}: it is empty"])
    return token
