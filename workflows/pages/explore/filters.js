"use strict";
// What is colored how, and what is left out: facets are columns of words, chosen by chips; names are searched.

// Told apart by color-blind readers too: Okabe, Ito, Color Universal Design, 2008.
const PALETTE = [[230, 159, 0], [86, 180, 233], [0, 158, 115], [204, 121, 167], [0, 114, 178], [213, 94, 0], [240, 228, 66]];
const OTHERS = [138, 143, 150];
const VERDICTS = { right: [0, 158, 115], wrong: [213, 94, 0] };
// Cividis: Nuñez, Anderton, Renslow, 2018.
const CIVIDIS = [[0, 34, 78], [66, 78, 108], [123, 123, 120], [185, 171, 111], [254, 232, 56]];
const LISTED = 20, FOUND = 200;

class Filters {
  constructor(map, changed) {
    Object.assign(this, { map, changed: () => {}, query: "", names: null });
    this.facets = map.facets.map((facet) => ({ ...facet, codes: numbers(facet.codes, Uint32Array), chosen: new Set(), search: "" }));
    this.by = this.facets[0]?.name ?? "nothing";
    this.visible = new Uint8Array(map.count).fill(1);
    this.colors = new Uint8Array(4 * map.count);
    this._build();
    this.update();
    this.changed = changed;
  }

  _build() {
    const select = document.getElementById("color");
    const probable = this.map.probability.some((value) => value === value);
    for (const name of [...this.facets.map((facet) => facet.name), ...(probable ? ["probability"] : []), "nothing"]) {
      select.append(element("option", { value: name, textContent: name }));
    }
    select.value = this.by;
    select.addEventListener("change", () => {
      this.by = select.value;
      this.update();
    });
    document.getElementById("clear").addEventListener("click", () => this.clear());
    for (const facet of this.facets) {
      facet.list = element("div", { className: "chips" });
      const parts = [element("h2", { textContent: facet.name }), facet.list];
      if (facet.values.length > LISTED) {
        const search = element("input", { type: "search", placeholder: `one of ${facet.values.length.toLocaleString("en")}`, ariaLabel: `Search ${facet.name}` });
        search.addEventListener("input", () => {
          facet.search = search.value.toLowerCase();
          this._chips(facet);
        });
        parts.splice(1, 0, search);
      }
      const group = element("section", {}, ...parts);
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", facet.name);
      document.getElementById("facets").append(group);
    }
  }

  // The chosen values first, then the most frequent ones that the search finds.
  _chips(facet) {
    const focused = facet.list.contains(document.activeElement) ? document.activeElement.dataset.code : null;
    const codes = facet.search ? facet.values.flatMap((value, code) => (value.toLowerCase().includes(facet.search) ? [code] : [])) : [...facet.values.keys()];
    const listed = [...new Set([...facet.chosen, ...codes.slice(0, facet.search ? FOUND : LISTED)])];
    facet.list.replaceChildren(
      ...listed.map((code) => {
        const dot = element("i", { className: "dot" });
        if (this.by === facet.name) dot.style.background = `rgb(${this.colorOf(facet, code)})`;
        const chip = element("button", { type: "button" }, dot, named(facet.values[code]), element("b", { textContent: facet.counts[code].toLocaleString("en") }));
        chip.dataset.code = code;
        chip.setAttribute("aria-pressed", facet.chosen.has(code));
        chip.addEventListener("click", () => {
          if (!facet.chosen.delete(code)) facet.chosen.add(code);
          this.update();
        });
        return chip;
      }),
    );
    if (focused !== null) facet.list.querySelector(`[data-code="${focused}"]`)?.focus();
  }

  clear() {
    for (const facet of this.facets) facet.chosen.clear();
    this.search("");
    document.getElementById("search").value = "";
  }

  search(text) {
    this.query = text.trim().toLowerCase();
    this.update();
  }

  get active() {
    return Boolean(this.query) || this.facets.some((facet) => facet.chosen.size);
  }

  colorOf(facet, code) {
    const verdict = facet.name === "verdict" && VERDICTS[facet.values[code]];
    if (verdict) return verdict;
    if (facet.values[code] === "none") return OTHERS;
    return PALETTE[facet.ranks.get(code)] ?? OTHERS;
  }

  // The colors go to the chosen values, or else to the most frequent ones.
  _rank(facet) {
    const codes = facet.chosen.size ? [...facet.chosen] : [...facet.values.keys()];
    facet.ranks = new Map(codes.slice(0, PALETTE.length).map((code, rank) => [code, rank]));
  }

  update() {
    const { count } = this.map;
    const { visible } = this;
    visible.fill(1);
    for (const facet of this.facets) {
      this._rank(facet);
      if (facet.chosen.size) for (let i = 0; i < count; i++) visible[i] &= facet.chosen.has(facet.codes[i]) ? 1 : 0;
    }
    if (this.query && this.names) for (let i = 0; i < count; i++) visible[i] &= this.names[i].includes(this.query) ? 1 : 0;
    for (const facet of this.facets) this._chips(facet);
    this._paint();
    const shown = visible.reduce((sum, one) => sum + one, 0);
    document.getElementById("shown").textContent = this.active ? `${shown.toLocaleString("en")} of ${count.toLocaleString("en")} shown` : "";
    document.getElementById("clear").hidden = !this.active;
    this.changed();
  }

  _paint() {
    const facet = this.facets.find((one) => one.name === this.by);
    const table = facet?.values.map((_, code) => this.colorOf(facet, code));
    for (let i = 0; i < this.map.count; i++) {
      const color = facet ? table[facet.codes[i]] : this.by === "probability" ? between(this.map.probability[i]) : OTHERS;
      this.colors.set(color, 4 * i);
      this.colors[4 * i + 3] = 235;
    }
  }

  color(point) {
    return `rgb(${this.colors.subarray(4 * point, 4 * point + 3).join(",")})`;
  }

  word(name, point) {
    const facet = this.facets.find((one) => one.name === name);
    const value = facet?.values[facet.codes[point]];
    return value === undefined || value === "none" ? null : value;
  }
}

function between(share) {
  if (!(share >= 0)) return OTHERS;
  const place = Math.min(share, 0.9999) * (CIVIDIS.length - 1);
  const [low, part] = [Math.floor(place), place % 1];
  return CIVIDIS[low].map((value, channel) => Math.round(value + part * (CIVIDIS[low + 1][channel] - value)));
}
