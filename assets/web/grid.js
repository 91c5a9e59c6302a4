// The canvas of one lane: its tokens as inline text. Each state has its own shape and colour.
//
// Each position has one node. It is changed in place, and only if its look has changed.

const VIEWS = ["confidence", "order", "step"];
const ZERO_WIDTH_SPACE = "\u200b"; // allows a line break between two tokens
const MARKS = { accepted_draft: "✓", correction: "≠", edited: "✎" };

// The browser lays out each chunk of tokens separately, and no chunk that is out of sight. Without chunks, one token that
// changes its width would cause a layout of all tokens. A chunk is a separate box, so it may begin only where the
// answer has a line break: after at least this many tokens. The line breaks are known when the answer is finished.
const CHUNK = 96;

class Grid {
  // on: { look(position, pinned, byKey) }, called when a token is pointed at, focused or pinned; position null: no token.
  constructor(canvas, state, on) {
    this.canvas = canvas;
    this.state = state;
    this.on = on;
    this.cells = [];
    this.chunks = []; // {node, from}: its first position
    this.inChunks = state.finished; // a live answer is in one chunk
    this.k = -1;
    this.view = "confidence";
    this.scale = 1;
    this.version = 0; // changes when all tokens must be drawn again
    this.overlay = new Map(); // by position: the change for a fork, [text] or null for a mask
    this.roving = 0;
    canvas.textContent = "";
    canvas.addEventListener("mouseover", (event) => this.#pointed(event, false));
    canvas.addEventListener("focusin", (event) => this.#pointed(event, false));
    canvas.addEventListener("mouseleave", () => on.look(null, false));
    canvas.addEventListener("click", (event) => this.#pointed(event, true));
    canvas.addEventListener("keydown", (event) => this.#pressed(event));
  }

  // Show the state after event k.
  paint(k, view = this.view) {
    const count = k < 0 ? 0 : this.state.shown[k];
    const scale = view === "order" ? Math.max(1, this.state.forwards.at(-1) ?? 1) : Math.max(1, this.#steps());
    if (view !== this.view || scale !== this.scale) this.version += 1;
    Object.assign(this, { k, view, scale });
    this.canvas.dataset.view = view;
    this.#reach(count);
    for (const { node, from } of this.chunks) if (node.hidden !== from >= count) node.hidden = from >= count;
    if (this.roving >= count && count) this.#rove(0); // one token must stay in the tab order
    // Cells of a hidden chunk are not changed. They are updated when the chunk is shown again.
    const end = this.chunks.find(({ from }) => from >= count)?.from ?? this.cells.length;
    for (let at = 0; at < end; at += 1) {
      const cell = this.cells[at];
      const entry = at < count ? this.state.entry(at, k) : null;
      const look = entry ? this.#look(at, k, entry) : -1;
      const over = this.overlay.get(at);
      // A neighbour that is fixed later can complete a character here.
      const text = this.state.bytes.size && entry?.fixed ? this.state.textAt(at, k, entry) : null;
      if (cell.entry === entry && cell.look === look && cell.over === over && cell.text === text
        && cell.version === this.version) continue;
      Object.assign(cell, { entry, look, over, text, version: this.version });
      this.#drawCell(cell, at, k, entry);
    }
  }

  // The answer is finished: from now on it is laid out in chunks.
  finish() {
    if (this.inChunks || !this.state.finished) return;
    this.inChunks = true;
    if (this.cells.length <= CHUNK) return;
    Object.assign(this, { cells: [], chunks: [], roving: 0 });
    this.canvas.textContent = "";
    this.paint(this.k);
  }

  pin(position) {
    this.canvas.querySelector(".pinned")?.classList.remove("pinned");
    if (position !== null) this.cells[position]?.node.classList.add("pinned");
    this.pinned = position;
  }

  // The scroll position that shows the newest tokens; null if no scrolling is needed, or if a token is pinned or has the
  // focus. This method only measures: a change between two measurements would cause another layout.
  toFollow() {
    if (this.chunks.length === 0 || typeof this.pinned === "number" || this.canvas.contains(document.activeElement)) return null;
    const seen = (state) => this.canvas.querySelector(`.chunk:not([hidden]) span:not([hidden]) > .${state}`);
    const node = seen("new") ?? seen("mask");
    if (!node || this.canvas.scrollHeight <= this.canvas.clientHeight + 4) return null;
    const [box, at] = [this.canvas.getBoundingClientRect(), node.getBoundingClientRect()];
    const inSight = at.top >= box.top && at.bottom <= box.bottom - 24;
    return inSight ? null : this.canvas.scrollTop + at.top - box.top - box.height / 3;
  }

  #steps() {
    if (this.stepsOf !== this.state.last) {
      for (let k = (this.stepsOf ?? -1) + 1; k <= this.state.last; k += 1) {
        this.mostSteps = Math.max(this.mostSteps ?? 1, (this.state.places[k]?.[1] ?? 0) + 1);
      }
      this.stepsOf = this.state.last;
    }
    return this.mostSteps ?? 1;
  }

  #reach(count) {
    while (this.cells.length < count) {
      const at = this.cells.length;
      const slot = make("span");
      const node = make("span");
      node.dataset.at = at;
      node.tabIndex = at === this.roving ? 0 : -1;
      node.setAttribute("role", "button");
      slot.append("", node, "");
      if (this.#startsChunk(at)) this.chunks.push({ node: this.canvas.appendChild(make("div", "chunk")), from: at });
      this.chunks.at(-1).node.append(slot);
      this.cells.push({ slot, node, entry: undefined, look: undefined, over: undefined, text: null });
    }
  }

  #startsChunk(at) {
    if (at === 0) return true;
    if (!this.inChunks || at - this.chunks.at(-1).from < CHUNK) return false;
    const { last } = this.state;
    const before = this.state.entry(at - 1, last);
    return Boolean(before?.fixed) && splitText(this.state.textAt(at - 1, last, before))[2] === "\n";
  }

  // The look of a cell as one number, without its entry.
  #look(at, k, entry) {
    const fresh = entry.at === k && entry.fixed && !entry.kept && !entry.rejected && this.state.events[k][0] !== "finish";
    return this.state.stateOf(at, k, entry) + (fresh ? 8 : 0) + this.state.border(at, k) * 16;
  }

  #drawCell({ slot, node, look, over }, at, k, entry) {
    slot.hidden = !entry;
    if (!entry) return;
    const masked = over === null || (over === undefined && !entry.fixed);
    const whole = entry.fixed ? this.state.textAt(at, k, entry) : "";
    const isPart = !over && entry.fixed && !whole; // a part of a character: its bytes
    const text = over ? over[0] : isPart ? this.state.hexOf(entry.token) : whole;
    const [before, shown, after] = masked ? ["", "···", ""] : splitText(text);
    slot.firstChild.data = at === 0 ? "" : before || ZERO_WIDTH_SPACE;
    if (node.textContent !== shown) node.textContent = shown;
    slot.lastChild.data = after;
    const border = Math.floor(look / 16);
    const edited = over !== undefined || entry.edited;
    const name = STATE_NAMES[over === null ? MASK : over ? OPEN : look % 8];
    node.className = `token ${name}${look & 8 ? " new" : ""}${border ? " opens" : ""}${edited ? " edited" : ""}`
      + `${entry.reason === "accepted_draft" ? " accepted" : ""}${isPart ? " part" : ""}${this.pinned === at ? " pinned" : ""}`;
    node.dataset.state = name;
    if (border) node.dataset.block = border;
    const [mark, level] = this.#marked(entry, edited);
    if (mark) node.dataset.mark = mark;
    else delete node.dataset.mark;
    node.style.setProperty("--p", level.toFixed(2));
    if (shown.trim()) node.removeAttribute("aria-label");
    else node.setAttribute("aria-label", "space"); // a button needs a name
  }

  // The small mark beside the token, and its position on the colour scale, from 0 to 1.
  #marked(entry, edited) {
    if (this.view === "confidence" || !entry.fixed || entry.rejected) {
      return [edited ? MARKS.edited : MARKS[entry.reason] ?? "", entry.p ?? 1];
    }
    if (this.view === "order") return [String(entry.order ?? 0), (entry.order ?? 0) / this.scale];
    const step = entry.step ?? entry.draftStep;
    return step === null || step === undefined ? ["", 0] : [String(step + 1), (step + 1) / this.scale];
  }

