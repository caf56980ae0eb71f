"""`--home`, the same for every command below `emgup client`: where a client keeps all that is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_HOME = Path("~/.emgup")
Home = Annotated[Path, typer.Option(help="the client's private folder", envvar="EMGUP_HOME")]
