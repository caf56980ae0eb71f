"""The egress policy: a YAML file that the user owns. It names what may leave, how coarse, how noisy and how often."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from emgup_model.config import Frozen, load_yaml, parse
from emgup_model.report_wire import CATALOGUE, MAX_SCALARS, TOP
from emgup_model.secure_sum_wire import MAX_COHORT, MIN_COHORT, ROUNDS
from emgup_model.wire import Status

FILE = "policy.yaml"
STATUS_BITS = math.ceil(math.log2(len(Status)))
"""What a status code can carry."""
MAX_PADDINGS = 16
"""A reply to a request to personalize leaves at one of this many moments, or not (see ``LimitsConfig.pad_s``)."""


class ScalarPolicy(Frozen):
    """How one scalar of the catalogue leaves: cut to [lower, upper], then rounded to one of 2**bits levels.

    ``lower`` and ``upper`` are fractions of the range that the catalogue gives the scalar.
    """

    bits: int = Field(ge=1, le=6)
    lower: float = Field(0.0, ge=0, le=1)
    upper: float = Field(1.0, ge=0, le=1)

    @property
    def top(self) -> int:
        """The highest level, 2**bits - 1. Two users can differ by that much: it is the noise's sensitivity, too."""
        return (1 << self.bits) - 1

    def on_wire(self, level: int) -> int:
        """The level 0 … TOP of the wire that stands for one of the policy's levels."""
        return round(TOP * (self.lower + (self.upper - self.lower) * level / self.top))

    @model_validator(mode="after")
    def _levels_differ(self) -> ScalarPolicy:
        if len({self.on_wire(level) for level in range(self.top + 1)}) != self.top + 1:
            raise ValueError("lower and upper are too close for so many bits; lower `bits` or widen the range")
        return self


class NoNoise(Frozen):
    """Rounded values leave as they are: bounded in bits, but rounding is not privacy."""

    kind: Literal["none"] = "none"

    @property
    def epsilon(self) -> float:
        """No bound."""
        return math.inf


class LaplaceNoise(Frozen):
    """Local differential privacy: discrete Laplace noise on every scalar; ``epsilon`` is one report's, all together."""

    kind: Literal["laplace"] = "laplace"
    epsilon: float = Field(gt=0, le=20)


Noise = Annotated[NoNoise | LaplaceNoise, Field(discriminator="kind")]


class LimitsConfig(Frozen):
    """How often anything may leave, and when.

    Attributes:
        reports_per_day, reports_for_life: fresh reports; one that was sent before is sent again unchanged, as a status.
        epsilon_for_life: the sum of epsilon over all reports ever. None only without noise.
        statuses_per_day, statuses_for_life: replies that carry no fresh report.
        pad_s: an answer to a request to personalize leaves pad_s, 2 pad_s, 4 pad_s … after it, whichever comes first;
            0 sends at once, and then the time that the app took is visible.
    """

    reports_per_day: int = Field(ge=0, le=1000)
    reports_for_life: int = Field(ge=0, le=100_000)
    epsilon_for_life: float | None = Field(None, gt=0, le=100)
    statuses_per_day: int = Field(ge=0, le=10_000)
    statuses_for_life: int = Field(ge=0, le=1_000_000)
    pad_s: float = Field(ge=0, le=3600)

    @field_validator("pad_s")
    @classmethod
    def _long_enough(cls, pad_s: float) -> float:
        if 0 < pad_s < 1:
            raise ValueError("an answer that takes long would miss all moments; use 1 or more, or 0 for none")
        return pad_s


class SumPolicy(Frozen):
    """Secure sums, of which the server learns the sum only. The report in one costs what a report alone costs.

    Attributes:
        only: a report leaves in a sum, or not at all.
        floor: the least number of people in a sum.
        per_day, for_life: sums that are taken part in, whether or not they come about.
    """

    only: bool = False
    floor: int = Field(ge=MIN_COHORT, le=MAX_COHORT)
    per_day: int = Field(ge=0, le=1000)
    for_life: int = Field(ge=0, le=100_000)


