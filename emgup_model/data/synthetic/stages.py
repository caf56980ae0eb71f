"""Stand-ins for the stages of emg2pose: which gestures of the synthetic forearm each one strings together.

The names are the data set's own. What is done in them is chosen: the synthetic forearm knows twelve gestures, not the
finger movements of the real stages. Stages that one class merges (configs/datasets/emg2pose.yaml) share movements here
too.
"""

from __future__ import annotations

from dataclasses import dataclass

from emgup_model.data.synthetic.gestures import GESTURES


@dataclass(frozen=True)
class Stage:
    """``movements`` are indices of GESTURES; ``both`` hands do them, or one while the other rests."""

    movements: tuple[int, ...]
    both: bool
    held_out: bool = False


def _stage(*movements: str, both: bool = True, held_out: bool = False) -> Stage:
    return Stage(tuple(GESTURES.index(m) for m in movements), both, held_out)


_COUNTING = ("index_point", "hand_open", "chuck_grip")
_PINCHES = ("pinch_grip", "chuck_grip")
_ANYTHING = tuple(GESTURES[1:])

# Held out are the six stages that the official split keeps for testing.
STAGES: dict[str, Stage] = {
    "AllFingerPinchesThumbSwipeThumbRotate": _stage(*_PINCHES),
    "CoffeePanicPete": _stage("chuck_grip", "hand_close", "supination", "pronation"),
    "CountingUpDownFaceSideAway": _stage(*_COUNTING, held_out=True),
    "CountingUpDownFingerWigglingSpreading": _stage(*_COUNTING, held_out=True),
    "DoorknobFingerGraspFistGrab": _stage("hand_close", "supination", "pronation", both=False),
    "FastPongFronthandBackhandThrowing": _stage("wrist_flexion", "wrist_extension", both=False),
    "FingerAbductionSeries": _stage("hand_open", "neutral"),
    "FingerFreeform": _stage(*_ANYTHING, held_out=True),
    "FingerPinchesSingleFingerPinchesMultiple": _stage("pinch_grip", "neutral"),
    "FingerTouchPalmClapmrburns": _stage("hand_open", "wrist_extension"),
    "FingerWigglingSpreading": _stage(*_COUNTING),
    "GraspPunchCloseFar": _stage("hand_close", "wrist_extension", both=False),
    "HandClawGraspFlicks": _stage("hand_close", "hand_open", both=False),
    "HandDeskSeparateClaspedChest": _stage("neutral"),
    "HandOverHandAllFingerPinchesThumbSwipeThumbRotate": _stage(*_PINCHES),
    "HandOverHandCountingUpDownFingerWigglingSpreading": _stage(*_COUNTING, held_out=True),
    "unconstrained": _stage(*_ANYTHING),
    "HookEmHornsOKScissors": _stage("index_point", "pinch_grip", held_out=True),
    "IndexPinchesMiddlePinchesThumbswipes": _stage("pinch_grip", "index_point", "neutral"),
    "IndividualFingerPointingSnap": _stage("index_point", "neutral"),
    "OneHandedFreeStyle": _stage(*_ANYTHING, both=False),
    "PlayBlocksChess": _stage("pinch_grip", "pronation", both=False),
    "PokeDrawPinchRotateclosefar": _stage("index_point", "pinch_grip", "supination", both=False),
    "PokePinchCloseFar": _stage("index_point", "wrist_extension", both=False),
    "ShakaVulcanPeace": _stage("hand_open", "radial_deviation", held_out=True),
    "ThumbsSwipesWholeHand": _stage("radial_deviation", "ulnar_deviation", both=False),
    "ThumbsUpDownThumbRotationsCWCCWP": _stage("supination", "pronation", "radial_deviation", both=False),
    "TwoHandedFreeStyle": _stage(*_ANYTHING),
    "WristFlexionAbduction": _stage("wrist_flexion", "wrist_extension", "ulnar_deviation", both=False),
}
