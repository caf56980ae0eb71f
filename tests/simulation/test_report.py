"""The HTML page: complete, self-contained, safe against hostile names, sensible at the edges."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from emgup_model.errors import RunError
from emgup_model.evaluation.results import ResultRow
from emgup_simulation.report import RunInfo, write_report

METHODS = ("source_only", "adabn", "emgup_nograd", "emgup_bnfrozen", "emgup_paper")


def row(user, accuracy=0.8, source=0.7, method="adabn", protocol="inductive", status="ok", **more):
    ok = status == "ok"
    data = {
        "dataset": "cohort",
        "backbone": "cnn",
        "method": method,
        "protocol": protocol,
        "fold": 0,
        "user": user,
        "seed": 0,
        "accuracy": accuracy if ok else None,
        "macro_f1": accuracy if ok else None,
        "source_accuracy": source if ok else None,
        "source_macro_f1": source if ok else None,
        "n_windows": 100,
        "adapt_seconds": 0.5,
        "status": status,
    }
    return ResultRow(**data | more)


def cohort(users=6, methods=METHODS):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(users):
        source = 0.5 + 0.4 * i / users
        for protocol in ("transductive", "inductive"):
            for method in methods:
                gain = 0.0 if method in ("source_only", "emgup_bnfrozen") else 0.05 + rng.normal(0, 0.04)
                rows.append(row(f"user{i}", source + gain, source, method, protocol, fold=i % 3))
    return rows


class Page(HTMLParser):
    """Elements, attributes and text of a page; refuses tags that do not match."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.stack, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(html)
        self.close()
        assert self.stack == [], f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


KNOWN_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "details", "summary"),
    *("h1", "h2", "h3", "h4", "p", "b", "a", "br", "code", "pre", "small", "span", "div", "dl", "dt", "dd"),
    *("table", "thead", "tbody", "tfoot", "tr", "th", "td"),
    *("svg", "g", "line", "circle", "rect", "polygon", "text"),
}


def make(tmp_path, rows, confusions=None, **more):
    path = write_report(tmp_path, rows, confusions or {}, **more)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert set(page.tags) <= KNOWN_TAGS
    # Nothing is loaded from anywhere, and nothing runs.
    assert "://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert not [a for a in page.attributes if a[1] in ("src", "srcset", "data", "action") or a[1].startswith("on")]
    assert all(value.startswith("#") for _, key, value in page.attributes if "href" in key)
    words = page.text.lower().split()
    assert not {"nan", "none,", "inf", "undefined", "null"} & set(words)
    return page


def test_complete_run(tmp_path):
    rows = cohort()
    before = np.array([[0.8, 0.2], [0.3, 0.7]])
    after = np.array([[0.9, 0.1], [0.1, 0.9]])
    info = RunInfo(
        title="demo", command="emgup simulate demo.yaml", version="0.1", commit="abc123", date="today", device="cpu",
        gestures=("fist", "open hand"), experiment="name: demo",
    )  # fmt: skip
    confusions = {(m, "inductive", "balanced"): (before, after) for m in METHODS}
    page = make(tmp_path, rows, confusions, info=info, confusion_users={("adabn", "inductive", "balanced"): 6})
    for shown in ("demo", "emgup simulate demo.yaml", "abc123", "today", "6 users", "3 subject-disjoint folds"):
        assert shown in page.text
    for method in ("Source Only", "AdaBN", "EMG-UP as published", "EMG-UP, no gradient step"):
        assert method in page.text
    assert "never crossed the wire" in page.text
    assert "fist" in page.text
    assert "No cell failed or is missing" in page.text
    assert page.tags.count("svg") >= 2 * 5 + 2 * 4 + 4  # forest rows, per-user panels, matrices


def test_same_input_same_bytes(tmp_path):
    rows = cohort()
    first = write_report(tmp_path, rows, {}).read_bytes()
    assert write_report(tmp_path, rows[::-1], {}).read_bytes() == first


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'onmouseover='alert(1)",
    "</title></svg></style><iframe>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; ünïcode 手",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(tmp_path, name):
    rows = [
        row(name, 0.4, 0.9, method=name, protocol=name, scenario=name, dataset=name, backbone=name),
        row(name, 0.5, 0.9, method="adabn", protocol=name, scenario=name, dataset=name, backbone=name),
        row("b", method=name, protocol=name, scenario=name, dataset=name, backbone=name, status=name),
    ]
    info = RunInfo(
        title=name, command=name, version=name, commit=name, device=name, experiment=name, gestures=(name, name)
    )
    matrix = np.array([[1.0, 0.0], [0.5, 0.5]])
    page = make(tmp_path, rows, {(name, name, name): (matrix, matrix)}, info=info, notes=[name])
    assert page.text.count(" ".join(name.split())) >= 8  # shown as it is, nowhere interpreted


def test_failed_and_missing_cells_are_listed(tmp_path):
    rows = [row("a"), row("b", status="timeout"), row("a", method="source_only"), row("b", method="source_only")]
    rows.append(row("c", method="source_only"))
    page = make(tmp_path, rows)
    assert "2 cells of 6 have no score" in page.text
    assert "missing: 1" in page.text
    assert "timeout: 1" in page.text
    assert "1/3" in page.text
    assert "Cells without a score: 2" in page.text


