"""The client's cache of source releases, named by their content; each is verified again whenever it is used."""

from __future__ import annotations

import contextlib
from pathlib import Path

from emgup_client.vault import private_dir
from emgup_model.errors import ReleaseError
from emgup_model.keys import read_trusted
from emgup_model.release import Release, ReleaseFiles, load_release, open_release


class ReleaseCache:
    """Releases below ``<home>/releases/<id>``, signed by one of the keys listed in the file ``trusted_keys``."""

    def __init__(self, home: Path, trusted_keys: Path) -> None:
        self._home = home
        self._trusted_keys = trusted_keys

    def open(self, release_id: str) -> Release:
        """Read and verify a release. Raises ReleaseError when it is absent, damaged or not signed by a trusted key."""
        release = load_release(self._folder(release_id), read_trusted(self._trusted_keys))
        if release.id != release_id:
            raise ReleaseError(f"the cached release {release_id} is another one; fetch it again")
        return release

    def holds(self, release_id: str) -> bool:
        """Whether a good copy is here."""
        with contextlib.suppress(ReleaseError):
            self.open(release_id)
            return True
        return False

    def add(self, files: ReleaseFiles) -> None:
        """Verify, then save; a refused release leaves no trace. Raises ReleaseError."""
        open_release(files, read_trusted(self._trusted_keys))
        private_dir(private_dir(self._home) / "releases")
        files.write(private_dir(self._folder(files.id)), mode=0o600)

    def _folder(self, release_id: str) -> Path:
        return self._home / "releases" / release_id
