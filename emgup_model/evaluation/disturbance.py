"""Difficulty planted into a user's recordings, so that settings can be chosen on users who are not all easy.

`emgup tune` judges methods on validation users, and the worst cases of a data set (a turned armband, a badly placed
one) may all be test users. Planting such difficulty into validation users needs no look at a test user.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from emgup_model.config import Frozen
from emgup_model.data.windows import WindowedUser
from emgup_model.errors import DataError
from emgup_model.evaluation.scenarios import person_seed


class Disturbance(Frozen):
    """What is done to all recordings of a user before anything else sees them. The default is nothing."""

    turned: int = Field(0, ge=-64, le=64, description="electrodes by which the ring is turned")
    gain_log_sd: float = Field(0.0, ge=0, le=2, description="log-normal SD of one gain per channel")

    @property
    def label(self) -> str:
        """For file names; empty when nothing is done."""
        turned = [f"turned{self.turned:+d}"] if self.turned else []
        return "_".join(turned + ([f"gains{self.gain_log_sd:g}"] if self.gain_log_sd else []))

    def apply(self, windows: WindowedUser, user: str, ring: bool) -> WindowedUser:
        """The same windows of a disturbed signal; one user's gains are the same in every recording, method and run.

        Raises:
            DataError: electrodes that are no ring are to be turned.
        """
        signal = windows.signal
        if self.turned:
            if not ring:
                raise DataError(f"user '{user}': electrodes that are no ring cannot be turned; leave --turned out")
            signal = signal.roll(self.turned, 0)
        if self.gain_log_sd:
            generator = torch.Generator().manual_seed(person_seed(user))
            log_gain = torch.randn(signal.shape[0], 1, generator=generator)
            signal = signal * (self.gain_log_sd * log_gain).exp()
        return replace(windows, signal=signal)


UNDISTURBED = Disturbance()
"""Recordings as they are."""
