
// ---- prompts x generators

const PRINTED_ROWS = 30;
const ENDS = 4; // images at each end of a group
const MOSAIC = 4; // images of a cell that are seen at once
const NARROW = 560; // pixels; narrower, the prompt stands above its images
const CELL = { least: 128, most: 240, text: 30, note: 16 }; // pixels: an image's side, and the text below it
const PROMPT = { least: 160, most: 320, band: 84 };
const PEOPLE_WIDTH = 124;

const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** The images of a prompt by one group. */
class Cell {
  constructor(group) {
    this.group = group;
    this.images = [];
  }

  score(values) {
    return mean(this.images.map((index) => values[index]).filter((value) => value !== null));
  }
}

/** What a column of scores says of a row: `best` and `worst` score, and the groups that have the best. */
function standing(row, values) {
  const scores = new Map();
  for (const cell of row.cells.values()) {
    const score = cell.score(values);
    if (score !== null) scores.set(cell.group, score);
  }
  const ordered = [...scores.values()].sort((one, other) => other - one);
  const isCompared = ordered.length > 1;
  return {
    scores,
    best: ordered[0],
    spread: isCompared ? ordered[0] - ordered.at(-1) : null,
    lead: isCompared ? ordered[0] - ordered[1] : null,
    winners: isCompared ? [...scores.keys()].filter((group) => scores.get(group) === ordered[0]) : [],
  };
}

/** A row for each prompt, a column for each group; the rows in view are in the document. */
class Grid {
  constructor(open) {
    this.open = open;
    this.place = byId("grid");
    this.form = byId("grid-controls");
    this.drawn = new Map(); // position among the rows shown -> its element
    this.rows = data.grid.rows.map((row) => ({ ...row, cells: new Map() }));
    for (const [index, number] of data.grid.row.entries()) {
      if (number === null) continue;
      const { cells } = this.rows[number];
      const group = data.group[index];
      if (!cells.has(group)) cells.set(group, new Cell(group));
      cells.get(group).images.push(index);
    }
    this.head = element("div", { role: "row", className: "grid-row" });
    this.head.setAttribute("aria-rowindex", 1);
    this.body = element("div", { role: "rowgroup", className: "grid-body" });
    this.place.append(element("div", { role: "rowgroup", className: "grid-head" }, this.head), this.body);
    this.listen();
    this.form.hidden = false;
    this.follow();
  }

