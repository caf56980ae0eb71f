"""``emgup report RUN``: make a run's table, summary.json and report.html again from its results.csv."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from emgup_model.errors import RunError
from emgup_model.evaluation.results import ResultRow, read_results
from emgup_model.evaluation.statistics import summarise
from emgup_model.evaluation.summary import write_summary
from emgup_model.files import write_atomic
from emgup_simulation.report import collect_confusions, print_table, read_run_info, to_markdown, write_report
from emgup_simulation.report.confusions import CollectedConfusions

OTHER_STUDIES = "confusion matrices are drawn for runs of one dataset and one backbone"


def report(run: Path, markdown: Path | None = None, console: Console | None = None) -> None:
    """Write RUN/summary.json and RUN/report.html (and ``markdown``), print the table and the paths.

    Args:
        run: run folder with results.csv; experiment.yaml, run.json, folds.json, releases and the clients' vault are
            used when they are there.
        markdown: also write the table as Markdown to this file.
        console: where to print; the terminal by default.

    Raises:
        RunError: no such folder, no results.csv, or one of the files is malformed.
    """
    console = console or Console()
    if not run.is_dir():
        raise RunError(f"there is no run folder {run}; give the folder that `emgup simulate` printed")
    results = run / "results.csv"
    rows = read_results(results)
    if not rows:
        raise RunError(f"{results} has no rows yet; run the experiment first")
    info = read_run_info(run)
    if info.date is None:  # a run without run.json: the date of its results, not of this report
        changed = datetime.fromtimestamp(results.stat().st_mtime, UTC)
        info = info.model_copy(update={"date": f"{changed:%Y-%m-%d %H:%M} UTC (results.csv)"})
    summary = summarise(rows, info.users)
    collected = _confusions(run, rows)
    summary_path = run / "summary.json"
    write_summary(summary_path, summary)
    page = write_report(
        run,
        rows,
        collected.pooled,
        info=info,
        summary=summary,
        confusion_users=collected.users,
        notes=collected.notes,
    )
    paths = [("table", results), ("summary", summary_path), ("report", page)]
    if markdown is not None:
        write_atomic(markdown, to_markdown(summary))
        paths.append(("markdown", markdown))
    print_table(rows, console, summary)
    for name, path in paths:
        console.print(f"{name:9}{path}", markup=False, highlight=False, soft_wrap=True)


def _confusions(run: Path, rows: tuple[ResultRow, ...]) -> CollectedConfusions:
    if len({(r.dataset, r.backbone) for r in rows}) > 1:
        return CollectedConfusions({}, {}, (OTHER_STUDIES,))
    return collect_confusions(run / "client", rows)
