"""An adaptation whose process is killed goes on where it was and ends with the same bits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emgup_client.vault import CHECKPOINT, VaultCell
from emgup_client.vault_cipher import MAGIC, KeyPlace, vault_cipher
from emgup_client.vault_encryption import encrypt_vault
from emgup_model.config import canonical_json
from emgup_model.methods import EmgupConfig, MethodConfig, NrcConfig, ShotConfig, TentConfig, load_method, parse_method
from tests.client.homes import Home, make_home
from tests.model.methods.toys import toy_statistics

PAPER = parse_method(
    {
        "kind": "emgup",
        "ssa": {"epochs": 3, "learning_rate": 1e-3},
        "ssp": {"epochs": 3, "learning_rate": 1e-3, "confidence": 0.1},
    },
    "test",
)


def full_strength() -> MethodConfig:
    """The shipped default, shortened; its safety decision lets every stage run, and dropout draws random numbers."""
    config = load_method("emgup")
    assert isinstance(config, EmgupConfig)
    assert config.safety is not None
    assert config.replay is not None
    changed = config.model_copy(
        update={
            "safety": config.safety.model_copy(update={"seen_probability": 0.0}),
            "ssa": config.ssa.model_copy(update={"epochs": 2, "dropout": 0.1}),
            "ssp": config.ssp.model_copy(update={"epochs": 3, "batch_windows": 64}),
            "replay": config.replay.model_copy(update={"epochs": 3, "per_gesture": 50, "batch_windows": 32}),
        }
    )
    return parse_method(changed.model_dump(mode="json"), "test")


METHODS = {
    "paper": PAPER,
    "full": full_strength(),
    "shot": ShotConfig(epochs=4, target_share=0.5, batch_norm="batch"),
    "nrc": NrcConfig(epochs=4),
    "tent": TentConfig(epochs=4, batch_windows=64, diversity=True),
    "stream": PAPER,
}
SIZES = '{"block_s": 4.0, "memory_s": 8.0}'


def attempt(home: Home, name: str, when: str) -> int:
    """Exit status of a process that personalizes and dies when told."""
    command = [sys.executable, "-m", "tests.client.adapt_and_die", str(home.folder.parent)]
    return subprocess.run(
        [*command, canonical_json(METHODS[name]), when, *([SIZES] if name == "stream" else [])],
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    ).returncode


def result(home: Home) -> tuple[bytes, dict[str, object]]:
    """Weights and the log of their making."""
    contents = VaultCell(cell(home), vault_cipher(home.folder / "vault")).contents()
    assert contents is not None
    return contents.weights, contents.evaluation["log"]


def cell(home: Home) -> Path:
    return home.folder / "vault" / "u0" / ("c" * 64)


def stages(home: Home) -> set[str]:
    return {p.stem.removeprefix(CHECKPOINT) for p in cell(home).glob(f"{CHECKPOINT}*")}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("fresh"), statistics=toy_statistics())


def copy_of(home: Home, to: Path) -> Home:
    shutil.copytree(home.folder.parent, to, dirs_exist_ok=True)
    return Home(to / "home", home.files, to / "recordings")


@pytest.fixture(scope="module")
def undisturbed(fresh: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, dict[str, object]]]:
    out = {}
    for name in METHODS:
        home = copy_of(fresh, tmp_path_factory.mktemp(name))
        assert attempt(home, name, "never") == 0
        out[name] = result(home)
    return out


# Steps: SSA one an epoch; replay and the refined stage three; SSP one; SHOT, NRC and TENT three. The stream has five
# blocks, and six steps in each.
KILLS = [
    ("full", ["step:3"], {"ssa"}, False),
    ("full", ["step:9", "step:2", "rename:3"], {"ssa", "replay", "ssp"}, False),
    ("full", ["rename:3", "step:7"], {"ssa", "replay"}, True),
    ("paper", ["step:5", "step:2"], {"ssa", "ssp"}, False),
    ("shot", ["step:5", "rename:2", "step:2"], {"shot"}, False),
    ("nrc", ["step:5", "rename:2", "step:2"], {"nrc"}, True),
    ("tent", ["step:5", "rename:2", "step:2"], {"tent"}, False),
    ("stream", ["step:8", "rename:2", "step:10"], {"stream"}, True),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills", "seen", "encrypted"), KILLS)
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(
    fresh: Home,
    undisturbed: dict[str, tuple[bytes, dict[str, object]]],
    tmp_path: Path,
    name: str,
    kills: list[str],
    seen: set[str],
    encrypted: bool,
) -> None:
    home = copy_of(fresh, tmp_path)
    if encrypted:
        encrypt_vault(home.folder, KeyPlace(kind="file", name=str(tmp_path / "vault.key")))
    saved: set[str] = set()
    for when in kills:
        assert attempt(home, name, when) == -signal.SIGKILL
        saved |= stages(home)
        files = [p.read_bytes() for p in cell(home).glob("*.safetensors")]
        assert files
        assert {data.startswith(MAGIC) for data in files} == {encrypted}
    assert attempt(home, name, "never") == 0
    assert result(home) == undisturbed[name]
    assert saved >= seen
    assert stages(home) == set()
