"""Whether a file that somebody named is there and may be read, before anything opens it."""

from __future__ import annotations

from pathlib import Path


def check_readable(path: Path, what: str, wanted: str) -> None:
    """Say why a file cannot be read, whatever is in it.

    Args:
        path: the file.
        what: what it is to be, as in "the sound".
        wanted: what to give in its place.

    Raises:
        ValueError: if it is a folder.
        FileNotFoundError: if there is none.
        PermissionError: if this user may not read it.
    """
    if path.is_dir():
        raise ValueError(f"the {what} {path} is a folder; give {wanted}")
    if not path.is_file():
        raise FileNotFoundError(f"the {what} {path} does not exist; give {wanted}")
    try:
        path.open("rb").close()
    except PermissionError:
        raise PermissionError(
            f"the {what} {path} may not be read by this user; change its rights, or give {wanted}"
        ) from None
