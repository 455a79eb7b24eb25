"use strict";

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const thumbnails = byId("thumbnails").textContent.split("\n");

const MIN_CARD = 190; // pixels; a card with an image prompt is wider by half
const TEXT_HEIGHT = 64; // of a card, below the image
const STANDING_HEIGHT = 34; // of two lines that say where its score stands in a reference set
const PROMPT_HEIGHT = 36; // of two lines of its prompt
const GAP = 14;
const OVERSCAN_ROWS = 2;
const PRINTED_CARDS = 48; // half from the top of the order, half from its end
const OTHERS = 7; // the colour of groups that have none of their own
const MARKERS = ["circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "circle"]; // Bokeh's
const REACH = 9; // pixels from a dot within which a click is meant for it
const GOLDEN = 0.618034; // multiples of it fall evenly between 0 and 1: dots of a strip do not hide each other
const SVG = "http://www.w3.org/2000/svg";
const FONT = "system-ui, sans-serif";

// ---- what all parts need

const format = (value) => value.toFixed(3).replace("-", "\u2212");

/** A new element; text is only ever set as text. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const bdi = (text) => element("bdi", { textContent: text });

function groupName(index) {
  const name = data.groups[index];
  return name ? bdi(name) : element("span", { className: "none", textContent: "no group" });
}

/** The number of a group's colour. */
function colourOf(group) {
  const colour = data.coloured.indexOf(data.groups[group]);
  return colour < 0 ? OTHERS : colour;
}

/** The mark of groups of a colour: in its shape, which is that of their points in the scatter plot. */
function dot(colour) {
  const made = element("span", { className: `dot ${MARKERS[colour]}` });
  made.style.background = `var(--group-${colour})`;
  return made;
}

/** Where the thumbnail of an image is; empty if it could not be read. */
function thumbnail(index) {
  const source = thumbnails[index];
  return source && data.inline ? `data:image/jpeg;base64,${source}` : source;
}

const referenceThumbnail = (index) => thumbnail(data.images.length + data.reference[index]);

/** A score, and how sure it is: "4.100 ± 0.300". */
function scoreText(column, index) {
  const value = column.values[index];
  if (value === null) return "\u2013";
  const std = column.std?.[index] ?? null;
  return std === null ? format(value) : `${format(value)} \u00b1 ${format(std)}`;
}

const fileName = (path) => path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1) || path;

const inOrder = new Intl.Collator("en", { numeric: true }).compare;

const promptText = (index) => data.prompts[data.prompt[index]] ?? "";

/** What the prompt of an image is called: by its text, else by its file. */
function promptName(index) {
  const row = data.grid?.rows[data.grid.row[index]];
  return row ? row.text || row.name : data.names[index];
}

/** Where an image's score stands in each of a column's reference sets: "above 63% of 160 photographs". */
function standings(column, index) {
  return column.percentiles
    .filter(({ values }) => values[index] !== null)
    .map(({ of, values }) =>
      values[index] === 0 ? `below all ${of}` : values[index] === 100 ? `above all ${of}` : `above ${values[index]}% of ${of}`,
    );
}

/** The smallest and the largest number of a list with gaps. */
function extent(values) {
  return values.reduce(
    ([low, high], value) => (value === null ? [low, high] : [Math.min(low, value), Math.max(high, value)]),
    [Infinity, -Infinity],
  );
}

// ---- light and dark

function startTheme(onChange) {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    onChange();
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  button.hidden = false;
  show();
}

// ---- gallery

/** The images that match the controls, in their order, and the cards that are in view. */
class Gallery {
  constructor(open) {
    this.open = open;
    this.form = byId("controls");
    this.list = byId("cards");
    this.textHeight = TEXT_HEIGHT + (data.columns.some((column) => column.percentiles.length) ? STANDING_HEIGHT : 0);
    if (data.prompts.length) this.textHeight += PROMPT_HEIGHT;
    this.list.style.setProperty("--text-height", `${this.textHeight}px`);
    this.order = [];
    this.cards = new Map(); // position in the order -> its element
    this.active = 0; // the position that Tab reaches
    this.texts = data.images.map((image, index) =>
      [image, data.references[data.reference[index]] ?? "", data.groups[data.group[index]], promptText(index)]
        .join("\n")
        .toLowerCase(),
    );
    this.hasReferences = data.references.length > 0;
    this.fillControls();
    this.listen();
    this.resetThreshold();
    this.apply();
  }

