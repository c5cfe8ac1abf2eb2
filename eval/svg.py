"""A matplotlib figure as an inline SVG element: colours that follow the page's theme, ids of its own, real text."""

from __future__ import annotations

import csv
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# token -> (light, dark): Okabe-Ito hues, darkened or lightened until they read on their ground.  Figures are drawn
# in the light values, which are all different, and then named, so that the page's CSS decides.
TOKENS = {
    "ink": ("#1b2430", "#e6eaf0"),
    "soft": ("#5a6675", "#a3aebc"),
    "line": ("#d6dbe2", "#39424e"),
    "band": ("#e6ebf2", "#2a323d"),
    "paper": ("#fdfdfc", "#14181e"),
    "v-broken": ("#c44900", "#ff8f55"),
    "v-symmetric": ("#00785a", "#41cfa0"),
    "v-undetermined": ("#667284", "#aab5c3"),
    "v-insensitive": ("#77818d", "#8a94a0"),
    "v-saturated": ("#a0408a", "#e38fce"),
    "v-no-overlap": ("#2f7fb3", "#79bdec"),
    "arm0": ("#0067ab", "#62b0ee"),
    "arm1": ("#bd7b00", "#efb23f"),
    "arm2": ("#9a4d9c", "#d596d8"),
    "arm3": ("#138070", "#4fc4b2"),
    "arm4": ("#a9425b", "#ee8ba2"),
    "arm5": ("#6b5b1e", "#c9b768"),
}


@dataclass(frozen=True)
class Drawn:
    """A figure: its name (id and file name), the SVG element, and the plotted numbers as CSV text."""

    name: str
    svg: str
    csv: str


def tone(token: str) -> str:
    """The light value of a colour token, in which figures are drawn."""
    return TOKENS[token][0]


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with the floats in full; a text that a spreadsheet would run as a formula is quoted with an apostrophe."""
    rows = list(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if rows:
        writer.writerow(rows[0].keys())
    for row in rows:
        writer.writerow([f"'{v}" if isinstance(v, str) and v[:1] in tuple("=+-@\t\r") else v for v in row.values()])
    return out.getvalue()


def style(name: str) -> Any:
    """The matplotlib settings of a figure; `name` salts its ids, so that they never change."""
    import matplotlib

    # no mathtext: a persona id may hold a dollar sign
    return matplotlib.rc_context(
        {
            "svg.hashsalt": name,
            "svg.fonttype": "none",
            "text.parse_math": False,
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 12,
            "axes.labelsize": 11,
            "axes.titlesize": 12,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "axes.unicode_minus": True,
            "axes.linewidth": 1,
        }
    )


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The SVG element of a figure: colours named, ids made its own, metadata dropped, title and description added."""
    out = io.StringIO()
    with style(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the measuring font lacks is drawn by the reader's own
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    space = "{http://www.w3.org/2000/svg}"
    ET.register_namespace("", space[1:-1])
    root = ET.fromstring(out.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{space}metadata", f"{space}style"):  # its style rule would reach the whole page
                parent.remove(child)
    link = "{http://www.w3.org/1999/xlink}href"
    names = {light: f"var(--{token}, {light})" for token, (light, _) in TOKENS.items()}
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set("id", f"{name}-{value}")
            elif key == link:
                del element.attrib[link]
                element.set("href", f"#{name}-{value[1:]}")
            elif key in ("style", "fill", "stroke", "clip-path"):
                value = re.sub(r"#[0-9a-f]{6}\b", lambda m: names.get(m[0], m[0]), value)
                value = re.sub(r"font-family: [^;]*", "font-family: var(--sans, sans-serif)", value)
                element.set(key, value.replace("url(#", f"url(#{name}-"))
    view = root.get("viewBox", "0 0 100 100").split()
    root.attrib.update({"width": view[2], "height": view[3], "stroke-linejoin": "round", "role": "img"})
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(space + tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode")