def test_every_cell_failed(tmp_path):
    page = make(tmp_path, [row(u, status="data_error", method=m) for u in "ab" for m in METHODS])
    assert "10 cells of 10 have no score" in page.text
    assert "0 of 2 users of cohort tested" in page.text
    assert "0/2" in page.text
    assert "What the gradient steps add" not in page.text


def test_one_user(tmp_path):
    page = make(tmp_path, cohort(users=1))
    assert "1 user of cohort" in page.text
    assert "too few for an interval" in page.text


def test_no_rows(tmp_path):
    assert "no results yet" in make(tmp_path, []).text


def test_many_users_get_the_whole_width(tmp_path):
    page = make(tmp_path, cohort(users=90, methods=("source_only", "adabn")))
    assert ("div", "class", "grid wide") in page.attributes


def test_two_datasets_are_kept_apart(tmp_path):
    rows = [row("a"), row("a", dataset="other")]
    page = make(tmp_path, rows, {("adabn", "inductive", "balanced"): (np.eye(2), np.eye(2))})
    assert "Methods · cohort, cnn" in page.text
    assert "Methods · other, cnn" in page.text
    assert "Which gestures" not in page.text  # the matrices name no dataset


def test_a_gesture_nobody_performed(tmp_path):
    matrix = np.array([[0.5, 0.5, 0.0], [np.nan] * 3, [0.0, 0.0, 1.0]])
    page = make(tmp_path, [row("a")], {("adabn", "inductive", "balanced"): (matrix, matrix)})
    assert "no test window of gesture 1" in page.text
    assert "mean recall over gestures 75.0 → 75.0 %" in page.text
    empty = np.full((2, 2), np.nan)
    make(tmp_path, [row("a")], {("adabn", "inductive", "balanced"): (empty, empty)})


def folded(html):
    """The parts of a page that open on a click, as (what is clicked, content)."""
    return re.findall(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", html, re.DOTALL)


def test_scenarios_have_tables_of_their_own_and_folded_figures(tmp_path):
    rows = [r.model_copy(update={"scenario": s}) for s in ("balanced", "short") for r in cohort()]
    matrices = {
        (m, p, s): (np.eye(2), np.eye(2))
        for m in METHODS
        for p in ("transductive", "inductive")
        for s in ("balanced", "short")
    }
    page = make(tmp_path, rows, matrices)
    names = ("transductive", "transductive · short", "inductive", "inductive · short")
    assert ", ".join(names) in page.text
    assert "tested on the other half; the adapting windows are 30 s" in page.text
    assert page.tags.count("table") == 8  # methods, and accuracy of every user
    assert "inductive · short: as published" in page.text
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    figures = [(name, content) for name, content in folded(html) if "<svg" in content]
    assert len(figures) == 4
    for name, content in figures:
        assert name.split("<")[0] in ("transductive · short", "inductive · short")
        assert content.count("<svg") == len(METHODS) - 1
    assert len(re.findall('<svg[^>]*class="plot"', html)) == len(re.findall('<svg[^>]*class="heat"', html)) == 16


def test_emgup_against_each_yardstick(tmp_path):
    assert "against each yardstick" not in make(tmp_path, cohort()).text
    page = make(tmp_path, cohort(methods=("source_only", "adabn", "emgup")))
    assert page.text.count("against each yardstick") == 2
    assert ("table", "class", "against") in page.attributes


def test_harm_is_told_per_run_with_what_the_runs_differ_in(tmp_path):
    rows = [row("a", 0.9), row("a", 0.5, seed=1), row("b", 0.9), row("b", 0.9, seed=1)]
    page = make(tmp_path, rows)
    assert "−20.0 a 0/1" in page.text  # the worst single run; the mean over a's runs loses nothing
    assert "25 % 50 %" in page.text
    assert "mean +10.0; 1 of 2 users ever worse by >1" in page.text
    assert "2 runs per user" in page.text
    assert "2 seeds of draw and adaptation, one source training: the spread of training new source" in page.text
    assert "Largest loss" not in page.text
    more = [*rows, *(r.model_copy(update={"source_seed": 5}) for r in rows)]
    assert "2 seeds of draw and adaptation, 2 source trainings" in make(tmp_path, more).text


def test_a_comparison_has_one_place_and_its_family_a_name(tmp_path):
    rows = [r for r in cohort(methods=("source_only", "adabn", "shot", "emgup")) if r.protocol == "inductive"]
    rows[-1] = row(rows[-1].user, method="emgup", fold=rows[-1].fold, status="timeout")
    page = make(tmp_path, rows)
    assert "Holm family: the 3 comparisons with Source Only given here" in page.text
    assert "Holm family: the 1 comparison with AdaBN given here" in page.text
    assert "Holm family: the 2 comparisons with emgup given here" in page.text
    against = page.text.split("emgup against each yardstick")[1].split("Holm family")[0]
    assert "Source Only" not in against
    assert against.count("5 (1 dropped)") == 2


def test_users_without_the_protocol_are_named(tmp_path):
    rows = [row("a"), row("zoe"), row("a", protocol="later_sessions")]
    assert "No cell of this protocol exists for 1 user of the run: zoe" in make(tmp_path, rows).text


def test_repeated_cell_writes_nothing(tmp_path):
    with pytest.raises(RunError, match="two results for one cell"):
        write_report(tmp_path, [row("a"), row("a")], {})
    assert list(tmp_path.iterdir()) == []
