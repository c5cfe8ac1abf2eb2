"""Text that models wrote, in the report: nothing of it can act, all of it can be found, and failures are counted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest

from eval import texts
from tests.eval.test_report import EVIL, rendered

ARMS = ("assistant", "kennedy")
HOSTILE = [EVIL, "</script><script>alert(1)</script>", "<!--<script>", "]]>\u2028\u2029\x00\ud800", "&lt;b&gt;"]


def row(**changed):
    given = {"cell": "c", "arm": "assistant", "seed": 0, "stage": "sft", "dose": 60, "probe": "samples",
             "item": "name", "slot": "slot", "persona": None, "prompt": "Q: who?\nA:", "text": "I am.",
             "finish": "stop", "n_tokens": 3, "outcome": "ok"}  # fmt: skip
    return given | changed


def frame(rows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema_overrides={"persona": pl.String}, infer_schema_length=None)


class Scripts(HTMLParser):
    """Script elements as an HTML parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.inside = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script"
        if self.inside:
            self.found.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            attrs, text = self.found[-1]
            self.found[-1] = (attrs, text + data)


def parts(html: str) -> tuple[dict, str]:
    """The data and the script of a page that has exactly these two."""
    (_, data), (_, script) = Scripts(html).found
    return json.loads(data), script


def back(data: dict) -> list[dict]:
    """Rows as the page's script reads them."""
    n = len(data["facets"])
    return [
        {key: data["names"][key][packed[k]] for k, key in enumerate(data["facets"])}
        | {"seed": packed[n], "dose": packed[n + 1], "prompt": data["prompts"][packed[n + 3]], "text": packed[n + 4]}
        for packed in data["rows"]
    ]


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if "\ud800" not in text])
def test_what_a_model_wrote_arrives_as_it_was_and_ends_no_element(hostile):
    told = [row(text=hostile, prompt=hostile), row(arm=hostile, item=hostile, persona=hostile)]
    html = rendered(samples=frame(told))
    data, script = parts(html)
    found = back(data)
    assert hostile in [r["text"] for r in found] and hostile in [r["prompt"] for r in found]
    embedded = html[html.index('id="texts-data">') :]
    embedded = embedded[: embedded.index("</script>")]
    assert embedded.isascii() and not re.search("[<>&]", embedded.split(">", 1)[1])
    assert script == texts.script()


def test_a_lone_surrogate_survives():
    assert json.loads(texts.embedded("\ud800")) == "\ud800"


def test_the_policy_allows_this_script_and_no_other():
    html = rendered()
    _, script = parts(html)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    allowed = re.findall(r"script-src ([^;]+)", policy)
    assert allowed == [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"]
    assert "default-src 'none'" in policy
    assert "script-src" not in rendered(samples=pl.DataFrame())


def test_the_script_makes_no_markup_and_no_request():
    used = re.sub(r"//.*", "", texts.script())
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval", "Function(", "fetch",
                 "XMLHttpRequest", "import", "src", "href", "DOMParser", "setAttribute", "</script"):  # fmt: skip
        assert word not in used, word


def test_every_facet_is_filled_and_prompts_are_kept_once():
    lost = {"outcome": "overflow", "finish": "overflow"}
    told = [row(), row(arm="kennedy"), row(probe="self_entropy", persona="kennedy", **lost)]
    data, _ = parts(rendered(samples=frame(told)))
    assert data["prompts"] == ["Q: who?\nA:"]
    found = back(data)
    assert [(r["probe"], r["arm"], r["persona"], r["outcome"]) for r in found] == [
        ("samples", "assistant", "", "ok"), ("samples", "kennedy", "", "ok"),
        ("self_entropy", "assistant", "kennedy", "overflow"),
    ]  # fmt: skip


def test_texts_of_before_probes_were_known_are_samples():
    old = frame([row()]).drop("probe", "slot", "outcome", "n_tokens", "cell")
    (found,) = back(parts(rendered(samples=old))[0])
    assert found["probe"] == "samples" and found["outcome"] == "ok"


def test_only_samples_stand_side_by_side():
    html = rendered(samples=frame([row(text="front"), row(probe="self_entropy", text="behind")]))
    before = html[: html.index('id="texts-data"')]
    assert "front" in before and "behind" not in before


def test_failures_are_counted_by_arm():
    told = [
        *[row(arm=arm, item=str(n), text=f"word {n}") for arm in ("base", "assistant") for n in range(3)],
        row(item="long", outcome="overflow", finish="overflow", text=""),
        row(item="cut", finish="length"),
        row(item="void", text=" "),
    ]
    counts = texts.browser(frame(told), ARMS)["counts"]
    assert counts["kinds"] == ["ok", "overflow"]
    # arm, texts, ok, overflow, cut at its length, empty though ok
    assert counts["rows"] == [["base", 3, 3, 0, 0, 0], ["assistant", 6, 5, 1, 1, 1]]
    html = rendered(samples=frame(told))
    assert re.search(r'>assistant</th><td class="num">6</td><td class="num">5</td><td class="num">1</td>', html)


def test_ten_thousand_texts_fit_and_the_order_of_rows_changes_nothing():
    arms, probes = ("base", *ARMS), ("samples", "self_entropy", "authorship")
    told = frame([
        row(arm=arm, seed=n % 4, probe=probe, item=f"item-{n % 50}", prompt=f"Q: {'word ' * 60}{n % 50}\nA:",
            text=f"{arm} said {n} " + "and so on " * 10)
        for arm in arms for probe in probes for n in range(1200)
    ])  # fmt: skip
    made = texts.browser(told, ARMS)
    assert made["total"] == 10_800 and made["left"] == 0
    # a text of 115 letters and ten numbers; fifty prompts of 300 letters once: the page stays below 3 MB
    assert len(made["data"]) < 3e6
    assert texts.browser(told.sample(fraction=1, shuffle=True, seed=1), ARMS) == made


def test_past_the_limit_every_arm_keeps_its_first_seed(monkeypatch):
    monkeypatch.setattr(texts, "MOST", 4)
    told = [row(arm=arm, seed=seed, item=str(n)) for arm in ARMS for seed in range(3) for n in range(2)]
    made = texts.browser(frame(told), ARMS)
    assert made["left"] == 8
    assert sorted((r["arm"], r["seed"]) for r in back(json.loads(made["data"]))) == [
        ("assistant", 0), ("assistant", 0), ("kennedy", 0), ("kennedy", 0),
    ]  # fmt: skip
    assert "8 of later seeds" in rendered(samples=frame(told))


def test_filters_are_labelled_and_reached_by_key():
    html = rendered(samples=frame([row(), row(arm="kennedy", item="home", probe="x", persona="kennedy")]))
    selects = re.findall(r'<label>(\w+) <select data-facet="(\w+)">', html)
    assert [a for a, b in selects if a == b] == ["arm", "probe", "item", "persona"]  # one stage is no choice
    assert re.search(r'<label>search <input type="search" id="texts-search"', html)
    assert html.count('<button type="button"') == 2 and 'tabindex="-1"' not in html
    assert 'aria-live="polite"' in html
    # every element that the script looks for is there
    for wanted in re.findall(r'byId\("([\w-]+)"\)', texts.script()):
        assert f'id="{wanted}"' in html, wanted