class EgressPolicy(Frozen):
    """What may leave a user's machine.

    Attributes:
        scalars: by their name in the catalogue; at most eight.
        allow_labels: opt-in to scalars that need labels: they also tell that the user takes part in a labelled study.
        noise: of one report.
        limits: how often.
        sum: of secure sums; None takes part in none.
    """

    scalars: dict[str, ScalarPolicy] = Field(min_length=1, max_length=MAX_SCALARS)
    allow_labels: bool = False
    noise: Noise
    limits: LimitsConfig
    sum: SumPolicy | None = None

    @field_validator("scalars")
    @classmethod
    def _known(cls, scalars: dict[str, ScalarPolicy]) -> dict[str, ScalarPolicy]:
        if unknown := sorted(set(scalars) - set(CATALOGUE)):
            raise ValueError(f"no scalar is called '{unknown[0][:40]}'; known are {', '.join(CATALOGUE)}")
        return {name: scalars[name] for name in CATALOGUE if name in scalars}

    @model_validator(mode="after")
    def _consistent(self) -> EgressPolicy:
        if not self.allow_labels and (labelled := [n for n in self.scalars if CATALOGUE[n].labels]):
            raise ValueError(f"'{labelled[0]}' is computed from labels; set allow_labels: true if you mean it")
        if isinstance(self.noise, LaplaceNoise):
            if self.limits.epsilon_for_life is None:
                raise ValueError("noise needs limits.epsilon_for_life, the sum over all reports ever")
        elif self.limits.epsilon_for_life is not None:
            raise ValueError("epsilon_for_life has no meaning without noise; remove it or set noise")
        return self

    @property
    def report_bits(self) -> int:
        """What one report can carry, beside its status."""
        return sum(s.bits for s in self.scalars.values())

    @property
    def reports(self) -> int:
        """How many fresh reports can ever leave."""
        most = self.limits.reports_for_life
        if isinstance(self.noise, LaplaceNoise) and self.limits.epsilon_for_life is not None:
            most = min(most, math.floor(self.limits.epsilon_for_life / self.noise.epsilon + 1e-9))
        return most

    @property
    def bits_for_life(self) -> int:
        """Bound on everything that replies can ever carry: values, status codes, and (if padded) the moment.

        Of a sum only its moments count: the gate makes the keys and shares, and the vector is a report counted already.
        """
        moment = math.ceil(math.log2(MAX_PADDINGS)) if self.limits.pad_s else 0
        rounds = len(ROUNDS) * self.sum.for_life if self.sum else 0
        return self.reports * (self.report_bits + STATUS_BITS) + (
            self.limits.statuses_for_life * STATUS_BITS
            + (self.reports + self.limits.statuses_for_life + rounds) * moment
        )

    def explain(self) -> str:
        """The policy in words, for the user to read."""
        lines = [f"A report carries {len(self.scalars)} scalars, {self.report_bits} bits:"]
        lines += [f"  {n}: {CATALOGUE[n].meaning}; {s.bits} bits" for n, s in self.scalars.items()]
        if isinstance(self.noise, LaplaceNoise):
            total = self.reports * self.noise.epsilon
            lines.append(f"Noise: epsilon {self.noise.epsilon:g} a report, at most {total:g} for life.")
        else:
            lines.append("Noise: none. Rounding is not privacy: such reports can be linked to a person.")
        limits = self.limits
        lines.append(f"Reports: at most {limits.reports_per_day} a day and {self.reports} ever.")
        lines.append(f"Other replies: {limits.statuses_per_day} a day, {limits.statuses_for_life} ever.")
        lines += self._explain_sum()
        lines.append(f"All replies together can never carry more than {self.bits_for_life} bits.")
        if not limits.pad_s:
            lines.append("Answers are not padded: beside these bits, the server sees how long the app took.")
        return "\n".join(lines)

    def _explain_sum(self) -> list[str]:
        if self.sum is None:
            return ["Secure sums: none."]
        alone = "never alone" if self.sum.only else "or alone"
        return [
            f"Secure sums: a report may leave in the sum of at least {self.sum.floor} people, {alone}. The server then",
            "  learns the sum only, if those people are real. A report costs the same either way.",
            f"  At most {self.sum.per_day} sums a day, {self.sum.for_life} ever.",
        ]


def read_policy(path: Path) -> EgressPolicy:
    """The policy of a file. Raises ConfigError with one line that says what is wrong with it."""
    return parse(EgressPolicy, load_yaml(path), str(path))