  fillControls() {
    for (const [index, name] of data.groups.entries()) {
      byId("group").append(element("option", { value: index, textContent: name || "no group" }));
    }
    const metrics = new Set(data.columns.map((column) => column.metric));
    const present = { groups: data.groups.length > 1, metrics: metrics.size > 1 };
    for (const field of this.form.querySelectorAll("[data-if]")) {
      field.hidden = !present[field.dataset.if];
    }
    this.form.hidden = false;
    byId("keys").hidden = false;
  }

  listen() {
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", (event) => {
      if (event.target.id === "metric") this.followMetric();
      if (event.target.id === "metric" || event.target.id === "sort") {
        this.resetThreshold();
        this.nameDirections();
      }
      this.apply();
    });
    this.form.addEventListener("reset", () =>
      setTimeout(() => {
        this.resetThreshold();
        this.nameDirections();
        this.apply();
      }),
    );
    byId("export").addEventListener("click", () => exportList(this.order.map((index) => data.images[index])));
    this.list.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) this.open(Number(card.dataset.position));
    });
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    this.list.addEventListener("focusin", (event) => {
      const card = event.target.closest(".card");
      if (card) this.activate(Number(card.dataset.position));
    });
    let frame = 0;
    const soon = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        this.draw();
      });
    };
    addEventListener("scroll", soon, { passive: true });
    new ResizeObserver(() => this.layOut()).observe(this.list);
    addEventListener("beforeprint", () => this.print());
    addEventListener("afterprint", () => {
      this.isPrinting = false;
      byId("print-note").hidden = true;
      this.list.replaceChildren();
      this.cards.clear();
      this.draw();
    });
  }

  /** The column whose scores are shown and bounded: the one sorted by, else the first of the metric. */
  get column() {
    const sort = byId("sort").value;
    const metric = byId("metric").value;
    return data.columns[sort] ?? data.columns.find((column) => !metric || column.metric === metric) ?? data.columns[0];
  }

  /** Sort by a score of the chosen metric. */
  followMetric() {
    const metric = byId("metric").value;
    const sorted = data.columns[byId("sort").value];
    const first = data.columns.findIndex((column) => column.metric === metric);
    if (sorted && first >= 0 && sorted.metric !== metric) byId("sort").value = String(first);
  }

  /** Say what the orders are of what is sorted by, and take the usual one. */
  nameDirections() {
    const by = byId("sort").value;
    const names = ["Z to A", "A to Z"];
    const orders = { order: ["Last to first", "First to last"], name: names, prompt: names };
    const [down, up] = orders[by] ?? ["Highest first", "Lowest first"];
    const direction = byId("direction");
    const isScore = by in data.columns;
    const wasScore = direction.options[0].textContent === "Highest first";
    if (isScore !== wasScore) direction.value = isScore ? "down" : "up";
    for (const [option, text] of [["down", down], ["up", up]]) {
      direction.querySelector(`[value=${option}]`).textContent = text;
    }
  }

  resetThreshold() {
    const [low, high] = extent(this.column.values);
    for (const [id, value] of [["low", low], ["high", high]]) {
      Object.assign(byId(id), { min: low, max: high, value });
    }
    this.bounds = [Number(byId("low").value), Number(byId("high").value)]; // which browsers round
  }

  /** What the sliders ask for; one at its end asks for nothing, also of images without the score. */
  get threshold() {
    const [low, high] = ["low", "high"].map((id) => Number(byId(id).value));
    return [low > this.bounds[0] ? low : -Infinity, high < this.bounds[1] ? high : Infinity];
  }

  /** Find the images that match, put them in order and show the first. */
  apply() {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const group = byId("group").value;
    const metric = byId("metric").value;
    const { values } = this.column;
    const [low, high] = this.threshold;
    const bounded = low !== -Infinity || high !== Infinity;
    const scored = data.columns.filter((column) => column.metric === metric);
    this.order = data.images
      .map((_, index) => index)
      .filter(
        (index) =>
          words.every((word) => this.texts[index].includes(word)) &&
          (group === "" || data.group[index] === Number(group)) &&
          (metric === "" || scored.some((column) => column.values[index] !== null)) &&
          (!bounded || (values[index] !== null && values[index] >= low && values[index] <= high)),
      );
    this.sort(values);
    for (const id of ["low", "high"]) {
      byId(`${id}-text`).value = format(Number(byId(id).value));
      byId(id).setAttribute("aria-valuetext", byId(`${id}-text`).value);
    }
    byId("status").textContent =
      `${this.order.length.toLocaleString("en")} of ${data.images.length.toLocaleString("en")} images`;
    byId("export").disabled = this.order.length === 0;
    this.list.classList.toggle("empty", this.order.length === 0);
    this.active = 0;
    this.list.replaceChildren();
    this.cards.clear();
    this.layOut();
  }

  sort(values) {
    const by = byId("sort").value;
    const sign = byId("direction").value === "up" ? 1 : -1;
    const compare = {
      order: (one, other) => one - other,
      name: (one, other) => inOrder(fileName(data.images[one]), fileName(data.images[other])) || one - other,
      prompt: (one, other) => inOrder(promptName(one), promptName(other)) || data.group[one] - data.group[other],
    }[by];
    if (compare) {
      this.order.sort((one, other) => sign * compare(one, other));
      return;
    }
    const missing = sign * Infinity; // images without the score come last
    const value = (index) => values[index] ?? missing;
    this.order.sort((one, other) => (value(one) === value(other) ? one - other : sign * (value(one) - value(other))));
  }

  /** Sizes for the list's width. */
  layOut() {
    const width = this.list.clientWidth;
    const least = Math.min(width, MIN_CARD * (this.hasReferences ? 1.5 : 1));
    this.across = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
    this.width = (width - GAP * (this.across - 1)) / this.across;
    this.height = Math.round((this.hasReferences ? this.width / 2 : this.width) + this.textHeight);
    const rows = Math.ceil(this.order.length / this.across);
    this.list.style.height = rows ? `${rows * (this.height + GAP)}px` : "auto";
    for (const [position, card] of this.cards) this.place(card, position);
    this.draw();
  }

  /** Cards for paper: all, or as many from the top of the order as from its end, and what they are. */
  print() {
    this.isPrinting = true;
    const { values, label } = this.column;
    const isScored = data.columns[byId("sort").value] !== undefined;
    const scored = this.order.filter((index) => !isScored || values[index] !== null).length;
    const count = Math.min(PRINTED_CARDS / 2, Math.floor(scored / 2));
    const isCut = this.order.length > PRINTED_CARDS;
    const ends = isScored && byId("direction").value === "down" ? ["highest", "lowest"] : ["lowest", "highest"];
    const [first, last] = isScored ? ends : ["first", "last"];
    const what = isScored ? ` ${label}` : "";
    byId("print-note").hidden = false;
    byId("print-note").textContent = isCut
      ? `${2 * count} of ${this.order.length.toLocaleString("en")} images: the ${count} ${first} and the ${count} ${last}${what}.`
      : `All ${this.order.length} images.`;
    this.list.replaceChildren();
    this.cards.clear();
    const title = (end) => element("li", { className: "end", textContent: `The ${count} ${end}${what}` });
    const add = (from, to) => this.list.append(...this.cardsOf(from, to));
    if (!isCut) {
      add(0, this.order.length);
      return;
    }
    this.list.append(title(first));
    add(0, count);
    this.list.append(title(last));
    add(scored - count, scored);
  }

  cardsOf(from, to) {
    return Array.from({ length: to - from }, (_, step) => this.card(from + step));
  }

  /** Keep a screenful of cards in the document: those in view, or the first or last, and the one with the focus. */
  draw() {
    if (this.isPrinting) return;
    const step = this.height + GAP;
    const top = -this.list.getBoundingClientRect().top;
    const rows = Math.ceil(innerHeight / step) + 2 * OVERSCAN_ROWS;
    const last = Math.ceil(this.order.length / this.across) - rows;
    const first = Math.max(0, Math.min(last, Math.floor(top / step) - OVERSCAN_ROWS));
    this.show(first * this.across, (first + rows) * this.across);
  }

  show(from, to) {
    const wanted = new Set();
    for (let position = from; position < Math.min(to, this.order.length); position++) wanted.add(position);
    if (this.cards.get(this.active)?.contains(document.activeElement)) wanted.add(this.active);
    for (const [position, card] of this.cards) {
      if (!wanted.has(position)) {
        card.remove();
        this.cards.delete(position);
      }
    }
    for (const position of wanted) {
      if (!this.cards.has(position)) this.insert(position);
    }
    this.activate(this.active);
  }

  /** Cards stand in the document in the order of the list, as screen readers and Tab go. */
  insert(position) {
    const card = this.card(position);
    const later = [...this.cards.keys()].filter((other) => other > position);
    this.list.insertBefore(card, later.length ? this.cards.get(Math.min(...later)) : null);
    this.cards.set(position, card);
    this.place(card, position);
  }

  place(card, position) {
    const left = (position % this.across) * (this.width + GAP);
    const top = Math.floor(position / this.across) * (this.height + GAP);
    Object.assign(card.style, {
      left: `${left}px`,
      top: `${top}px`,
      width: `${this.width}px`,
      height: `${this.height}px`,
    });
  }

  card(position) {
    const index = this.order[position];
    const { column } = this;
    const [score, std] = scoreText(column, index).split(" \u00b1 ");
    const name = data.names[index];
    const pair = element("span", { className: "pair" }, small(thumbnail(index)));
    if (this.hasReferences) {
      pair.append(data.reference[index] === null ? blank("no prompt") : small(referenceThumbnail(index)));
    }
    const group = element("span", { className: "group" });
    if (data.groups.length > 1) group.append(dot(colourOf(data.group[index])), groupName(data.group[index]));
    const standing = standings(column, index)[0] ?? "";
    const text = element(
      "span",
      { className: "text" },
      element("span", { className: "path" }, bdi(name)),
      element(
        "span",
        { className: "score", textContent: score },
        ...(std ? [element("small", { textContent: ` \u00b1 ${std}` })] : []),
      ),
      group,
      element("span", { className: "dimension", textContent: column.dimension }),
      element("span", { className: "standing", textContent: standing }),
    );
    if (promptText(index)) text.append(element("span", { className: "prompt" }, bdi(promptText(index))));
    const sentence = [`${column.label} ${scoreText(column, index)}`, standing].filter(Boolean).join(", ");
    const title = [data.images[index], sentence, promptText(index)].filter(Boolean).join("\n");
    const button = element("button", { type: "button", tabIndex: -1, title }, pair, text);
    button.setAttribute("aria-label", `${name}, ${data.groups[data.group[index]]}, ${sentence}`);
    const item = element("li", { className: "card" }, button);
    item.dataset.position = position;
    item.setAttribute("aria-setsize", this.order.length);
    item.setAttribute("aria-posinset", position + 1);
    return item;
  }

  /** Let Tab reach this card, and no other. */
  activate(position) {
    this.active = position;
    let reachable = this.cards.get(position);
    if (!reachable) reachable = this.cards.values().next().value;
    for (const card of this.cards.values()) card.firstChild.tabIndex = card === reachable ? 0 : -1;
  }

  onKey(event) {
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -this.across,
      ArrowDown: this.across,
      Home: -this.order.length,
      End: this.order.length,
    };
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const card = event.target.closest(".card");
    const wanted = Number(card.dataset.position) + steps[event.key];
    this.focus(Math.min(this.order.length - 1, Math.max(0, wanted)));
  }

  /** Bring a position into view and put the focus on it. */
  focus(position) {
    const top = Math.floor(position / this.across) * (this.height + GAP);
    const header = this.form.getBoundingClientRect().height + 70;
    const box = this.list.getBoundingClientRect();
    const above = box.top + top - header;
    const below = box.top + top + this.height - innerHeight + GAP;
    if (above < 0 || below > 0) scrollBy({ top: above < 0 ? above : below, behavior: "instant" });
    if (!this.cards.has(position)) this.insert(position);
    this.activate(position);
    this.cards.get(position).firstChild.focus({ preventScroll: true });
    this.draw();
  }
}

