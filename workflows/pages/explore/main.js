"use strict";

const MARGIN = 140; // CSS pixels that are drawn beyond the stage, so that it can be moved without drawing
const SLOW = 25; // milliseconds from frame to frame beyond which moving draws nothing
const get = (id) => document.getElementById(id);

class Page {
  constructor(map) {
    this.map = map;
    this.stage = get("stage");
    this.views = views(map);
    this.point = null;
    this.row = null;
    this.context = get("over").getContext("2d");
    this.scatter = Scatter.on(get("points"));
    this.pictures = new Pictures(map, () => this.touch());
    this.filters = new Filters(map, () => this.painted());
    this.panel = new Panel(map, this.filters, this.pictures, (point) => this.choose(point));
    this.describe();
    this.listen();
    this.painted();
    this.look("map");
    this.trials = 5; // drawings whose times tell whether drawing is slow here, before anything moves
    new ResizeObserver(() => this.resize()).observe(this.stage);
  }

  // What is seen

  look(name) {
    this.view = name;
    this.camera = this.views[name].camera ?? null;
    for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === name);
    this.stage.setAttribute("aria-label", name === "grid" ? "Grid of the images" : "Map of the images");
    this.scatter?.place(this.views[name]);
    if (!this.camera) this.fit();
    if (this.point !== null) this.reveal(this.point);
    this.resize();
  }

  fit() {
    const view = this.views[this.view];
    this.camera = view.camera = new Camera();
    const covered = get("filters").hidden || this.stage.clientWidth < 800 ? 0 : get("filters").offsetWidth + 12;
    this.camera.fit(view.bounds, Math.max(this.stage.clientWidth - covered, 1), Math.max(this.stage.clientHeight, 1));
    this.camera.pan(covered / 2, 0);
  }

  resize() {
    this.width = this.stage.clientWidth;
    this.height = this.stage.clientHeight;
    this.density = Math.min(devicePixelRatio || 1, 2);
    const [width, height] = [this.width + 2 * MARGIN, this.height + 2 * MARGIN];
    for (const canvas of [get("points"), get("over")]) {
      canvas.width = width * this.density;
      canvas.height = height * this.density;
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    this.draw();
  }

  painted() {
    this.scatter?.paint(this.filters.colors, this.filters.visible);
    this.mask = null;
    if (this.width) this.touch();
  }

  // Draws at the next frame.
  touch() {
    this.stale = true;
    this.ask();
  }

  ask() {
    get("tip").hidden = true; // what it tells of may move
    this.asked ??= requestAnimationFrame((now) => {
      this.asked = null;
      this.time(now);
      this.frame();
    });
  }

  // Drawing is slow where three frames of one movement, each drawn anew, came late.
  time(now) {
    const gap = now - (this.before ?? 0);
    this.before = now;
    if (gap < 400) this.late = gap > SLOW ? (this.late ?? 0) + 1 : 0;
    this.slow ||= this.late >= 3;
  }

  // Where drawing is slow, what is drawn is moved, and drawn anew once nothing moves or its border is reached.
  frame() {
    if (!this.drawn || this.stale || !this.slow) return this.draw();
    const { camera, drawn } = this;
    const scale = camera.scale / drawn.scale;
    const [right, down] = [(drawn.x - camera.x) * camera.scale, (drawn.y - camera.y) * camera.scale];
    const room = (extent) => scale * (extent / 2 + MARGIN) - extent / 2;
    if (Math.abs(right) > room(this.width) || Math.abs(down) > room(this.height) || scale > 3) return this.draw();
    get("moved").style.transform = `translate(${right}px, ${down}px) scale(${scale})`;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.touch(), 250);
  }

  draw() {
    clearTimeout(this.rest);
    this.stale = false;
    get("moved").style.transform = "none";
    this.drawn = this.camera.copy();
    const grid = this.view === "grid";
    if (!grid) this.scatter?.draw(this.camera, this.size(), this.density);
    this.context.setTransform(this.density, 0, 0, this.density, 0, 0);
    this.context.clearRect(0, 0, this.width + 2 * MARGIN, this.height + 2 * MARGIN);
    (grid ? drawCells : drawThumbnails)(this);
    drawChosen(this);
    get("points").hidden = grid;
    get("over").hidden = !grid && !this.thumbnails.length && this.point === null; // one layer less to be moved
    if (this.trials-- > 0) this.touch();
    this.stage.dataset.frames = Number(this.stage.dataset.frames ?? 0) + 1;
  }

  // CSS pixels of a point.
  size() {
    const room = Math.sqrt((0.1 * this.width * this.height) / this.map.count);
    return Math.min(12, Math.min(8, Math.max(3, room)) * Math.max(1, (this.camera.scale / this.camera.least) ** 0.25));
  }

  // Returns a point's place on the canvases in CSS pixels.
  place(point) {
    const { x, y } = this.views[this.view];
    const { camera } = this;
    return [(x[point] - camera.x) * camera.scale + this.width / 2 + MARGIN, (y[point] - camera.y) * camera.scale + this.height / 2 + MARGIN];
  }

  // Returns the point at a place given from the middle of the stage, or null.
  at([right, down]) {
    const view = this.views[this.view];
    const [x, y] = [this.camera.x + right / this.camera.scale, this.camera.y + down / this.camera.scale];
    if (this.view === "grid") return view.owner.get(Math.floor(y) * this.map.columns + Math.floor(x)) ?? null;
    const thumbnail = this.thumbnails?.findLast((one) => Math.abs(one.x - x) * this.camera.scale < one.size / 2 && Math.abs(one.y - y) * this.camera.scale < one.size / 2);
    if (thumbnail) return thumbnail.point;
    let [best, least] = [null, (12 / this.camera.scale) ** 2];
    for (let i = 0; i < this.map.count; i++) {
      const far = (view.x[i] - x) ** 2 + (view.y[i] - y) ** 2;
      if (far < least && this.filters.visible[i]) [best, least] = [i, far];
    }
    return best;
  }

  // Returns the nearest visible point in a direction, or null.
  towards(point, right, down) {
    const { x, y } = this.views[this.view];
    let [best, least] = [null, Infinity];
    for (let i = 0; i < this.map.count; i++) {
      const [dx, dy] = [x[i] - x[point], y[i] - y[point]];
      const [along, across] = [dx * right + dy * down, Math.abs(dx * down) + Math.abs(dy * right)];
      if (along <= 0 || across > along || !this.filters.visible[i]) continue;
      const far = along + 2 * across;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  reveal(point) {
    const [x, y] = this.place(point).map((one) => one - MARGIN);
    const panel = get("panel"); // at the right, or, where the page is narrow, below
    const [right, below] = panel.hidden ? [0, 0] : innerWidth > 800 ? [panel.offsetWidth, 0] : [0, panel.offsetHeight];
    if (x > 40 && y > 40 && x < this.width - right - 40 && y < this.height - below - 40) return;
    const view = this.views[this.view];
    this.camera.x = view.x[point] + right / 2 / this.camera.scale;
    this.camera.y = view.y[point] + below / 2 / this.camera.scale;
  }

  async choose(point) {
    this.point = point;
    this.row = null;
    if (point === null) {
      this.panel.hide();
      this.stage.focus();
    } else {
      const row = await this.panel.show(point, this.titles?.[point] ?? `image ${point + 1}`);
      if (!row) return;
      this.row = row;
      this.reveal(point);
    }
    this.touch();
  }

  // What is asked for

  listen() {
    gestures(this.stage, {
      pan: (right, down) => (this.camera.pan(right, down), this.ask()),
      zoom: (factor, right, down) => (this.camera.zoom(factor, right, down), this.ask()),
      click: (place) => this.choose(this.at(place)),
      hover: (place) => this.hover(place),
    });
    for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => this.look(button.dataset.view));
    for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => this.zoom(Number(button.dataset.zoom)));
    get("filters-button").addEventListener("click", () => {
      get("filters").hidden = !get("filters").hidden;
      get("filters-button").setAttribute("aria-expanded", !get("filters").hidden);
    });
    if (innerWidth < 800) get("filters-button").click();
    get("about-button").addEventListener("click", () => get("about").showModal());
    get("search").addEventListener("input", () => this.search());
    get("search").addEventListener("keydown", (event) => event.key === "Enter" && get("results").querySelector("button")?.click());
    document.addEventListener("keydown", (event) => this.key(event));
    get("points").addEventListener("webglcontextlost", (event) => event.preventDefault());
    get("points").addEventListener("webglcontextrestored", () => {
      this.scatter = Scatter.on(get("points"));
      this.scatter.place(this.views[this.view]);
      this.painted();
    });
  }

  zoom(factor) {
    if (factor) this.camera.zoom(factor);
    else this.fit();
    this.ask();
  }

  hover(place) {
    const point = place && this.at(place);
    const tip = get("tip");
    tip.hidden = point === null || !this.titles;
    if (tip.hidden) return;
    const word = this.filters.word("prediction", point) ?? this.filters.word("label", point);
    tip.replaceChildren(named(this.titles[point]), ...(word === null ? [] : [element("span", { className: "quiet" }, " ", named(word))]));
    tip.style.transform = `translate(${Math.min(place[0] + this.width / 2 + 14, this.width - 260)}px, ${place[1] + this.height / 2 + 14}px)`;
  }

  search() {
    const text = get("search").value;
    this.filters.search(text);
    const found = [];
    for (let i = 0; text.trim() && i < this.map.count && found.length < 50; i++) if (this.filters.visible[i]) found.push(i);
    get("results").hidden = !found.length || !this.titles;
    get("results").replaceChildren(
      ...found.map((point) => {
        const button = element("button", { type: "button" }, named(this.titles?.[point] ?? ""));
        button.addEventListener("click", () => {
          get("results").hidden = true;
          this.choose(point);
          this.stage.focus();
        });
        return element("li", {}, button);
      }),
    );
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || get("about").open) return;
    if (event.key === "Escape") return this.escape();
    if (/^(INPUT|SELECT)$/.test(event.target.tagName)) return;
    const views = { m: "map", p: "pca", g: "grid" };
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
    if (event.key === "/") get("search").focus();
    else if (event.key in views) this.look(views[event.key]);
    else if (event.key in zooms) this.zoom(zooms[event.key]);
    else if (/^[1-9]$/.test(event.key) && this.row) this.step(this.row.neighbors[event.key - 1]);
    else if (event.key in ways && !event.target.closest("aside")) this.arrow(...ways[event.key]);
    else return;
    event.preventDefault();
  }

  arrow(right, down) {
    this.step(this.point === null ? this.central() : this.towards(this.point, right, down));
  }

  step(point) {
    if (point !== null && point !== undefined) this.choose(point);
  }

  // Returns the visible point nearest to the middle of the stage.
  central() {
    const { x, y } = this.views[this.view];
    let [best, least] = [null, Infinity];
    for (let i = 0; i < this.map.count; i++) {
      const far = (x[i] - this.camera.x) ** 2 + (y[i] - this.camera.y) ** 2;
      if (far < least && this.filters.visible[i]) [best, least] = [i, far];
    }
    return best;
  }

  escape() {
    if (!get("results").hidden || document.activeElement === get("search")) {
      get("results").hidden = true;
      get("search").value = "";
      this.filters.search("");
      this.stage.focus();
    } else if (this.point !== null) this.choose(null);
  }

  describe() {
    const { map } = this;
    const count = map.count.toLocaleString("en");
    document.title = `${map.title}, ${count} images · Afterimage`;
    get("title").textContent = map.title;
    get("count").textContent = `${count} images${map.leftOut ? `, ${map.leftOut.toLocaleString("en")} left out` : ""}`;
    const notes = [...map.notes];
    if (!this.scatter) notes.push("This browser has no WebGL: the points of the map cannot be drawn. The grid can.");
    get("notes").replaceChildren(...notes.map((note) => element("li", { textContent: note })));
    get("notes").hidden = !notes.length;
    about(map);
  }
}

