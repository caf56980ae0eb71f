"""The recording store: a folder with one HDF5 file per user, ``<store>/<user>.h5``.

See docs/data-format.md for the layout. Labels are read by :mod:`emgup_model.data.labels` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from emgup_model.data.recording import FORMAT, VERSION, Recording, RecordingInfo, UserInfo, check_name
from emgup_model.data.store_reader import UserFile, read_info
from emgup_model.data.store_writer import write_user
from emgup_model.errors import DataError

__all__ = [
    "FORMAT",
    "VERSION",
    "Recording",
    "RecordingInfo",
    "Store",
    "UserFile",
    "UserInfo",
    "read_info",
    "write_user",
]

SUFFIX = ".h5"
# What all users of a store must share: a model trained on some of them could not read the others.
_SHARED = ("channels", "sampling_rate_hz", "unit", "gestures", "ring")


class Store:
    """A folder of users that share channels, sampling rate, unit and gestures.

    Attributes:
        folder: Where the files are.
        users: Names, sorted.
        infos: What each user's file says about the user.

    Raises:
        DataError: the folder is missing or has no user file, a file is damaged or has another user's name, or two users
            differ in channels, rate, unit, gestures or electrode geometry.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"no store at {self.folder}; make one with 'emgup data import' or 'emgup data synthesize'")
        paths = sorted(p for p in self.folder.glob(f"*{SUFFIX}") if not p.name.startswith("."))
        if not paths:
            raise DataError(f"the store {self.folder} is empty (no {SUFFIX} files); import a dataset into it first")
        infos = {check_name(p.name.removesuffix(SUFFIX), "user"): read_info(p) for p in paths}
        self.users: tuple[str, ...] = tuple(sorted(infos))
        self.infos: Mapping[str, UserInfo] = MappingProxyType(infos)
        self._check()

    def path(self, user: str) -> Path:
        """File of ``user``. Raises DataError when there is no such user."""
        if user not in self.infos:
            raise DataError(f"the store {self.folder} has no user '{user[:80]}'; it has {_some(self.users)}")
        return self.folder / f"{user}{SUFFIX}"

    def open(self, user: str) -> UserFile:
        """Open ``user`` for reading. Raises DataError as :class:`UserFile` does."""
        return UserFile(self.path(user))

    def _check(self) -> None:
        first = self.infos[self.users[0]]
        for user in self.users:
            info = self.infos[user]
            if info.user != user:
                raise DataError(f"{self.path(user)}: the file says it is user '{info.user}'; give it back that name")
            for field in _SHARED:
                if getattr(info, field) != getattr(first, field):
                    raise DataError(
                        f"the store {self.folder} mixes users: {field} of '{user}' is {getattr(info, field)}, "
                        f"of '{first.user}' {getattr(first, field)}; keep them in separate stores"
                    )


def _some(names: tuple[str, ...], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
