"use strict";
// The report's browser of texts.  What models wrote only ever becomes textContent.
(() => {
  const told = JSON.parse(document.getElementById("texts-data").textContent);
  const place = Object.fromEntries(told.facets.map((name, n) => [name, n]));
  const [SEED, DOSE, TOKENS, PROMPT, TEXT] = [0, 1, 2, 3, 4].map((n) => told.facets.length + n);
  const AT_ONCE = 30;
  const byId = (id) => document.getElementById(id);
  const list = byId("texts-list"), count = byId("texts-count"), more = byId("texts-more"), search = byId("texts-search");
  const filters = [...document.querySelectorAll("#texts select")];
  const hidden = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
  const spelled = (text) => text.replace(hidden, (c) =>
    c === "\n" || c === "\t" ? c : "\u27e8U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9");
  const make = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text) made.textContent = text;
    return made;
  };
  const name = (row, facet) => told.names[facet][row[place[facet]]];

  const card = (row) => {
    const made = make("article", "", "card");
    made.tabIndex = -1;
    const head = make("header");
    const stage = name(row, "stage");
    head.append(make("b", name(row, "arm")), ` ${stage} ${row[DOSE]}, seed ${row[SEED]}`);
    const where = [name(row, "probe"), name(row, "item"), name(row, "persona"), name(row, "slot")].filter(Boolean);
    head.append(make("span", where.join(" \u00b7 "), "where"));
    const said = make("p", spelled(row[TEXT]), "said");
    said.dir = "auto";
    const foot = make("p", "", "note");
    const outcome = name(row, "outcome"), finish = name(row, "finish");
    const parts = [finish && `ended by ${finish}`, row[TOKENS] >= 0 && `${row[TOKENS]} tokens`].filter(Boolean);
    foot.textContent = parts.join(", ");
    if (outcome !== "ok") foot.append(make("b", `${parts.length ? "; " : ""}${outcome}`));
    const prompt = make("details");
    const asked = make("p", "", "said mono");
    asked.dir = "auto";
    prompt.append(make("summary", "prompt"), asked);
    prompt.addEventListener("toggle", () => { asked.textContent = spelled(told.prompts[row[PROMPT]]); }, { once: true });
    made.append(head, said, foot, prompt);
    return made;
  };

  let found = told.rows, shown = 0;
  const show = () => {
    const part = found.slice(shown, shown + AT_ONCE).map(card);
    shown += part.length;
    list.append(...part);
    more.hidden = shown >= found.length;
    count.textContent = `${found.length} of ${told.rows.length} texts, ${shown} shown`;
    return part[0];
  };
  const low = told.prompts.map((text) => text.toLowerCase());
  const choose = () => {
    const wanted = filters.filter((f) => f.value !== "").map((f) => [place[f.dataset.facet], Number(f.value)]);
    const word = search.value.trim().toLowerCase();
    found = told.rows.filter((row) =>
      wanted.every(([n, value]) => row[n] === value) &&
      (word === "" || row[TEXT].toLowerCase().includes(word) || low[row[PROMPT]].includes(word)));
    shown = 0;
    list.replaceChildren();
    show();
  };

  for (const filter of filters) {
    const names = told.names[filter.dataset.facet].map((text, n) => [text === "" ? "(none)" : text, n]);
    for (const [text, n] of names) {
      const option = make("option", text);
      option.value = String(n);
      filter.append(option);
    }
    filter.addEventListener("change", choose);
  }
  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(choose, 120); });
  more.addEventListener("click", () => { const first = show(); if (first) first.focus(); });
  byId("texts-clear").addEventListener("click", () => {
    for (const filter of filters) filter.value = "";
    search.value = "";
    choose();
    search.focus();
  });
  choose();
  byId("texts").hidden = false;
})();
