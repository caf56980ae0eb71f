"""``emgup report RUN``: make a run's table, summary.json and report.html again from its results.csv."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from emgup_model.errors import RunError
from emgup_model.evaluation.results import ResultRow, read_results
from emgup_model.evaluation.statistics import summarise
from emgup_model.evaluation.summary import write_summary
from emgup_model.files import write_atomic
from emgup_simulation.report import RunInfo, collect_confusions, print_table, read_run_info, to_markdown, write_report
from emgup_simulation.report.confusions import CollectedConfusions
from emgup_simulation.report.made import made_lines
from emgup_simulation.report.markdown import escape

OTHER_STUDIES = "confusion matrices are drawn for runs of one dataset and one backbone"


def report(
    run: Path, markdown: Path | None = None, console: Console | None = None, users_except: str | None = None
) -> None:
    """Write RUN/summary.json and RUN/report.html (and ``markdown``), print the table and the paths.

    Args:
        run: run folder with results.csv; experiment.yaml, run.json, folds.json, releases and the clients' vault are
            used when they are there.
        markdown: also write the table as Markdown to this file.
        console: where to print; the terminal by default.
        users_except: users to leave out, such as those that settings were chosen on (names with commas between, or a
            text file with one per line). Table and Markdown are then of the others, and the run's own summary and
            report stay as they are.

    Raises:
        RunError: no such folder, no results.csv, one of the files is malformed, or a user to leave out is not there.
    """
    console = console or Console()
    if not run.is_dir():
        raise RunError(f"there is no run folder {run}; give the folder that `emgup simulate` printed")
    results = run / "results.csv"
    rows = read_results(results)
    if not rows:
        raise RunError(f"{results} has no rows yet; run the experiment first")
    info = read_run_info(run, rows)
    if info.unsure is not None:
        console.print(info.unsure, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if users_except is not None:
        _report_on_others(rows, info, read_users(users_except), markdown, console)
        return
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
        write_atomic(markdown, to_markdown(summary) + _made(info))
        paths.append(("markdown", markdown))
    print_table(rows, console, summary)
    _print_paths(paths, console)


def read_users(given: str) -> tuple[str, ...]:
    """User names from a text file with one per line, or from a list with commas between. Raises RunError."""
    path = Path(given)
    try:
        names = path.read_text(encoding="utf-8").splitlines() if path.is_file() else given.split(",")
    except UnicodeDecodeError:
        raise RunError(f"{path} is not UTF-8 text; it must hold one user name per line") from None
    except OSError:  # also a list too long for a file name
        names = given.split(",")
    users = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not users:
        raise RunError(f"'{given[:80]}' names no user; give names with commas between, or a file with one per line")
    return users


def _made(info: RunInfo) -> str:
    """What made the results, as Markdown; empty where nothing is known."""
    lines = [*made_lines(info.made_by), *([info.unsure] if info.unsure else [])]
    return "\n" + "".join(f"- {escape(line)}\n" for line in lines) if lines else ""


def _report_on_others(
    rows: Sequence[ResultRow], info: RunInfo, without: Sequence[str], markdown: Path | None, console: Console
) -> None:
    """Print the table of the users who are not in ``without``, and write it as Markdown."""
    users = info.users
    known = {*users, *(r.user for r in rows)}
    if unknown := [u for u in without if u not in known]:
        raise RunError(f"--users-except: '{unknown[0][:80]}' is neither a user of this run nor a file")
    left = [r for r in rows if r.user not in without]
    if not left:
        raise RunError("--users-except leaves no user; name fewer")
    summary = summarise(left, [u for u in users if u not in without])
    print_table(left, console, summary)
    note = f"Without {len(without)} of {len(known)} users: {', '.join(without)}."
    console.print(note, markup=False, highlight=False, soft_wrap=True)
    if markdown is not None:
        write_atomic(markdown, f"{to_markdown(summary)}\n{escape(note)}\n{_made(info)}")
        _print_paths([("markdown", markdown)], console)


def _print_paths(paths: Sequence[tuple[str, Path]], console: Console) -> None:
    for name, path in paths:
        console.print(f"{name:9}{path}", markup=False, highlight=False, soft_wrap=True)


def _confusions(run: Path, rows: tuple[ResultRow, ...]) -> CollectedConfusions:
    if len({(r.dataset, r.backbone) for r in rows}) > 1:
        return CollectedConfusions({}, {}, (OTHER_STUDIES,))
    return collect_confusions(run / "client", rows)
