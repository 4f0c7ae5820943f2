"use strict";
// The chosen image: its picture and facts, its neighbors, and what other jobs made of it.

class Panel {
  constructor(map, filters, pictures, choose) {
    Object.assign(this, { map, filters, pictures, choose, box: document.getElementById("panel") });
    this.rows = new Map();
  }

  async row(point) {
    const chunk = Math.floor(point / this.map.chunk);
    if (!this.rows.has(chunk)) this.rows.set(chunk, load(`rows/${chunk}`));
    return (await this.rows.get(chunk))[point % this.map.chunk];
  }

  hide() {
    this.box.hidden = true;
    this.point = null;
  }

  async show(point, name) {
    this.point = point;
    const row = await this.row(point);
    if (this.point !== point) return null; // another one was chosen meanwhile
    this.box.replaceChildren(
      this._head(name),
      element("img", { src: row.picture, alt: name, className: "picture" }),
      this._facts(point, row),
      ...this._near("Neighbors", row.neighbors, row.distances),
      ...row.jobs.map((job) => this._job(job, name)),
      ...(row.pixels ? this._near("Nearest by pixels", row.pixels) : []),
    );
    this.box.hidden = false;
    this.box.scrollTop = 0;
    return row;
  }

  _head(name) {
    const close = element("button", { type: "button", className: "plain", textContent: "✕", ariaLabel: "Close" });
    close.addEventListener("click", () => this.choose(null));
    return element("header", {}, element("h2", {}, named(name)), close);
  }

  _facts(point, row) {
    const list = element("dl");
    const add = (title, ...value) => list.append(element("div", {}, element("dt", { textContent: title }), element("dd", {}, ...value)));
    const [label, prediction] = ["label", "prediction"].map((one) => this.filters.word(one, point));
    const verdict = this.filters.word("verdict", point);
    const probability = this.map.probability[point];
    if (prediction !== null) add("Predicted", named(prediction), probability === probability ? ` ${percent(probability)}` : "");
    if (label !== null) add("Label", named(label), verdict ? element("span", { className: `mark ${verdict}`, textContent: verdict === "right" ? " ✓ right" : " ✗ wrong" }) : "");
    if (row.size[0]) add("Size", `${row.size[0]} × ${row.size[1]}`);
    add("File", named(row.uri));
    return list;
  }

  _near(title, points, distances) {
    const list = element("ol", { className: "near" });
    points.forEach((point, place) => {
      const box = element("span", { className: "small" });
      this.pictures.dress(box, point, 72);
      const far = distances ? distances[place].toPrecision(3) : "";
      const button = element("button", { type: "button" }, box, element("span", { className: "far", textContent: far }));
      button.title = this.filters.titles?.[point] ?? "";
      button.setAttribute("aria-label", `${this.filters.titles?.[point] ?? point}${far && `, distance ${far}`}`);
      button.addEventListener("click", () => this.choose(point));
      list.append(element("li", {}, button));
    });
    const metric = distances && this.map.metric ? `${this.map.metric} distance` : "";
    const heading = element("h3", {}, `${title} `, element("span", { className: "quiet", textContent: metric }));
    return [heading, points.length ? list : element("p", { className: "quiet", textContent: "none" })];
  }

  _job(job, name) {
    const title = element("h3", {}, named(job.name));
    if (job.target) title.append(element("span", { className: "quiet" }, " ", named(job.target)));
    const pictures = job.pictures.map((source, place) => element("img", { src: source, alt: `${job.name} of ${name}${place ? ", overlaid" : ""}` }));
    const failed = job.status === "ok" ? [] : [element("p", { className: "failed" }, element("code", { textContent: job.status }), " ", named(job.error ?? ""))];
    return element("section", { className: "job" }, title, ...failed, element("div", { className: "pair" }, ...pictures));
  }
}
