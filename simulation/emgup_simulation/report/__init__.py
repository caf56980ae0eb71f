"""The report of a run: report.html, the terminal table and the Markdown table, all made from result rows."""

from emgup_simulation.report.confusions import CollectedConfusions, Confusions, collect_confusions
from emgup_simulation.report.info import RunInfo, note_results, read_run_info, write_run_info
from emgup_simulation.report.markdown import to_markdown
from emgup_simulation.report.page import write_report
from emgup_simulation.report.terminal import print_table

__all__ = [
    "CollectedConfusions",
    "Confusions",
    "RunInfo",
    "collect_confusions",
    "note_results",
    "print_table",
    "read_run_info",
    "to_markdown",
    "write_report",
    "write_run_info",
]
