"""Opening HDF5 that somebody else wrote: nothing is followed, inflated or allocated before it has been checked.

h5py follows external links, external storage and virtual datasets without a word, and 1.4 KB of HDF5 can declare
1.6 TB. Every object is therefore reached by one hard link from its parent, and every dataset's type, layout, filters,
chunks and sizes are compared with fixed limits before a sample is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emgup_model.data.recording import MAX_RECORDING_BYTES, MAX_TEXT_BYTES
from emgup_model.errors import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Small chunks bound what a hostile one can inflate to (deflate: at most 1032 times its stored size).
MAX_CHUNK_BYTES = 64 * 1024
# EMG compresses two- to fourfold; flat stretches more. Small datasets may be flat altogether.
MAX_RATIO = 100
RATIO_FREE_BYTES = 1024**2
_FILTERS = {
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}
_HDF5_FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError, RecursionError)


@contextlib.contextmanager
def hdf5_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn whatever h5py raises on a damaged file into one DataError line."""
    try:
        yield
    except DataError as e:
        raise DataError(str(e) if str(e).startswith(str(path)) else f"{path}: {e}") from None
    except _HDF5_FAILURES as e:
        reason = " ".join(str(e).split())[:160]
        raise DataError(f"{path}: {doing} failed, the file is damaged or truncated ({reason})") from None


def open_hdf5(path: Path) -> h5py.File:
    """Open ``path`` for reading. Raises DataError when it is no regular, complete HDF5 file."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        with path.open("rb") as f:
            head = f.read(len(SIGNATURE))
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    if head != SIGNATURE:
        raise DataError(f"{path}: not an HDF5 file")
    with hdf5_errors(path, "opening"):
        return h5py.File(path, "r", locking="best-effort")


def members(group: h5py.Group, limit: int) -> list[str]:
    """Names in ``group``; every one must be a hard link, and there may be at most ``limit``."""
    where = group.name
    if len(group) > limit:
        raise DataError(f"'{where}' has {len(group)} members, more than the {limit} allowed")
    names = list(group)
    for name in names:
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise DataError(f"'{where.rstrip('/')}/{name}' is a soft or external link; only plain objects are read")
    return names


def child_group(group: h5py.Group, name: str) -> h5py.Group:
    """Subgroup ``name``, whose link has been checked by :func:`members`."""
    child = group[name]
    if not isinstance(child, h5py.Group):
        raise DataError(f"'{child.name}' is not a group")
    return child


def child_dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Dataset ``name``, whose link has been checked by :func:`members`."""
    child = group[name]
    if not isinstance(child, h5py.Dataset):
        raise DataError(f"'{child.name}' is not a dataset")
    return child


def attributes(obj: h5py.Group | h5py.Dataset, allowed: set[str]) -> dict[str, int | float | str]:
    """All attributes of ``obj``: scalar integers, floats and fixed-length text, each at most 32 KiB.

    Raises:
        DataError: an attribute is missing, unknown, too large, or of another type.
    """
    count = h5py.h5a.get_num_attrs(obj.id)
    if count > len(allowed):
        raise DataError(f"'{obj.name}' has {count} attributes instead of {len(allowed)}")
    found = set(obj.attrs)
    if found != allowed:
        missing, unknown = sorted(allowed - found), sorted(found - allowed)
        what = f"lacks attribute '{missing[0]}'" if missing else f"has the unknown attribute '{unknown[0][:60]}'"
        raise DataError(f"'{obj.name}' {what}")
    return {name: _attribute(obj, name) for name in sorted(allowed)}


def _attribute(obj: h5py.Group | h5py.Dataset, name: str) -> int | float | str:
    attr = h5py.h5a.open(obj.id, name.encode())
    kind = attr.get_type()
    text = kind.get_class() == h5py.h5t.STRING
    if attr.get_space().get_simple_extent_type() != h5py.h5s.SCALAR or attr.get_storage_size() > MAX_TEXT_BYTES:
        raise DataError(f"attribute '{name}' of '{obj.name}' is not one short value")
    if text and not kind.is_variable_str():
        raw = obj.attrs[name]
        try:
            return raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
        except UnicodeDecodeError:
            raise DataError(f"attribute '{name}' of '{obj.name}' is not UTF-8 text") from None
    if kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and np.dtype(attr.dtype).kind in "iuf":
        return obj.attrs[name].item()  # type: ignore[no-any-return]
    raise DataError(f"attribute '{name}' of '{obj.name}' is neither a number nor fixed-length text")


@dataclass(frozen=True)
class Sizes:
    """Bytes that a dataset claims to hold and bytes it takes in the file."""

    declared: int
    stored: int


