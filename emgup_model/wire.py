"""What clients and the server may say to each other: the only schema both sides share. No Flower in here.

A reply is one status code, and for a personalized user a few more bounded integers: exact metrics in a simulation, the
coarse levels that the user's policy allows from a deployed client. There is no field that could hold an array, a text
or a real number, on either side: the client builds a fresh reply, and the server decodes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from emgup_model.data.recording import check_name
from emgup_model.errors import DataError, EmgupError
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.scenarios import Scenario
from emgup_model.report_wire import MAX_SCALARS, check_levels

OFFER = "offer"
"""Name of the query "do you hold release X?"."""
DELIVER = "deliver"
"""Name of the query that carries a release's three files."""
REQUEST = "request"
"""Name of the one record of a message to a client."""
REPLY = "reply"
"""Name of the one record of a message from a client."""

PARTS = 1_000_000
"""Metrics travel as integers in units of 1/PARTS: k/n survives to 5e-7."""
MAX_WEIGHT_BYTES = 1 << 28


class WireError(EmgupError):
    """A request or reply does not follow the schema. The text never repeats what was received."""


class Status(IntEnum):
    """Fixed codes: all that a client ever says about a failure. Details stay in the client's own log."""

    OK = 0
    HAVE_RELEASE = 1
    NEEDS_RELEASE = 2
    RELEASE_REFUSED = 3
    DATA_ERROR = 4
    CONFIG_REFUSED = 5
    NOT_APPLICABLE = 6
    NOT_EVALUATED = 7
    REQUEST_REFUSED = 8
    CRASHED = 9
    STORAGE_ERROR = 10
    INTERNAL = 11
    REPORTED = 12
    HELD = 13


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def _safe_name(name: str) -> str:
    try:
        return check_name(name, "name")
    except DataError:
        raise ValueError("not usable as a name") from None


Part = Annotated[int, Field(ge=0, le=PARTS)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SafeName = Annotated[str, Field(max_length=100), AfterValidator(_safe_name)]


class Result(_Strict):
    """Numbers of one personalized user; metrics in units of 1/PARTS, before (``source_``) and after adaptation."""

    accuracy: Part
    macro_f1: Part
    source_accuracy: Part
    source_macro_f1: Part
    n_windows: int = Field(ge=1, le=1 << 30, description="windows the metrics were computed on")
    adapt_ms: int = Field(ge=0, le=10**9, description="time the adaptation took")


Levels = Annotated[dict[str, int], AfterValidator(check_levels)]


class Reply(_Strict):
    """A status code; a result exactly when the status is OK, a report exactly when it is REPORTED."""

    status: Status
    result: Result | None = None
    report: Levels | None = Field(None, description="levels of scalars of the catalogue, by name")

    def encode(self) -> dict[str, int]:
        """Flat integers, ready for a metric record."""
        if (self.status is Status.OK) != (self.result is not None):
            raise WireError("a reply carries a result exactly when its status is OK")
        if (self.status is Status.REPORTED) != (self.report is not None):
            raise WireError("a reply carries a report exactly when its status is REPORTED")
        values = self.result.model_dump() if self.result else self.report or {}
        return {"status": int(self.status), **values}

    @classmethod
    def decode(cls, values: Mapping[Any, Any]) -> Reply:
        """Inverse of :meth:`encode`. Raises WireError for anything that encode could not have made."""
        if not 1 <= len(values) <= 1 + max(len(Result.model_fields), MAX_SCALARS):
            raise WireError("wrong number of values")
        if any(type(v) is not int for v in values.values()):
            raise WireError("a value is not an integer")
        rest = dict(values)
        code = rest.pop("status", None)
        if code not in Status._value2member_map_:
            raise WireError("no known status code")
        status = Status(code)
        if status is Status.REPORTED:
            try:
                return cls(status=status, report=check_levels(rest))
            except ValueError as e:
                raise WireError(str(e)) from None
        if status is not Status.OK:
            if rest:
                raise WireError("values beside a status that carries none")
            return cls(status=status)
        return cls(status=status, result=_validate(Result, rest))


class Offer(_Strict):
    """Do you hold this release?"""

    release_id: Digest


class Deliver(_Strict):
    """The three files of a signed release; its id is the SHA-256 of the manifest."""

    manifest: bytes = Field(max_length=1 << 20)
    signature: bytes = Field(min_length=64, max_length=64)
    weights: bytes = Field(max_length=MAX_WEIGHT_BYTES)


class Personalize(_Strict):
    """Adapt a release to one user's own recordings."""

    release_id: Digest
    method: str = Field(max_length=1 << 14, description="configuration of the method, canonical JSON")
    method_name: str = Field(min_length=1, max_length=200, description="for the client's own records")
    protocol: Protocol
    scenario: Scenario
    seed: int = Field(ge=0, lt=1 << 63)
    streaming: str | None = Field(None, max_length=1 << 10, description="block and memory of protocol streaming, JSON")
    cell: Digest = Field(description="key of the result: the same key never means two results")
    for_sum: Literal[True] | None = Field(
        None, description="the report may leave in a secure sum only: keep it, and answer that it is held"
    )
    user: SafeName | None = Field(
        None, description="simulation only, where one client plays many users; a deployed client knows its user"
    )


R = TypeVar("R", Offer, Deliver, Personalize)


def encode_request(request: Offer | Deliver | Personalize) -> dict[str, str | int | bytes]:
    """Flat values, ready for a config record."""
    return request.model_dump(exclude_none=True)


def decode_request(kind: type[R], values: Mapping[Any, Any]) -> R:
    """Inverse of :func:`encode_request`. Raises WireError."""
    return _validate(kind, dict(values))


def to_parts(value: float) -> int:
    """A metric in [0, 1] as an integer number of 1/PARTS. Raises ValueError outside, also for NaN."""
    if not 0 <= value <= 1:
        raise ValueError("a metric is outside [0, 1]")
    return round(value * PARTS)


def from_parts(parts: int) -> float:
    """Inverse of :func:`to_parts`."""
    return parts / PARTS


S = TypeVar("S", bound=BaseModel)


def _validate(model: type[S], values: dict[Any, Any]) -> S:
    try:
        return model.model_validate(values)
    except ValidationError as e:
        error = e.errors(include_input=False, include_url=False)[0]
        known = [str(p) for p in error["loc"] if p in model.model_fields]
        raise WireError(f"{known[0] if known else 'a key'}: {error['type']}") from None
