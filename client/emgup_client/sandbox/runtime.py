"""The files that any Python process of this installation reads, and the programs that it is."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import emgup_model
from emgup_model.config import configs_dir

LOADERS = {
    "x86_64": ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"),
    "aarch64": ("/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"),
}
PACKAGES = ("site-packages", "dist-packages")
LIBRARIES = ("/usr", "/lib", "/lib64", "/nix/store", "/gnu/store")
SETTINGS = ("/etc/ld.so.cache", "/etc/localtime", "/etc/ssl")
NAMES = ("/etc", "/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf")
"""Where host names are looked up. Whole folders: these files are replaced while a client runs."""
SYSTEM = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory", "/sys/devices/system")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPUS = ("nvidia*", "nvidia-caps/*", "kfd", "dri/render*")
OF_GPUS = ("/proc", "/sys")


def programs() -> tuple[Path, ...]:
    """Python, and the loader that starts it."""
    return (Path(sys.executable).resolve(), *map(Path, LOADERS.get(platform.machine(), ())))


def readable() -> tuple[Path, ...]:
    """Python, its packages, this project, system libraries."""
    whole = [Path(sys.prefix), Path(sys.base_prefix), *(p for p in _path() if p.name in PACKAGES)]
    roots = [Path(p) for p in emgup_model.__path__]
    packages = [p / "emgup_client" for p in _path()] + [Path(__file__).parents[1]]
    system = map(Path, (*LIBRARIES, *SETTINGS, *SYSTEM))
    return tuple(dict.fromkeys([*whole, *roots, *packages, configs_dir(), *system]))


def listable() -> tuple[Path, ...]:
    """Folders of the module path: Python looks for packages by listing them. In a checkout there are other files."""
    return tuple(_path())


def gpus() -> tuple[Path, ...]:
    """Device files of the GPUs of this machine."""
    return tuple(found for pattern in GPUS for found in sorted(Path("/dev").glob(pattern)))


def _path() -> list[Path]:
    return [Path(p) for p in sys.path if p and Path(p).is_dir()]
