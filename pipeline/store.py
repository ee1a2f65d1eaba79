"""Where MLflow keeps a study, and how its processes are set up; known without importing it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, unquote, urlsplit

from pydantic import AfterValidator

SQLITE = "sqlite:///"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}


def checked_uri(given: str) -> str:
    """The URI of a store that MLflow knows, which others may read.

    Raises:
        ValueError: it is none, or holds a password.
    """
    parts = urlsplit(given)
    if parts.password is not None:
        raise ValueError(
            "given a URI with a password; allowed: one without, and the password in the "
            "environment (PGPASSWORD, MLFLOW_TRACKING_PASSWORD) or in ~/.pgpass"
        )
    is_known = parts.scheme.partition("+")[0] in SCHEMES
    if not is_known or (given.startswith(SQLITE) and not given.startswith(f"{SQLITE}/")):
        raise ValueError(
            f"given {given!r}, allowed: http(s)://host:port, sqlite:////an/absolute/path, or a "
            "database such as postgresql+psycopg://user@host/name"
        )
    return given


Uri = Annotated[str, AfterValidator(checked_uri)]


def default_uri(folder: Path, name: str = "mlflow.db") -> str:
    """SQLite in the study's folder, absolute: elsewhere a relative path is another file."""
    return f"{SQLITE}{quote(str(folder.absolute() / name))}"


def database_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other."""
    return Path(unquote(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def is_server(uri: str) -> bool:
    """Whether ``uri`` is that of an MLflow server, not of a database."""
    return uri.startswith(("http://", "https://"))


def scrubbed(text: str) -> str:
    """``text`` without the users and passwords in the URIs that it holds."""
    return re.sub(r"//[^/\s]*@", "//", text)
