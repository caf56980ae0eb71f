"""Changes made to training windows: how other people, or the same person tomorrow, would wear the electrodes."""

from __future__ import annotations

import torch
from pydantic import Field

from emgup_model.config import Frozen


class Augmentation(Frozen):
    """Random electrode rotation and gain, drawn anew for every window. The default changes nothing."""

    rotated_share: float = Field(0.0, ge=0, le=1, description="share of the windows whose electrodes are rotated")
    rotation_electrodes: float = Field(
        1.0, ge=0, le=8, description="rotations are uniform in ± this many electrodes, fractions interpolated"
    )
    gain_log_sd: float = Field(
        0.0, ge=0, le=2, description="log-normal SD of a gain per window, and of one per channel"
    )

    @property
    def rotates(self) -> bool:
        """Whether it needs electrodes in a ring."""
        return self.rotated_share > 0 and self.rotation_electrodes > 0

    def apply(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augmented copy of windows (B, C, W); draws on the generator's device."""
        B, C, _ = x.shape
        if self.rotates:
            turned = torch.rand(B, generator=generator) < self.rotated_share
            electrodes = (torch.rand(B, generator=generator) * 2 - 1) * self.rotation_electrodes
            x = rotate(x, (electrodes * turned).to(x.device))
        if self.gain_log_sd:
            log_gain = torch.randn(B, C, 1, generator=generator) + torch.randn(B, 1, 1, generator=generator)
            x = x * (self.gain_log_sd * log_gain).exp().to(x.device)
        return x


def rotate(x: torch.Tensor, electrodes: torch.Tensor) -> torch.Tensor:
    """Windows (B, C, W) as a ring turned by ``electrodes`` (B,) would record them: channel c reads position c + e.

    Between two electrodes their signals are mixed linearly, and the mixture is given the power that lies between
    theirs: the mean of two signals with little in common has less than either, which no electrode there would record.
    """
    B, C, W = x.shape
    whole = electrodes.floor()
    part = (electrodes - whole).view(B, 1, 1)
    lower = (torch.arange(C, device=x.device) + whole.long().unsqueeze(1)) % C
    upper = (lower + 1) % C

    def pick(channel: torch.Tensor) -> torch.Tensor:
        return x.gather(1, channel.unsqueeze(2).expand(B, C, W))

    near, far = pick(lower), pick(upper)
    mixed = (1 - part) * near + part * far
    power = (1 - part) * near.square().mean(2, keepdim=True) + part * far.square().mean(2, keepdim=True)
    return mixed * (power / mixed.square().mean(2, keepdim=True).clamp_min(1e-12)).sqrt()
