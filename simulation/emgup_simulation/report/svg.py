"""The few SVG elements the figures need. Text and attributes are escaped; coordinates are in CSS pixels."""

from __future__ import annotations

from markupsafe import Markup, escape


def el(tag: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element. Plain strings are escaped, `Markup` is not; ``aria_label`` becomes aria-label, ``class_`` class."""
    shown = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{tag}{shown}>{inner}</{tag}>") if inner else Markup(f"<{tag}{shown}/>")


def figure(width: float, height: float, label: str, *children: Markup, **attributes: object) -> Markup:
    """An ``<svg>`` that scales with its container and is read out as ``label``."""
    view = f"0 0 {_number(width)} {_number(height)}"
    return el("svg", *children, viewBox=view, width=width, height=height, role="img", aria_label=label, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start", **attributes: object) -> Markup:
    """A line of text; ``anchor`` is start, middle or end."""
    return el("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor, **attributes)


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
