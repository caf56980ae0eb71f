"""Client homes with a personalized model in the vault, as a run leaves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_client.app import ClientSettings, Subject, personalize_once
from emgup_client.releases import ReleaseCache
from emgup_model.backbones import Backbone, CnnConfig, build_backbone
from emgup_model.config import canonical_json
from emgup_model.data.store import write_user
from emgup_model.keys import public_key, write_trusted
from emgup_model.methods import MethodConfig, load_method
from emgup_model.release import Release, ReleaseFiles, open_release
from emgup_model.signal_statistics import SignalStatistics
from emgup_model.wire import Personalize, Reply
from tests.toy import GESTURES, make_release, toy_info, toy_recordings

KEY = Ed25519PrivateKey.generate()


def lively_model(seed: int = 0) -> Backbone:
    """An untrained network whose decisions vary: its BatchNorm statistics are those of noise with one loud channel."""
    torch.manual_seed(seed)
    model = build_backbone(CnnConfig(width=8, embedding_dim=8), 4, len(GESTURES))
    loud = 1 + 3 * torch.nn.functional.one_hot(torch.arange(256) % 4, 4).unsqueeze(2)
    for _ in range(30):
        model.train()(torch.randn(256, 4, 20) * loud)
    return model.eval()


@dataclass
class Home:
    """A client's folder, its release, and the recordings of its users."""

    folder: Path
    files: ReleaseFiles
    recordings: Path

    @property
    def release(self) -> Release:
        return open_release(self.files, [public_key(KEY)])

    def add_release(self, files: ReleaseFiles) -> None:
        ReleaseCache(self.folder, self.folder / "trusted_release_keys.txt").add(files)

    def recording(self, user: str = "u0") -> Path:
        return self.recordings / f"{user}.h5"

    def settings(self) -> ClientSettings:
        return ClientSettings(
            self.folder, self.folder / "trusted_release_keys.txt", lambda u: Subject(str(u), self.recording(str(u)))
        )

    def personalize(self, user: str = "u0", method: MethodConfig | None = None, cell: str = "c" * 64) -> Reply:
        request = Personalize(
            release_id=self.files.id,
            method=canonical_json(method or load_method("adabn")).decode(),
            method_name="m",
            protocol="transductive",
            scenario="balanced",
            seed=0,
            cell=cell,
            user=user,
        )
        return personalize_once(request, self.settings())


def make_home(
    folder: Path, users: int = 1, statistics: SignalStatistics | None = None, model: Backbone | None = None
) -> Home:
    """A home with a release and the recordings of ``users`` users; nothing is personalized yet."""
    recordings = folder / "recordings"
    recordings.mkdir(parents=True, exist_ok=True)
    for i in range(users):
        write_user(recordings / f"u{i}.h5", toy_info(f"u{i}"), toy_recordings(i, gain=1 + 0.3 * i))
    home = Home(folder / "home", make_release(KEY, model or lively_model(), statistics), recordings)
    home.folder.mkdir(mode=0o700)
    write_trusted(home.folder / "trusted_release_keys.txt", [public_key(KEY)])
    home.add_release(home.files)
    return home