  listen() {
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", (event) => {
      if (event.target.id === "grid-column") this.follow();
      else this.apply();
    });
    this.place.addEventListener("click", (event) => {
      const cell = event.target.closest(".tile")?.parentElement;
      if (!cell) return;
      const { row, column } = this.at(cell);
      const images = this.imagesOf(row, column);
      this.enlarge(images[event.target.closest("[data-place]")?.dataset.place ?? 0]);
    });
    this.place.addEventListener("keydown", (event) => this.onKey(event));
    this.place.addEventListener("focusin", (event) => {
      const cell = event.target.closest(".grid-cell");
      if (cell) this.activate(this.at(cell));
    });
    let frame = 0;
    this.place.addEventListener(
      "scroll",
      () => {
        frame ||= requestAnimationFrame(() => {
          frame = 0;
          this.draw();
        });
      },
      { passive: true },
    );
    new ResizeObserver(() => this.layOut()).observe(this.form);
    for (const when of ["before", "after"]) {
      addEventListener(`${when}print`, () => {
        this.isPrinting = when === "before";
        this.draw();
      });
    }
    byId("ends").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const order = [...byId("ends").querySelectorAll("button")].map((each) => Number(each.dataset.index));
      this.open(order, order.indexOf(Number(button.dataset.index)));
    });
  }

  /** Take the chosen column of scores: who wins, and the columns by mean, as the leaderboard has them. */
  follow() {
    this.column = data.columns[byId("grid-column")?.value ?? 0];
    const { values, means, dimension, isPeople } = this.column;
    const rated = data.columns.find((column) => column.isPeople && column.dimension === dimension);
    this.people = isPeople ? undefined : rated;
    const present = new Set(this.rows.flatMap((row) => [...row.cells.keys()]));
    this.groups = [...present].sort((one, other) => (means[other] ?? -Infinity) - (means[one] ?? -Infinity));
    for (const row of this.rows) {
      row.standing = standing(row, values);
      row.liked = this.people && standing(row, this.people.values);
      for (const { images } of row.cells.values()) {
        images.sort((one, other) => (values[other] ?? -Infinity) - (values[one] ?? -Infinity));
      }
    }
    this.fillHead();
    this.fillEnds();
    this.apply();
  }

  fillHead() {
    const { means } = this.column;
    const title = (...parts) => element("div", { role: "columnheader", className: "grid-title" }, ...parts);
    const compared = this.rows.filter(({ standing: { winners } }) => winners.length);
    const groups = this.groups.map((group) => {
      const won = compared.filter(({ standing: { winners } }) => winners.length === 1 && winners[0] === group).length;
      const tied = compared.filter(({ standing: { winners } }) => winners.length > 1 && winners.includes(group)).length;
      return title(
        element("span", { className: "name" }, dot(colourOf(group)), groupName(group)),
        element("span", { className: "mean", textContent: means[group] === null ? "\u2013" : format(means[group]) }),
        element("small", { textContent: `${plural(won, "win")}${tied ? `, ${plural(tied, "tie")}` : ""}` }),
      );
    });
    this.head.replaceChildren(title(element("span", { className: "name", textContent: "Prompt" })), ...groups);
    if (this.people) {
      const rated = compared.filter(({ liked }) => liked.winners.length);
      const agreed = rated.filter(({ standing: { winners }, liked }) => winners.some((each) => liked.winners.includes(each)));
      const small = element("small", { textContent: `${agreed.length} of ${rated.length} agree` });
      this.head.append(title(element("span", { className: "name", textContent: "People\u2019s best" }), small));
    }
    this.place.setAttribute("aria-colcount", this.head.children.length);
  }

  /** Find the rows that match, in their order, and show the first. */
  apply() {
    const words = byId("grid-search").value.toLowerCase().split(/\s+/).filter(Boolean);
    this.shown = this.rows.filter((row) => words.every((word) => `${row.text}\n${row.name}`.toLowerCase().includes(word)));
    const byName = (one, other) => inOrder(one.text || one.name, other.text || other.name);
    const bySpread = (one, other) => (other.standing.spread ?? -1) - (one.standing.spread ?? -1) || byName(one, other);
    const place = ({ standing: { winners } }) => (winners.length ? this.groups.indexOf(winners[0]) : Infinity);
    const sorts = {
      spread: bySpread,
      winner: (one, other) => (place(one) === place(other) ? bySpread(one, other) : place(one) - place(other)),
      name: byName,
    };
    this.shown.sort(sorts[byId("grid-sort").value]);
    byId("grid-status").textContent =
      `${this.shown.length.toLocaleString("en")} of ${plural(this.rows.length, "prompt")}, ${plural(this.groups.length, "group")}`;
    byId("grid-printed").textContent =
      `${Math.min(PRINTED_ROWS, this.shown.length)} of ${plural(this.rows.length, "prompt")}, sorted by ${
        byId("grid-sort").selectedOptions[0].textContent.toLowerCase()
      }.`;
    this.place.setAttribute("aria-rowcount", this.shown.length + 1);
    this.place.scrollTop = 0;
    this.active = { row: 0, column: 0 };
    this.body.replaceChildren();
    this.drawn.clear();
    this.layOut();
  }

  /** Sizes for the width there is. */
  layOut() {
    const width = this.form.clientWidth - (this.place.offsetWidth - this.place.clientWidth); // less border and scroll bar
    if (width <= 0) return; // printing
    const isNarrow = width < NARROW;
    const rest = width - (isNarrow ? 0 : PROMPT.least) - (this.people ? PEOPLE_WIDTH : 0);
    const cell = Math.max(CELL.least, Math.min(CELL.most, Math.floor(rest / this.groups.length)));
    const prompt = PROMPT.least + Math.max(0, Math.min(PROMPT.most - PROMPT.least, rest - cell * this.groups.length));
    const hasSeveral = this.rows.some((row) => [...row.cells.values()].some(({ images }) => images.length > 1));
    const notes = Number(hasSeveral) + Number(Boolean(this.people));
    this.side = cell;
    this.height = cell + CELL.text + notes * CELL.note + (isNarrow ? PROMPT.band : 0);
    const columns = [...(isNarrow ? [] : [prompt]), ...this.groups.map(() => cell), ...(this.people ? [PEOPLE_WIDTH] : [])];
    this.place.classList.toggle("narrow", isNarrow);
    const sizes = {
      "--port": `${width}px`,
      "--prompt": `${isNarrow ? 0 : prompt}px`,
      "--row": `${this.height}px`,
      "--columns": columns.map((size) => `${size}px`).join(" "),
      "--total": `${columns.reduce((sum, size) => sum + size, 0)}px`,
    };
    for (const [name, size] of Object.entries(sizes)) this.place.style.setProperty(name, size);
    this.body.style.height = `${this.height * this.shown.length}px`;
    this.draw();
  }

  /** Keep in the document the rows in view, a few around them, and the one with the focus. */
  draw() {
    const first = Math.max(0, Math.floor(this.place.scrollTop / this.height) - OVERSCAN_ROWS);
    const count = Math.ceil(this.place.clientHeight / this.height) + 2 * OVERSCAN_ROWS;
    const [from, to] = this.isPrinting ? [0, PRINTED_ROWS] : [first, first + count];
    const wanted = new Set();
    for (let number = from; number < Math.min(to, this.shown.length); number++) wanted.add(number);
    if (this.drawn.get(this.active.row)?.contains(document.activeElement)) wanted.add(this.active.row);
    for (const [number, row] of this.drawn) {
      if (wanted.has(number)) continue;
      row.remove();
      this.drawn.delete(number);
    }
    const [left, right] = this.columnsInView();
    for (const number of wanted) {
      this.insert(number);
      for (let column = left; column < right; column++) this.fill(number, column);
    }
    this.reach();
  }

  columnsInView() {
    if (this.isPrinting) return [0, this.groups.length];
    const first = Math.max(0, Math.floor(this.place.scrollLeft / this.side) - 1);
    return [first, Math.min(this.groups.length, first + Math.ceil(this.place.clientWidth / this.side) + 2)];
  }

  /** Rows stand in the document in their order. */
  insert(number) {
    if (this.drawn.has(number)) return;
    const row = this.row(number);
    const later = [...this.drawn.keys()].filter((other) => other > number);
    this.body.insertBefore(row, later.length ? this.drawn.get(Math.min(...later)) : null);
    this.drawn.set(number, row);
    row.style.top = `calc(${number} * var(--row))`;
  }

  row(number) {
    const row = this.shown[number];
    const made = element("div", { role: "row", className: "grid-row" }, this.prompt(row));
    made.append(...this.groups.map(() => element("div", { role: "gridcell", className: "grid-cell", tabIndex: -1 })));
    if (this.people) made.append(this.liked(row));
    made.setAttribute("aria-rowindex", number + 2);
    made.dataset.number = number;
    return made;
  }

  prompt(row) {
    const { spread, winners } = row.standing;
    const text = element("span", { className: "words" }, bdi(row.text || row.name));
    const more = element("small", { textContent: spread === null ? "one group only" : `spread ${format(spread)}` });
    const made = element("div", { role: "rowheader", className: "grid-prompt", title: row.text || row.name });
    if (row.reference !== null) made.append(small(thumbnail(data.images.length + row.reference)));
    made.append(element("span", { className: "about" }, text, more));
    if (winners.length) more.append(element("span", { className: "winner" }, " \u00b7 best: ", ...this.named(winners)));
    return made;
  }

  named(groups) {
    return groups.flatMap((group, place) => [place ? ", " : "", groupName(group)]);
  }

  /** Show what a cell has; many columns are out of view. */
  fill(number, column) {
    const place = this.drawn.get(number).querySelectorAll(".grid-cell")[column];
    if (place.firstChild) return;
    const row = this.shown[number];
    const cell = row.cells.get(this.groups[column]);
    place.append(cell ? this.tile(row, cell) : element("span", { className: "empty", textContent: "no image" }));
  }

  tile(row, cell) {
    const { group } = cell;
    const { scores, best, lead, winners } = row.standing;
    const score = scores.get(group);
    const isBest = winners.includes(group);
    const pictures = element("span", { className: "pictures" });
    pictures.classList.toggle("several", cell.images.length > 1);
    for (const [place, index] of cell.images.slice(0, MOSAIC).entries()) {
      const picture = small(thumbnail(index));
      picture.dataset.place = place;
      pictures.append(picture);
    }
    const count = cell.images.length;
    if (count > MOSAIC) pictures.append(element("span", { className: "rest", textContent: `+${count - MOSAIC}` }));
    if (isBest) pictures.append(element("span", { className: "badge", textContent: winners.length > 1 ? "Tied best" : "Best" }));
    const away = isBest ? lead : score - best;
    const facts = element("span", { className: "facts" });
    facts.append(element("b", { textContent: score === undefined ? "\u2013" : format(score) }));
    if (score !== undefined && winners.length) {
      facts.append(element("span", { className: "away", textContent: `${away > 0 ? "+" : ""}${format(away)}` }));
    }
    const rating = row.liked?.scores.get(group);
    const notes = [count > 1 ? `mean of ${count}` : "", rating === undefined ? "" : `people ${format(rating)}`].filter(Boolean);
    facts.append(...notes.map((note) => element("small", { textContent: note })));
    const tile = element("button", { type: "button", className: "tile", tabIndex: -1 }, pictures, facts);
    tile.classList.toggle("best", isBest);
    const name = data.groups[group] || "no group";
    const said = [name, facts.firstChild.textContent, isBest ? "best" : "", ...notes].filter(Boolean).join(", ");
    tile.setAttribute("aria-label", `${said}: ${row.text || row.name}`);
    const described = (index) => [scoreText(this.column, index), ...standings(this.column, index)].join(", ");
    tile.title = cell.images.map((index) => `${data.images[index]}: ${described(index)}`).join("\n");
    return tile;
  }

  /** Whom people rate highest, and whether the score says so, too. */
  liked(row) {
    const { winners, best } = row.liked;
    const made = element("div", { role: "gridcell", className: "grid-people" });
    if (!winners.length) {
      made.append(element("span", { className: "none", textContent: "not rated" }));
      return made;
    }
    const agrees = row.standing.winners.some((group) => winners.includes(group));
    for (const group of winners) made.append(element("span", { className: "name" }, dot(colourOf(group)), groupName(group)));
    made.append(element("b", { textContent: format(best) }));
    made.append(element("small", { className: agrees ? "yes" : "no", textContent: agrees ? "\u2713 agrees" : "\u2260 differs" }));
    return made;
  }

  /** A line for each group: its best and its worst images. */
  fillEnds() {
    const { values } = this.column;
    const lines = this.groups.flatMap((group) => {
      const scored = data.images.map((_, index) => index).filter((index) => data.group[index] === group && values[index] !== null);
      if (!scored.length) return [];
      scored.sort((one, other) => values[other] - values[one]);
      const half = Math.min(ENDS, Math.ceil(scored.length / 2));
      const ends = { Best: scored.slice(0, half), Worst: scored.slice(Math.max(half, scored.length - half)) };
      const line = element("div", { className: "ends" });
      line.append(element("h4", {}, dot(colourOf(group)), groupName(group)));
      for (const [end, images] of Object.entries(ends)) {
        if (!images.length) continue;
        const list = element("ul", {}, ...images.map((index) => this.endImage(index, end)));
        list.setAttribute("aria-label", `${end} of ${data.groups[group] || "no group"}`);
        line.append(element("div", {}, element("span", { className: "title", textContent: end }), list));
      }
      return line;
    });
    byId("ends").replaceChildren(...lines);
  }

  endImage(index, end) {
    const score = format(this.column.values[index]);
    const button = element("button", { type: "button", title: data.images[index] }, small(thumbnail(index)));
    button.append(element("b", { textContent: score }));
    button.dataset.index = index;
    button.setAttribute("aria-label", `${end}, ${score}: ${data.names[index]}`);
    return element("li", {}, button);
  }

  // -- moving about

  at(cell) {
    const row = cell.parentElement;
    return { row: Number(row.dataset.number), column: [...row.querySelectorAll(".grid-cell")].indexOf(cell) };
  }

  imagesOf(row, column) {
    return this.shown[row].cells.get(this.groups[column])?.images ?? [];
  }

  enlarge(index) {
    const order = this.shown.flatMap((_, row) => this.groups.flatMap((_, column) => this.imagesOf(row, column)));
    this.open(order, order.indexOf(index), (last) => this.focus(order[last]));
  }

  onKey(event) {
    if (event.altKey || event.metaKey) return;
    const { row, column } = this.active;
    const [lastRow, lastColumn] = [this.shown.length - 1, this.groups.length - 1];
    const page = Math.max(1, Math.floor(this.place.clientHeight / this.height) - 1);
    const wanted = {
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      PageUp: [Math.max(0, row - page), column],
      PageDown: [Math.min(lastRow, row + page), column],
      Home: [event.ctrlKey ? 0 : row, 0],
      End: [event.ctrlKey ? lastRow : row, lastColumn],
    }[event.key];
    if (!wanted) return;
    event.preventDefault();
    const [newRow, newColumn] = wanted;
    if (newRow < 0 || newRow > lastRow || newColumn < 0 || newColumn > lastColumn) return;
    this.moveTo(newRow, newColumn);
  }

  moveTo(row, column) {
    this.insert(row);
    this.fill(row, column);
    const target = this.target(row, column);
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Focus the cell of an image. */
  focus(index) {
    const row = this.shown.indexOf(this.rows[data.grid.row[index]]);
    if (row >= 0) this.moveTo(row, this.groups.indexOf(data.group[index]));
  }

  activate(active) {
    this.active = active;
    this.reach();
  }

  target(row, column) {
    const cell = this.drawn.get(row)?.querySelectorAll(".grid-cell")[column];
    return cell?.querySelector("button") ?? cell;
  }

  /** Let Tab reach one cell: the active one, or, where it is not in the document, the first. */
  reach() {
    const { row, column } = this.active;
    const target = this.target(row, column) ?? this.body.querySelector(".tile");
    if (this.reachable && this.reachable !== target) this.reachable.tabIndex = -1;
    if (target) target.tabIndex = 0;
    this.reachable = target;
  }
}