  #pointed(event, pinned) {
    const node = event.target.closest?.("[data-at]");
    if (!node) return;
    const at = Number(node.dataset.at);
    if (event.type === "focusin") this.#rove(at);
    if (event.type === "focusin") node.setAttribute("aria-label", this.#label(at));
    this.on.look(at, pinned);
  }

  #label(at) {
    const entry = this.state.entry(at, this.k);
    if (!entry) return `position ${at}`;
    const state = STATE_NAMES[this.state.stateOf(at, this.k, entry)];
    const text = entry.token === null ? "" : `“${inline(this.state.nameAt(at, this.k, entry))}”`;
    const sure = entry.p === null ? "" : percent(entry.p);
    if (!entry.fixed) return ["masked", text && `predicted ${text} at ${sure}`, `position ${at}`].filter(Boolean).join(", ");
    return [text, state, sure, `position ${at}`].filter(Boolean).join(", ");
  }

  #rove(at) {
    if (this.cells[this.roving]) this.cells[this.roving].node.tabIndex = -1;
    this.cells[at].node.tabIndex = 0;
    this.roving = at;
  }

  // Arrow keys move the focus between tokens; up and down go to the nearest token of the next line.
  #pressed(event) {
    const node = event.target.closest("[data-at]");
    if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = Number(node.dataset.at);
    const last = (this.k < 0 ? 0 : this.state.shown[this.k]) - 1;
    const to = {
      ArrowLeft: () => at - 1,
      ArrowRight: () => at + 1,
      ArrowUp: () => this.#beyond(at, -1, last),
      ArrowDown: () => this.#beyond(at, 1, last),
      Home: () => 0,
      End: () => last,
    }[event.key];
    if (to) this.cells[Math.max(0, Math.min(last, to()))].node.focus();
    else if (event.key === "Enter") this.on.look(at, true, true);
    else if (event.key === "Escape") this.on.look(null, true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #beyond(at, way, last) {
    const from = this.cells[at].node.getBoundingClientRect();
    let [best, top] = [at, null];
    for (let next = at + way; next >= 0 && next <= last; next += way) {
      const box = this.cells[next].node.getBoundingClientRect();
      if (Math.abs(box.top - from.top) < 4) continue;
      top ??= box.top;
      if (Math.abs(box.top - top) >= 4) break;
      const distance = (node) => Math.abs(node.left - from.left);
      if (best === at || distance(box) < distance(this.cells[best].node.getBoundingClientRect())) best = next;
    }
    return best;
  }
}
