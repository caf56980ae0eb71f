"""Which muscles a gesture uses: the drive of each, as a share of its maximum, in a person of average style."""

from __future__ import annotations

import numpy as np

from emgup_model.data.synthetic.arrays import Array
from emgup_model.data.synthetic.forearm import MUSCLE_INDEX, MUSCLES

# The first seven are the set of the Myo armband data, with the three that the 3DC set adds and two more behind them.
# Prime movers and synergists follow anatomy and function (for example: gripping needs the wrist extensors, or the hand
# would flex; radial deviation pairs flexor carpi radialis with the radial extensors); the levels are chosen.
_DRIVES: dict[str, dict[str, float]] = {
    "neutral": {},
    "radial_deviation": {
        "extensor carpi radialis longus": 0.45,
        "extensor carpi radialis brevis": 0.20,
        "flexor carpi radialis": 0.35,
        "abductor pollicis longus": 0.35,
        "brachioradialis": 0.15,
        "extensor digitorum": 0.08,
        "pronator teres": 0.10,
    },
    "wrist_flexion": {
        "flexor carpi radialis": 0.45,
        "flexor carpi ulnaris": 0.45,
        "palmaris longus": 0.45,
        "flexor digitorum superficialis": 0.22,
        "flexor digitorum profundus": 0.10,
        "pronator teres": 0.10,
        "extensor digitorum": 0.06,
    },
    "ulnar_deviation": {
        "flexor carpi ulnaris": 0.40,
        "extensor carpi ulnaris": 0.50,
        "extensor digiti minimi": 0.20,
        "extensor digitorum": 0.12,
        "flexor digitorum profundus": 0.10,
    },
    "wrist_extension": {
        "extensor carpi radialis longus": 0.45,
        "extensor carpi radialis brevis": 0.50,
        "extensor carpi ulnaris": 0.40,
        "extensor digitorum": 0.25,
        "extensor digiti minimi": 0.15,
        "brachioradialis": 0.06,
    },
    "hand_close": {
        "flexor digitorum superficialis": 0.50,
        "flexor digitorum profundus": 0.55,
        "flexor pollicis longus": 0.40,
        "extensor carpi radialis brevis": 0.25,
        "extensor carpi ulnaris": 0.18,
        "extensor carpi radialis longus": 0.12,
        "flexor carpi ulnaris": 0.12,
        "extensor digitorum": 0.10,
    },
    "hand_open": {
        "extensor digitorum": 0.50,
        "extensor digiti minimi": 0.45,
        "extensor pollicis longus and indicis": 0.45,
        "abductor pollicis longus": 0.40,
        "extensor carpi ulnaris": 0.20,
        "flexor carpi ulnaris": 0.12,
        "flexor carpi radialis": 0.08,
        "palmaris longus": 0.10,
    },
    "supination": {"supinator": 0.60, "brachioradialis": 0.20, "extensor pollicis longus and indicis": 0.20},
    "pronation": {"pronator teres": 0.60, "flexor carpi radialis": 0.20, "brachioradialis": 0.10},
    "chuck_grip": {
        "flexor digitorum superficialis": 0.35,
        "flexor digitorum profundus": 0.35,
        "flexor pollicis longus": 0.50,
        "abductor pollicis longus": 0.20,
        "extensor carpi radialis brevis": 0.20,
        "extensor digiti minimi": 0.15,
    },
    "pinch_grip": {
        "flexor digitorum superficialis": 0.18,
        "flexor digitorum profundus": 0.25,
        "flexor pollicis longus": 0.50,
        "abductor pollicis longus": 0.30,
        "extensor carpi radialis longus": 0.12,
        "extensor digitorum": 0.20,
    },
    "index_point": {
        "extensor pollicis longus and indicis": 0.50,
        "extensor digitorum": 0.20,
        "flexor digitorum superficialis": 0.30,
        "flexor digitorum profundus": 0.40,
        "flexor pollicis longus": 0.30,
        "extensor carpi radialis brevis": 0.15,
    },
}

GESTURES: tuple[str, ...] = tuple(_DRIVES)


def base_drives() -> Array:
    """(gestures, muscles) drive of each muscle as a share of its maximum; the neutral row is zero."""
    table = np.zeros((len(GESTURES), len(MUSCLES)))
    for g, drives in enumerate(_DRIVES.values()):
        for muscle, drive in drives.items():
            table[g, MUSCLE_INDEX[muscle]] = drive
    return table
