// The answer of a lane as text, beside its tokens: rendered, or with its differences from the answer of AR.

const COPIED_MS = 1600;

class Reading {
  // lane: its root element holds the buttons and the text.
  constructor(lane) {
    this.lane = lane;
    this.part = (key) => lane.root.querySelector(`[data-${key}]`);
    this.as = "tokens";
    this.against = null; // the lane of AR; null without one, and in that lane itself
    this.runs = [];
    for (const button of lane.root.querySelectorAll("[data-as]")) {
      button.addEventListener("click", () => this.show(button.dataset.as));
    }
    this.part("copy").addEventListener("click", () => this.#copy());
    this.part("differs").addEventListener("click", () => this.#toFirst());
    lane.grid?.canvas.addEventListener("copy", (event) => this.#copySelected(event));
  }

  // as: tokens, text or changes
  show(as) {
    this.as = as;
    for (const button of this.lane.root.querySelectorAll("[data-as]")) {
      button.setAttribute("aria-pressed", button.dataset.as === as);
    }
    this.lane.root.dataset.reads = as;
    this.part("text").hidden = as === "tokens";
    this.drawn = null;
    this.draw();
  }

  // Compare with the answer of another lane; null: with none.
  compare(baseline) {
    const { lane } = this;
    this.against = baseline !== lane && baseline?.finished && lane.finished ? baseline : null;
    this.runs = this.against ? difference(this.against.words().map(keyOf), lane.words().map(keyOf)) : [];
    const first = this.runs.find((run) => run.kind !== "same");
    this.same = this.against ? !first : null;
    this.part("differs").hidden = this.same !== false;
    this.lane.root.querySelector("[data-as=changes]").hidden = this.against === null;
    if (first) {
      const at = this.runs[0].kind === "same" ? this.runs[0].to : 0;
      const count = this.runs.filter((run) => run.kind === "new").reduce((sum, run) => sum + run.to - run.from, 0);
      this.part("differs").textContent = `AR differs at token ${at + 1}`;
      this.part("differs").title = `${plural(count, "token")} of ${lane.words().length} differ from AR's. Show the first.`;
    }
    if (this.as === "changes" && !this.against) this.show("text");
    this.drawn = null;
    this.draw();
  }

  // Draw the text after the event that the lane shows.
  draw() {
    if (this.as === "tokens") return;
    const text = this.lane.textNow();
    const drawn = `${this.as} ${text}`;
    if (this.drawn === drawn) return;
    this.drawn = drawn;
    const box = this.part("text");
    box.dataset.as = this.as;
    if (this.as === "text") box.replaceChildren(renderMarkdown(text));
    else box.replaceChildren(...this.#changes());
  }

  #changes() {
    const words = { gone: this.against.words(), new: this.lane.words() };
    return this.runs.map(({ kind, from, to }) => {
      const pieces = (words[kind] ?? words.new).slice(from, to).map(({ text, name }) => (kind === "same" ? text : text || name));
      return make({ same: "span", gone: "del", new: "ins" }[kind], "", pieces.join(""));
    });
  }

  #toFirst() {
    this.show("changes");
    const node = this.part("text").querySelector("ins, del");
    node?.scrollIntoView({ block: "center" });
    this.part("text").focus({ preventScroll: true });
  }

  async #copy() {
    const done = await copyText(visibleText(this.lane.textNow()));
    const button = this.part("copy");
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => { button.textContent = "Copy"; }, COPIED_MS);
  }

  // A selection in the token view is copied as the text of its tokens, without the signs that the view adds.
  #copySelected(event) {
    const chosen = getSelection();
    const { grid, state, k } = this.lane;
    const at = grid.cells.flatMap(({ node, entry }, place) => (entry?.fixed && chosen.containsNode(node, true) ? [place] : []));
    if (at.length < 2) return;
    event.clipboardData.setData("text/plain", visibleText(at.map((place) => state.textAt(place, k, state.entry(place, k))).join("")));
    event.preventDefault();
  }
}

const keyOf = ({ text, name }) => text || name;
