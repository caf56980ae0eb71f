"""Configuration is validated data: frozen pydantic models, YAML files, ``key.sub=value`` overrides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from emgup_model.errors import ConfigError

DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?)$"
"""Pattern of a device name in a config."""


class Frozen(BaseModel):
    """Base of every config model: immutable, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


M = TypeVar("M", bound=BaseModel)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice (YAML would silently keep the last one)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(k, deep=deep) for k, _ in node.value]
        twice = sorted({str(k) for k in keys if keys.count(k) > 1})
        if twice:
            raise ConfigError(f"key '{twice[0]}' is given twice (line {node.start_mark.line + 1}); keep one")
        return super().construct_mapping(node, deep=deep)


def configs_dir() -> Path:
    """Folder of the shipped YAML files: inside the wheel, or ``configs/`` of a source checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "configs"
    return packaged if packaged.is_dir() else here.parent / "configs"


def find_config(kind: str, name: str | Path) -> Path:
    """Path of config ``name`` of ``kind`` (``datasets``, ``methods`` …): an existing file, or a shipped name.

    Raises:
        ConfigError: there is neither a file nor a shipped config of that name.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise ConfigError(f"no config file at {path}")
    shipped = configs_dir() / kind / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(p.stem for p in (configs_dir() / kind).glob("*.yaml")))
    raise ConfigError(f"unknown {kind.rstrip('s')} '{name}'; shipped are: {known}; or give the path of a .yaml file")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping. Raises ConfigError with file and line when it is not one."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    try:
        data = yaml.load(text, _UniqueKeyLoader)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from None
    except (yaml.YAMLError, ValueError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML ({getattr(e, 'problem', None) or e})") from None
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise ConfigError(f"{path} must hold a mapping of names to values")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Copy of ``data`` with each ``key.sub=value`` applied; values are parsed as YAML.

    A key that does not exist yet is added, and then refused by validation if the model does not know it.
    """
    out = json_copy(data)
    for item in overrides:
        key, eq, text = item.partition("=")
        if not eq or not key.strip():
            raise ConfigError(f"override '{item}' is not of the form key.sub=value")
        try:
            value = yaml.load(text, _UniqueKeyLoader)
        except (yaml.YAMLError, ValueError):
            raise ConfigError(f"override '{item}': the value is not valid YAML") from None
        node = out
        *parents, last = key.strip().split(".")
        for part in parents:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"override '{item}': '{part}' is a value, it has no keys below it")
            node = child
        node[last] = value
    return out


def parse(model: type[M], data: Any, where: str) -> M:
    """Validate ``data`` as ``model``; the first problem becomes one line that names the key and ``where``."""
    try:
        return model.model_validate(data)
    except ValidationError as e:
        error = e.errors()[0]
        key = ".".join(str(p) for p in error["loc"]) or "(top level)"
        if error["type"] == "extra_forbidden":
            raise ConfigError(f"{where}: unknown key '{key}'; remove it or check its spelling") from None
        if error["type"] == "missing":
            raise ConfigError(f"{where}: key '{key}' is missing") from None
        shown = repr(error.get("input"))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ConfigError(f"{where}: {key} = {shown}: {error['msg']}") from None


def json_copy(data: Mapping[str, Any]) -> dict[str, Any]:
    """Deep copy of plain config data."""
    return {k: json_copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}


def canonical_json(data: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, no NaN. What hashes and signatures are taken over."""
    if isinstance(data, BaseModel):
        data = data.model_dump(mode="json")
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(data: Any) -> str:
    """SHA-256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(data)).hexdigest()


def dump_yaml(data: BaseModel | Mapping[str, Any]) -> str:
    """YAML text of a config, keys in the model's own order."""
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else dict(data)
    return yaml.safe_dump(plain, sort_keys=False)
