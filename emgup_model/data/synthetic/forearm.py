"""The forearm as a set of sources: where each muscle lies in the cross-section under the ring, and how users differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from emgup_model.data.synthetic.arrays import Array

if TYPE_CHECKING:
    from emgup_model.data.synthetic.config import Anatomy


@dataclass(frozen=True)
class Muscle:
    """One muscle in the cross-section of the proximal third of a right forearm.

    Attributes:
        angle_deg: centre; 0 is the radial border, 90 dorsal, 180 the ulnar border, 270 volar.
        depth_mm: of the centre below the fascia.
        width_deg: angular extent.
        size: number of fibres relative to extensor digitorum.
        belly: where its bulk lies relative to the ring, -1 towards the elbow, 1 towards the hand.
    """

    name: str
    angle_deg: float
    depth_mm: float
    width_deg: float
    size: float
    belly: float


# Order, side and layer follow anatomy (superficial, intermediate and deep compartments); the numbers are read off
# textbook cross-sections and rounded: chosen.
MUSCLES = (
    Muscle("brachioradialis", -5, 7, 40, 1.2, -0.8),
    Muscle("extensor carpi radialis longus", 28, 7, 30, 1.1, -0.6),
    Muscle("extensor carpi radialis brevis", 55, 9, 30, 1.1, 0.0),
    Muscle("extensor digitorum", 90, 7, 36, 1.0, 0.2),
    Muscle("extensor digiti minimi", 116, 7, 14, 0.4, 0.4),
    Muscle("extensor carpi ulnaris", 140, 7, 32, 1.0, 0.1),
    Muscle("supinator", 40, 18, 45, 0.9, -0.7),
    Muscle("abductor pollicis longus", 80, 16, 28, 0.7, 0.9),
    Muscle("extensor pollicis longus and indicis", 118, 16, 28, 0.6, 0.9),
    Muscle("flexor carpi ulnaris", 208, 7, 44, 1.2, 0.0),
    Muscle("flexor digitorum profundus", 226, 16, 60, 2.0, 0.2),
    Muscle("flexor digitorum superficialis", 262, 12, 60, 1.8, 0.2),
    Muscle("palmaris longus", 276, 5, 18, 0.5, -0.2),
    Muscle("flexor carpi radialis", 300, 7, 30, 1.0, -0.2),
    Muscle("pronator teres", 328, 9, 28, 0.9, -0.9),
    Muscle("flexor pollicis longus", 312, 18, 28, 0.7, 0.9),
)
MUSCLE_INDEX = {m.name: i for i, m in enumerate(MUSCLES)}

# Motor units of one muscle share these places: three across its width at two depths.
SITE_ANGLE = np.array([-1, 0, 1, -1, 0, 1]) / 3.0
SITE_DEPTH_MM = np.array([-2.0, -2.0, -2.0, 2.0, 2.0, 2.0])
SITES = len(SITE_ANGLE)
MIN_DEPTH_MM = 2.0
MIN_RADIUS_MM = 20.0


@dataclass(frozen=True)
class Forearm:
    """One user's forearm, as if it were a right one (a left arm is its mirror image, see :mod:`.conduction`).

    Attributes:
        radius_mm: of the skin.
        fat_mm: thickness of the subcutaneous layer.
        angle_rad: (muscles * SITES,) positions of the sources.
        depth_mm: (muscles * SITES,) below the fascia.
        size: (muscles,) relative number of fibres.
    """

    radius_mm: float
    fat_mm: float
    angle_rad: Array
    depth_mm: Array
    size: Array


def draw_forearm(anatomy: Anatomy, rng: np.random.Generator) -> Forearm:
    """One user's forearm."""
    n = len(MUSCLES)
    radius = max(
        anatomy.radius_mm + anatomy.radius_sd_mm * float(np.clip(rng.standard_normal(), -2.5, 2.5)), MIN_RADIUS_MM
    )
    fat = anatomy.fat_median_mm * float(np.exp(anatomy.fat_log_sd * np.clip(rng.standard_normal(), -2.5, 2.5)))
    angle = np.array([m.angle_deg for m in MUSCLES]) + anatomy.angle_sd_deg * rng.standard_normal(n)
    depth = np.array([m.depth_mm for m in MUSCLES]) + anatomy.depth_sd_mm * rng.standard_normal(n)
    size = np.array([m.size for m in MUSCLES]) * np.exp(anatomy.size_log_sd * rng.standard_normal(n))
    width = np.array([m.width_deg for m in MUSCLES])
    angles = angle[:, None] + width[:, None] * SITE_ANGLE
    depths = np.maximum(depth[:, None] + SITE_DEPTH_MM, MIN_DEPTH_MM)
    # Whatever the config asks for, muscle and bone keep a radius of 15 mm.
    return Forearm(radius, min(fat, radius - 15), np.deg2rad(angles).ravel(), depths.ravel(), size)


def sizes_under_ring(forearm: Forearm, shift_mm: float) -> Array:
    """(muscles,) relative number of fibres under a ring shifted ``shift_mm`` towards the hand.

    A muscle whose belly lies that way grows, one that is thinning out shrinks: by e per 30 mm at most (chosen).
    """
    belly = np.array([m.belly for m in MUSCLES])
    return np.asarray(forearm.size * np.exp(belly * shift_mm / 30.0))