function views(map) {
  const flipped = (values) => values.map((value) => -value);
  const [column, row] = [Float32Array.from(map.column, (one) => one + 0.5), Float32Array.from(map.row, (one) => one + 0.5)];
  const made = {
    map: { x: map.projection_x, y: flipped(map.projection_y) },
    pca: { x: map.pca_x, y: flipped(map.pca_y) },
    grid: { x: column, y: row, bounds: [0, 0, map.columns, map.rows], owner: new Map() },
  };
  for (let i = 0; i < map.count; i++) made.grid.owner.set(map.row[i] * map.columns + map.column[i], i);
  for (const view of [made.map, made.pca]) view.bounds = bounds(view.x, view.y);
  return made;
}

function about(map) {
  const close = element("button", { type: "button", textContent: "Close" });
  close.addEventListener("click", () => get("about").close());
  const link = (href, text) => element("a", { href, textContent: text });
  const parts = [
    element("h2", { id: "about-title", textContent: "About this page" }),
    element("p", {}, `${map.count.toLocaleString("en")} images by their embeddings. Also here: `, link("mosaic.jpg", "the grid as one picture"), " and ", link("table.parquet", "the table"), "."),
    element("p", { textContent: get("keys").textContent }),
  ];
  if (map.leftOut) {
    const counts = Object.entries(map.statuses).map(([status, count]) => `${count.toLocaleString("en")} ${status}`);
    parts.push(element("h3", { textContent: `Left out: ${map.leftOut.toLocaleString("en")} images without an embedding` }), element("p", { textContent: counts.join(", ") }));
    parts.push(element("ul", { className: "left-out" }, ...map.listed.map((one) => element("li", {}, named(one.key), " ", element("code", { textContent: one.status }), " ", named(one.error ?? "")))));
    if (map.listed.length < map.leftOut) parts.push(element("p", { textContent: `The first ${map.listed.length.toLocaleString("en")} are named.` }));
  }
  get("about").replaceChildren(...parts, close);
}

load("map").then((map) => {
  for (const name of ["projection_x", "projection_y", "pca_x", "pca_y", "probability"]) map[name] = numbers(map[name], Float32Array);
  for (const name of ["row", "column"]) map[name] = numbers(map[name], Uint32Array);
  const page = new Page(map);
  document.body.dataset.state = "shown";
  requestAnimationFrame(() =>
    load("names").then((names) => {
      page.titles = page.filters.titles = names;
      page.filters.names = names.map((name) => name.toLowerCase());
      if (get("search").value) page.search();
      document.body.dataset.state = "ready";
    }),
  );
});
