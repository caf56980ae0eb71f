"""Dataset descriptors: the YAML files in configs/datasets that turn a folder of files into a recording store."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from emgup_model.config import Frozen, apply_overrides, find_config, load_yaml, parse

SampleType = Literal["int8", "int16", "int32", "float32", "float64"]


class CsvReader(Frozen):
    """Text: one line per sample, one column per channel."""

    kind: Literal["csv"]
    delimiter: str = Field(",", min_length=1, max_length=1)
    header_rows: int = Field(0, ge=0, description="lines to skip at the top")
    columns: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="columns that are channels, counted from 0; null = the file has exactly the channels"
    )
    label_column: int | None = Field(
        None, ge=0, description="column with the gesture of each sample; null = one gesture per file, from its path"
    )
    dtype: SampleType = "float32"

    @model_validator(mode="after")
    def _says_which_columns(self) -> Self:
        if self.label_column is not None and (self.columns is None or self.label_column in self.columns):
            raise ValueError("with label_column, list the channels in columns, without that one")
        return self


class RawReader(Frozen):
    """Little-endian binary samples, channels interleaved, no header."""

    kind: Literal["raw"]
    dtype: SampleType = "int16"


class MatReader(Frozen):
    """One two-dimensional variable of a MATLAB file (format 7.2 or older)."""

    kind: Literal["mat"]
    variable: str
    samples_first: bool = Field(True, description="true: (samples, channels); false: (channels, samples)")
    dtype: SampleType = "float32"


class Emg2PoseReader(Frozen):
    """An emg2pose session file: HDF5 with the compound dataset ``emg2pose/timeseries``, field ``emg``."""

    kind: Literal["emg2pose"]


Reader = Annotated[CsvReader | RawReader | MatReader | Emg2PoseReader, Field(discriminator="kind")]


class IndexRule(Frozen):
    """How one running number (the named group ``index``) gives gesture and repetition."""

    by: int = Field(ge=1, description="divisor: the number of gestures, or of repetitions")
    gesture: Literal["mod", "div"] = Field(description="mod: gesture = index mod by, repetition = index div by")


class SideRule(Frozen):
    """Which hand a recording is of, for datasets that record both at once."""

    column: str = Field(description="column with the recorded side, left or right")
    moving: str = Field(description="column with the hand that moves; the recording of a resting hand is dropped")
    mirror: Literal["left", "right"] | None = Field(None, description="side whose channel order is reversed")


class Table(Frozen):
    """A CSV file that lists the recordings, for datasets whose file names say nothing."""

    file: str
    path: str = Field(description="a recording's file, from the columns: '{filename}.hdf5'")
    columns: dict[Literal["user", "session", "gesture", "start"], str] = Field(
        description="column of each; start is in seconds and orders the recordings"
    )
    strip: str | None = Field(None, description="regular expression removed from the gesture")
    side: SideRule | None = None

    @model_validator(mode="after")
    def _needs_user_and_gesture(self) -> Self:
        if missing := {"user", "gesture"} - set(self.columns):
            raise ValueError(f"columns lacks '{min(missing)}'")
        _check_regex(self.strip)
        return self


class Drop(Frozen):
    """Recordings to leave out: all of some users, or those whose path matches. The reason is shown."""

    reason: str = Field(min_length=1)
    users: tuple[str, ...] = ()
    pattern: str | None = None

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if bool(self.users) == bool(self.pattern):
            raise ValueError("give either users or pattern")
        _check_regex(self.pattern)
        return self


class Download(Frozen):
    """One file on the web that holds the dataset, or a part of it."""

    url: str = Field(pattern=r"^https?://\S+$")
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,98}$", description="name under which it is kept")
    bytes: int | None = Field(None, ge=1, description="its size; null where the server makes it anew each time")
    checksum: str | None = Field(
        None,
        pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$",
        description="null where nobody has published one: that of the first download is remembered",
    )


class Descriptor(Frozen):
    """One dataset: where its files are, what their names mean, how they are read.

    ``pattern`` is matched against the end of each file's path, from a folder boundary on. Its named groups fill the
    ``user`` template and give ``session``, ``repetition`` and ``gesture`` (or ``index``). User names are lower-cased.
    """

    name: str
    title: str
    source: str = ""
    citation: str = ""
    downloads: dict[str, Download] = Field({}, description="part -> where it is; one part that is all, or several")
    sampling_rate_hz: float = Field(gt=0)
    channels: int = Field(ge=1)
    unit: str
    ring: bool = Field(description="electrodes equally spaced around the arm, in channel order")
    gestures: tuple[str, ...] = Field(min_length=1)
    expected_users: int = Field(ge=1, description="users that a complete copy gives, after drops")
    reader: Reader
    pattern: str | None = None
    table: Table | None = None
    user: str = "{user}"
    sessions: dict[str, Annotated[int, Field(ge=0)]] = Field({}, description="session name -> number")
    index: IndexRule | None = None
    first_gesture: int = Field(0, description="number of the first gesture in the file names")
    first_repetition: int = Field(0, description="number of the first repetition in the file names")
    gesture_codes: dict[str, str] = Field({}, description="what the files call a gesture -> its name here")
    unlisted_gestures: Literal["error", "drop"] = Field("error", description="recordings not in gesture_codes")
    drop: tuple[Drop, ...] = ()
    groups: dict[str, tuple[str, ...]] = Field({}, description="group -> users that folds must keep together")
    attributes: dict[str, str] = Field({}, description="attribute of the user -> named group")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.pattern is None) == (self.table is None):
            raise ValueError("give either pattern or table")
        if self.pattern is not None:
            self._check_pattern(_check_regex(self.pattern))
        if self.labels_each_sample and self.table is not None:
            raise ValueError("label_column goes with pattern; a table gives one gesture per recording")
        if unknown := set(self.gesture_codes.values()) - set(self.gestures):
            raise ValueError(f"gesture_codes names '{min(unknown)}', which is not in gestures")
        if len(set(self.gestures)) != len(self.gestures):
            raise ValueError("a gesture is listed twice")
        grouped = [u for users in self.groups.values() for u in users]
        if len(set(grouped)) != len(grouped):
            raise ValueError("a user is in two groups")
        return self

    def _check_pattern(self, groups: set[str]) -> None:
        needed = template_fields(self.user) | set(self.attributes.values())
        if self.labels_each_sample:
            if self.index is not None or groups & {"gesture", "index"}:
                raise ValueError("the path gives the gesture, and label_column too; keep one")
        else:
            needed |= {"gesture"} if self.index is None else {"index"}
        if missing := needed - groups:
            raise ValueError(f"the pattern has no named group '{min(missing)}'")
        if self.index is not None and groups & {"gesture", "repetition"}:
            raise ValueError("the pattern has 'index' and also 'gesture' or 'repetition'; keep one")

    @property
    def labels_each_sample(self) -> bool:
        """Whether the files hold a gesture for every sample."""
        return isinstance(self.reader, CsvReader) and self.reader.label_column is not None

    def gesture_index(self, text: str) -> int | None:
        """Index of the gesture that the files call ``text``; None when it is to be left out.

        Raises:
            ValueError: there is no such gesture.
        """
        if text in self.gesture_codes:
            return self.gestures.index(self.gesture_codes[text])
        if self.gesture_codes:
            if self.unlisted_gestures == "drop":
                return None
            raise ValueError(f"gesture '{text[:40]}' is not in gesture_codes of {self.name}")
        if text in self.gestures:
            return self.gestures.index(text)
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise ValueError(f"gesture '{text[:40]}' is neither one of the gestures nor a number")
        index = int(text) - self.first_gesture
        if not 0 <= index < len(self.gestures):
            raise ValueError(f"gesture {index} is not one of the {len(self.gestures)} gestures")
        return index

    def group_of(self, user: str) -> str:
        """Group of ``user``, or an empty string."""
        return next((group for group, users in self.groups.items() if user in users), "")


def load_descriptor(name: str | Path, overrides: Iterable[str] = ()) -> Descriptor:
    """Read a shipped descriptor by name, or a YAML file by path, with ``key.sub=value`` overrides.

    Raises:
        ConfigError: there is no such descriptor, or it is not valid.
    """
    path = find_config("datasets", name)
    return parse(Descriptor, apply_overrides(load_yaml(path), overrides), str(path))


def template_fields(template: str) -> set[str]:
    """Names in a ``{name}`` template. Raises ValueError when it uses anything but plain names."""
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if not all(f.isidentifier() for f in fields):
        raise ValueError(f"'{template}' may hold only plain names in braces")
    return fields


def _check_regex(pattern: str | None) -> set[str]:
    """Named groups of ``pattern``."""
    try:
        return set(re.compile(pattern or "").groupindex)
    except re.error as e:
        raise ValueError(f"not a regular expression ({e})") from None
