"""The embedded default data set: a cohort of synthetic users, made from forearm anatomy and the physics of surface EMG.

See docs/synthetic-cohort.md for the model, its parameters and their sources.
"""

from emgup_model.data.synthetic.cohort import draw_user, iter_recordings, synthesize, user_info, user_name
from emgup_model.data.synthetic.config import SyntheticConfig
from emgup_model.data.synthetic.gestures import GESTURES

__all__ = ["GESTURES", "SyntheticConfig", "draw_user", "iter_recordings", "synthesize", "user_info", "user_name"]