function small(source) {
  if (!source) return blank("no preview");
  return element("img", { src: source, alt: "", decoding: "async", draggable: false });
}

const blank = (text) => element("span", { className: "missing", textContent: text });

/** Save paths as CSV; a lone surrogate stands for a byte of the name that is not UTF-8, and becomes it again. */
function exportList(paths) {
  const lines = ["image", ...paths.map(quoted)].join("\n") + "\n";
  const parts = lines
    .split(/([\udc80-\udcff])/u)
    .map((part) => (/^[\udc80-\udcff]$/u.test(part) ? new Uint8Array([part.charCodeAt(0) & 0xff]) : part));
  const url = URL.createObjectURL(new Blob(parts, { type: "text/csv" }));
  element("a", { href: url, download: "selection.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A cell of CSV; what a spreadsheet would compute gets an apostrophe in front, as in csv_text.py. */
function quoted(text) {
  const cell = /^'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])/u.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

// ---- one image, large

class Viewer {
  constructor() {
    this.dialog = byId("viewer");
    this.palette = Uint8Array.from(atob(data.palette), (letter) => letter.charCodeAt(0));
    this.order = [];
    this.position = 0;
    const step = (by) => () => this.move(by);
    byId("previous").addEventListener("click", step(-1));
    byId("next").addEventListener("click", step(1));
    byId("close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
    this.dialog.addEventListener("close", () => this.closed?.(this.position));
    this.dialog.addEventListener("keydown", (event) => this.onKey(event));
    byId("map-toggle").addEventListener("change", () => this.drawMap());
    byId("map-metric").addEventListener("change", () => this.drawMap());
    byId("opacity").addEventListener("input", () => this.drawMap());
    for (const id of ["viewer-image", "viewer-reference"]) {
      byId(id).addEventListener("load", (event) => fit(event.target));
    }
    const metrics = Object.keys(data.maps);
    byId("map-metric").append(...metrics.map((metric) => element("option", { value: metric, textContent: metric })));
    byId("map-metric").closest("[data-if]").hidden = metrics.length < 2;
  }

  /** Show an image of an order; `closed` hears at which one the dialog was closed. */
  open(order, position, closed) {
    Object.assign(this, { order, position, closed });
    this.draw();
    this.dialog.showModal();
  }

  move(by) {
    const wanted = this.position + by;
    if (wanted < 0 || wanted >= this.order.length) return;
    this.position = wanted;
    this.draw();
  }

  onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const inField = event.target.matches("select, input[type=range]");
    const actions = {
      ArrowLeft: inField ? null : () => this.move(-1),
      ArrowRight: inField ? null : () => this.move(1),
      m: () => byId("map-toggle").click(),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  get index() {
    return this.order[this.position];
  }

  draw() {
    const { index } = this;
    byId("viewer-name").textContent = data.names[index];
    byId("viewer-where").textContent =
      `${(this.position + 1).toLocaleString("en")} of ${this.order.length.toLocaleString("en")}`;
    byId("previous").disabled = this.position === 0;
    byId("next").disabled = this.position === this.order.length - 1;
    const rows = data.columns
      .filter((column) => column.values[index] !== null)
      .flatMap((column) => [
        element(
          "tr",
          {},
          element("th", { scope: "row", textContent: column.label }),
          element("td", { className: "n", textContent: scoreText(column, index) }),
        ),
        ...standings(column, index).map((textContent) =>
          element("tr", { className: "standing" }, element("td", { colSpan: 2, textContent })),
        ),
      ]);
    byId("viewer-scores").tBodies[0].replaceChildren(...rows);
    const metadata = [["File", bdi(data.images[index])]];
    if (data.groups.length > 1) metadata.push(["Group", groupName(data.group[index])]);
    const known = [["Prompt", promptText(index)], ["Seed", data.seeds[index]], ["Model", data.models[index]]];
    metadata.push(...known.filter(([, value]) => value).map(([name, value]) => [name, bdi(value)]));
    if (data.reference[index] !== null) metadata.push(["Image prompt", bdi(data.references[data.reference[index]])]);
    byId("viewer-metadata").replaceChildren(
      ...metadata.flatMap(([name, value]) => [
        element("dt", { textContent: name }),
        element("dd", {}, value),
      ]),
    );
    this.drawImages();
    this.drawMap();
  }

  drawImages() {
    const { index } = this;
    const reference = data.reference[index];
    byId("viewer-image").alt = `Generated image ${data.names[index]}`;
    enlarge(byId("viewer-image"), thumbnail(index), addresses(data.images[index], data.links[index]));
    byId("reference-figure").hidden = reference === null;
    if (reference === null) return;
    byId("viewer-reference").alt = `Image prompt ${fileName(data.references[reference])}`;
    const files = addresses(data.references[reference], data.referenceLinks[reference]);
    enlarge(byId("viewer-reference"), referenceThumbnail(index), files);
  }

  drawMap() {
    const metric = byId("map-metric").value;
    const maps = data.maps[metric];
    const shape = maps?.shapes[this.index];
    const isOn = byId("map-toggle").checked;
    const isShown = Boolean(isOn && shape);
    byId("overlay").hidden = !isShown;
    byId("map-legend").hidden = !isShown;
    byId("opacity-field").hidden = !isShown;
    byId("map-toggle").disabled = !maps;
    byId("map-note").textContent = maps
      ? isOn && !shape
        ? "No map of this image by this metric."
        : ""
      : "This run made no quality maps.";
    if (!isShown) return;
    this.paint(byId("overlay"), shape, atob(maps.levels[this.index]));
    byId("overlay").style.opacity = byId("opacity").value;
    const score = maps.scores[this.index];
    this.drawRamp(maps, score);
    byId("map-note").textContent =
      `Coloured: what lies below this image\u2019s own score, ${format(score)}. A map knows no anatomy, meaning or prompt.` +
      (maps.crop === null ? "" : " The metric sees the centre square only: the rest has no say in the score.");
    cover(byId("overlay"), maps.crop, byId("viewer-image"));
  }

  /** Levels as colours, a pixel for each cell; the browser smooths them. */
  paint(canvas, [height, width], levels) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let cell = 0; cell < width * height; cell++) {
      const colour = 4 * levels.charCodeAt(cell);
      image.data.set(this.palette.subarray(colour, colour + 4), 4 * cell);
    }
    context.putImageData(image, 0, 0);
  }

  /** The legend: the whole scale, coloured below the picture's own score; what lies beyond the scale looks like its ends. */
  drawRamp({ low, high }, score) {
    const below = (at) => Math.min(Math.max(255 * ((score - low) / (high - low)) - at, 0), 255);
    this.paint(byId("ramp"), [1, 256], String.fromCharCode(...Array.from({ length: 256 }, (_, at) => below(at))));
    byId("map-low").textContent = `\u2264 ${format(low)}`;
    byId("map-high").textContent = format(high);
  }
}

/**
 * Where the file of an image may be: where it was, seen from the page, or where its whole path leads. Never on another
 * host: links are relative or of this machine, and from a web server only those below it are asked for.
 */
function addresses(path, link) {
  const isLocal = location.protocol === "file:";
  return [link, isLocal ? fileUrl(path) : null].filter((address) => address && (isLocal || !address.startsWith("file:")));
}

/** The URL of a path from the root of this machine, or of a drive; null of others, and where a name is no Unicode. */
function fileUrl(path) {
  const [, drive, rest] = /^([A-Za-z]:(?=[\\/])|(?=\/[^/\\]))[\\/](.*)$/s.exec(path) ?? [];
  if (rest === undefined || !rest.isWellFormed()) return null;
  const parts = rest.split(drive ? /[\\/]/ : "/").map(encodeURIComponent);
  return ["file://", ...(drive ? [drive] : []), ...parts].join("/");
}

/** Show an image at once as its thumbnail, then as the file itself from the first address that has it. */
async function enlarge(image, preview, files) {
  const note = image.closest("figure").querySelector("[role=status]");
  const frame = image.parentElement;
  const turn = (image.turn ?? 0) + 1;
  Object.assign(image, { turn, hidden: !preview, src: preview });
  note.textContent = "";
  frame.classList.remove("small");
  if (!preview) return; // nor could the file be read when the page was made
  for (const address of files) {
    const file = element("img", { src: address });
    const found = await file.decode().then(() => true, () => false);
    if (image.turn !== turn) return; // another image is shown by now
    if (found) {
      image.src = address;
      note.textContent = `\u00b7 ${file.naturalWidth} \u00d7 ${file.naturalHeight} pixels`;
      return;
    }
  }
  frame.classList.add("small");
  note.textContent = "\u00b7 only the thumbnail: this page can\u2019t load the file";
}

/** Give the frame the image's shape. */
function fit(image) {
  image.parentElement.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  image.parentElement.style.setProperty("--width", `${image.naturalWidth}px`);
  const maps = data.maps[byId("map-metric").value];
  if (image.id === "viewer-image" && maps) cover(byId("overlay"), maps.crop, image);
}

/** Lay the map over the part of the image that the metric sees: all, or the centre square of a share of its side. */
function cover(canvas, crop, image) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const side = crop === null ? null : crop * Math.min(width, height);
  const share = (length) => (side === null ? 100 : (100 * side) / length);
  Object.assign(canvas.style, {
    width: `${share(width)}%`,
    height: `${share(height)}%`,
    left: `${(100 - share(width)) / 2}%`,
    top: `${(100 - share(height)) / 2}%`,
  });
}

// ---- distribution

/** The images as dots in the rows of one column, each row a strip of the column's axis; a click opens an image. */
class Strips {
  constructor(panel, openImage) {
    this.panel = panel;
    this.openImage = openImage;
    this.column = data.columns[panel.dataset.distribution];
    this.dots = new Map(); // strip -> [index of an image, share of the width, share of the height]
    panel.addEventListener("click", (event) => {
      const found = this.nearest(event);
      if (found !== undefined) this.openImage(found);
    });
    panel.addEventListener("mousemove", (event) => this.onMove(event));
  }

  draw() {
    if (this.dots.size) return;
    for (const strip of this.panel.querySelectorAll("[data-group]")) this.fill(strip, strip.dataset.group);
  }

  fill(strip, group) {
    const { values } = this.column;
    const [low, high] = [Number(this.panel.dataset.low), Number(this.panel.dataset.high)];
    const dots = data.sample
      .filter((index) => values[index] !== null && (group === "" || data.group[index] === Number(group)))
      .map((index, number) => [index, (values[index] - low) / (high - low), 0.14 + 0.72 * ((number * GOLDEN) % 1)]);
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", dots.map(([, x, y]) => `M${(1000 * x).toFixed(1)} ${(100 * y).toFixed(0)}h0`).join(""));
    path.style.strokeWidth = `${Math.max(2.5, Math.min(6, 40 / Math.sqrt(dots.length)))}px`;
    path.style.stroke = group === "" ? "var(--soft)" : `var(--group-${colourOf(Number(group))})`;
    const drawn = document.createElementNS(SVG, "svg");
    for (const [name, value] of [["viewBox", "0 0 1000 100"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) {
      drawn.setAttribute(name, value);
    }
    drawn.append(path);
    strip.prepend(drawn);
    this.dots.set(strip, dots);
  }

  /** The image whose dot is under the pointer. */
  nearest(event) {
    const strip = event.target.closest(".strip");
    const box = strip?.getBoundingClientRect();
    let [found, least] = [undefined, REACH];
    for (const [index, x, y] of this.dots.get(strip) ?? []) {
      const away = Math.hypot(x * box.width + box.left - event.clientX, y * box.height + box.top - event.clientY);
      if (away <= least) [found, least] = [index, away];
    }
    return found;
  }

  onMove(event) {
    const strip = event.target.closest(".strip");
    if (!strip) return;
    const found = this.nearest(event);
    strip.classList.toggle("over", found !== undefined);
    strip.title = found === undefined ? "" : `${data.names[found]}: ${scoreText(this.column, found)}`;
  }
}

function startDistribution(openImage) {
  const panels = [...document.querySelectorAll("[data-distribution]")].map((panel) => new Strips(panel, openImage));
  const draw = () => panels.filter((strips) => !strips.panel.hidden).forEach((strips) => strips.draw());
  byId("distribution-column")?.addEventListener("change", draw);
  addEventListener("beforeprint", () => panels.forEach((strips) => strips.draw()));
  draw();
}

// ---- scatter plot

/** By Bokeh. It is drawn after the page is there, and drawn anew when something changes. */
class Scatter {
  constructor(openImage) {
    this.openImage = openImage;
    this.hidden = new Set(); // groups, as indices of `names`
    this.names = [...data.coloured];
    if (data.groups.some((name) => !data.coloured.includes(name))) this.names.push("other groups");
    if (this.names.length > 1) this.fillLegend();
    for (const id of ["scatter-x", "scatter-y"]) byId(id).addEventListener("change", () => this.draw());
  }

  start() {
    const script = element("script", { textContent: byId("bokeh").textContent });
    document.head.append(script);
    this.isReady = true;
    this.draw();
  }

  fillLegend() {
    for (const [group, name] of this.names.entries()) {
      const button = element("button", { type: "button" }, dot(this.colour(group)), bdi(name || "no group"));
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        this.hidden[this.hidden.has(group) ? "delete" : "add"](group);
        button.setAttribute("aria-pressed", String(!this.hidden.has(group)));
        this.draw();
      });
      byId("legend").append(button);
    }
  }

  draw() {
    if (!this.isReady) return;
    const [across, up] = ["x", "y"].map((axis) => data.columns[byId(`scatter-${axis}`).value]);
    const figure = this.figure(across.label, up.label);
    const both = data.sample.filter((index) => across.values[index] !== null && up.values[index] !== null);
    const { HoverTool, TapTool } = Bokeh;
    const tooltips = [["", "@name"], [across.label, "@x{0.000}"], [up.label, "@y{0.000}"]];
    figure.add_tools(new HoverTool({ tooltips }), new TapTool());
    const byGroup = new Map(this.names.map((_, group) => [group, []]));
    for (const index of both) byGroup.get(this.groupOf(index)).push(index);
    for (const [group, indices] of byGroup) {
      if (this.hidden.has(group) || !indices.length) continue;
      this.points(figure, indices, across, up, this.colour(group));
    }
    byId("scatter-note").textContent = both.length
      ? `${both.length.toLocaleString("en")} images with both scores; a click on a point shows its image.`
      : "No image has both scores.";
    this.drawn = render(figure, byId("scatter-chart"), this.drawn);
  }

  colour(group) {
    return group < data.coloured.length ? group : OTHERS;
  }

  groupOf(index) {
    const group = data.coloured.indexOf(data.groups[data.group[index]]);
    return group < 0 ? data.coloured.length : group;
  }

  points(figure, indices, across, up, colour) {
    const fill = resolved(`--group-${colour}`);
    const source = new Bokeh.ColumnDataSource({
      data: {
        x: indices.map((index) => across.values[index]),
        y: indices.map((index) => up.values[index]),
        name: indices.map((index) => data.names[index]),
      },
    });
    const alpha = Math.max(0.25, Math.min(0.85, 20 / Math.sqrt(indices.length)));
    figure.scatter({
      x: { field: "x" },
      y: { field: "y" },
      source,
      marker: MARKERS[colour],
      size: ["diamond", "star"].includes(MARKERS[colour]) ? 12 : 8, // these fill less of their square
      fill_color: fill,
      fill_alpha: alpha,
      line_color: null,
      nonselection_fill_alpha: alpha,
    });
    source.selected.properties.indices.change.connect(() => {
      const chosen = indices[source.selected.indices[0]];
      source.selected.indices = [];
      if (chosen !== undefined) this.openImage(chosen);
    });
  }

  figure(across, up) {
    const figure = Bokeh.Plotting.figure({ sizing_mode: "stretch_both", tools: [], toolbar_location: null });
    figure.xaxis.axis_label = across;
    figure.yaxis.axis_label = up;
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map(resolved);
    Object.assign(figure, { background_fill_color: null, border_fill_color: null, outline_line_color: null });
    for (const axis of [figure.xaxis, figure.yaxis]) {
      Object.assign(axis, {
        axis_label_text_color: ink,
        axis_label_text_font_style: "normal",
        axis_label_text_font: FONT,
        major_label_text_font: FONT,
        major_label_text_color: soft,
        major_label_text_font_size: "12px",
        axis_line_color: line,
        major_tick_line_color: line,
        minor_tick_line_color: null,
      });
    }
    for (const grid of [figure.xgrid, figure.ygrid]) grid.grid_line_color = line;
    return figure;
  }
}

/** A colour of the style sheet as the theme in use has it. */
function resolved(name) {
  const probe = element("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** Draw a figure in place of the one before, which may still be on its way; resolves to its document. */
async function render(figure, place, before) {
  const earlier = await before;
  if (earlier) {
    earlier.clear();
    Bokeh.documents.splice(Bokeh.documents.indexOf(earlier), 1);
    place.replaceChildren();
  }
  const drawn = new Bokeh.Document({ roots: [figure] });
  await Bokeh.embed.add_document_standalone(drawn, place);
  return drawn;
}

// ---- everything together

/** Of a section's panels, one for each column of scores, show the one that is chosen. */
function startChoice(section) {
  byId(`${section}-column`)?.addEventListener("change", (event) => {
    for (const panel of document.querySelectorAll(`[data-${section}]`)) {
      panel.hidden = panel.dataset[section] !== event.target.value;
    }
  });
}

function start() {
  let scatter = null;
  startTheme(() => scatter?.draw());
  if (!data.columns.length) return;
  for (const section of ["leaderboard", "distribution"]) startChoice(section);
  const viewer = new Viewer();
  const gallery = new Gallery((position) =>
    viewer.open(gallery.order, position, (last) => gallery.focus(last)),
  );
  if (data.grid) {
    new Grid((...chosen) => viewer.open(...chosen));
  }
  const openAlone = (index) => viewer.open([index], 0, null);
  for (const button of document.querySelectorAll("[data-image]")) {
    button.addEventListener("click", () => openAlone(Number(button.dataset.image)));
  }
  startDistribution(openAlone);
  if (!byId("scatter-chart")) return;
  scatter = new Scatter(openAlone);
  const idle = window.requestIdleCallback ?? ((call) => setTimeout(call, 200));
  idle(() => scatter.start());
}

requestAnimationFrame(() => setTimeout(start)); // after the first paint