def check_dataset(
    dset: h5py.Dataset, rank: int, dtypes: frozenset[np.dtype[Any]], max_ratio: int | None = MAX_RATIO
) -> Sizes:
    """Check everything about ``dset`` that can be known without reading it.

    Args:
        dset: The dataset, reached by checked links.
        rank: Number of dimensions it must have.
        dtypes: Types it may have.
        max_ratio: Largest compression ratio; None where the caller already knows the right size.

    Raises:
        DataError: wrong rank or type; virtual, external or unchunked storage; unknown or missing filters; missing,
            oversized or overinflated chunks; more declared bytes, or a larger compression ratio, than allowed.
    """
    where = dset.name
    _check_type(dset, rank, dtypes)
    declared = int(np.prod([int(n) for n in dset.shape], dtype=object)) * dset.dtype.itemsize
    if declared > MAX_RECORDING_BYTES:
        raise DataError(f"'{where}' declares {declared} bytes, more than the {MAX_RECORDING_BYTES} allowed")
    _check_layout(dset)
    stored = _check_chunks(dset)
    if max_ratio and declared > RATIO_FREE_BYTES and declared > max_ratio * stored:
        raise DataError(
            f"'{where}' declares {declared} bytes and stores {stored}: compressed more than {max_ratio}-fold, "
            "which real EMG never is"
        )
    return Sizes(declared, stored)


def check_scalar(dset: h5py.Dataset, dtypes: frozenset[np.dtype[Any]]) -> None:
    """Check that ``dset`` is one number kept in its own header (compact layout, covered by HDF5's checksum)."""
    _check_type(dset, 0, dtypes)
    if dset.id.get_create_plist().get_layout() != h5py.h5d.COMPACT:
        raise DataError(f"'{dset.name}' is a single value that is not stored in the compact layout")


def _check_type(dset: h5py.Dataset, rank: int, dtypes: frozenset[np.dtype[Any]]) -> None:
    kind = dset.id.get_type().get_class()
    if kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
        raise DataError(f"'{dset.name}' holds objects, strings or records; only numbers are read")
    if dset.dtype not in dtypes:
        raise DataError(f"'{dset.name}' has the type {dset.dtype}, which is not one of the allowed number types")
    if dset.shape is None or len(dset.shape) != rank:
        shown = "no" if dset.shape is None else f"{len(dset.shape)}"
        raise DataError(f"'{dset.name}' has {shown} dimensions instead of {rank}")


def _check_layout(dset: h5py.Dataset) -> None:
    plist = dset.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL:
        raise DataError(f"'{dset.name}' is a virtual dataset (it points into other files)")
    if plist.get_external_count():
        raise DataError(f"'{dset.name}' keeps its samples in an external file")
    if layout != h5py.h5d.CHUNKED:
        raise DataError(f"'{dset.name}' is not stored in chunks, so a flipped bit would pass unseen; rewrite the file")
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    unknown = [f for f in filters if f not in _FILTERS]
    if unknown or len(set(filters)) != len(filters):
        raise DataError(
            f"'{dset.name}' uses filter {(unknown or filters)[0]}; only shuffle, gzip, fletcher32, once each"
        )
    if h5py.h5z.FILTER_FLETCHER32 not in filters:
        raise DataError(f"'{dset.name}' has no Fletcher32 checksum, so a flipped bit would pass unseen")


def _check_chunks(dset: h5py.Dataset) -> int:
    """Stored bytes of ``dset``, after checking every chunk's presence and size."""
    chunk_bytes = int(np.prod([int(n) for n in dset.chunks], dtype=object)) * dset.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise DataError(f"'{dset.name}' has chunks of {chunk_bytes} bytes, more than the {MAX_CHUNK_BYTES} allowed")
    wanted = 1
    for size, step in zip(dset.shape, dset.chunks, strict=True):
        wanted *= -(-int(size) // int(step))
    count = int(dset.id.get_num_chunks())
    if count != wanted:
        raise DataError(f"'{dset.name}' has {count} of its {wanted} chunks; the file is incomplete")
    stored = 0
    for chunk in _chunks(dset):
        if chunk.filter_mask or chunk.size > chunk_bytes + 1024:
            raise DataError(f"'{dset.name}' has a chunk that skips its filters or is larger than it may be")
        stored += int(chunk.size)
    return stored


def _chunks(dset: h5py.Dataset) -> list[Any]:
    found: list[Any] = []
    if hasattr(dset.id, "chunk_iter"):
        dset.id.chunk_iter(found.append)
    else:  # h5py built with HDF5 before 1.12.3
        found = [dset.id.get_chunk_info(i) for i in range(dset.id.get_num_chunks())]
    return found
