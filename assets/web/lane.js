// One lane: the canvas that its frames paint, and its figures.
//
// Frames come as playground/frames.py describes them. All text goes in by textContent, title or dataset: what a model
// wrote is never parsed as HTML. Nodes are made once a position and changed in place, so a poll costs what it changes.

const REASONS = {
  ar: "the most likely next token",
  over_threshold: "above the threshold",
  most_confident: "the most confident of its pass",
  top_k: "among the most confident of its pass",
  lowest_entropy: "among the least uncertain of its pass",
  draft: "a draft, to be verified",
  accepted_draft: "a draft that AR agreed with",
  correction: "AR's own token, where the draft was wrong",
};

const ENDINGS = {
  eos: "ended by the model",
  stop_string: "ended by a stop string",
  length: "cut at the token limit",
};

// [key, label, explanation, value of a finished lane's metrics]
const FIGURES = [
  ["rate", "Output tokens/s", "Output tokens after the first, over the seconds of decoding",
    (m) => decimal(m.tokens_per_second, 0)],
  ["share", "Tokens/forward", "Output tokens after the first, over the forwards of decoding",
    (m) => decimal(m.tokens_per_forward, 2)],
  ["forwards", "Forwards", "Calls of the network after the prefill", (m) => decimal(m.decode_forwards, 0)],
  ["tokens", "Output tokens", "Tokens of the answer, its end included", (m) => decimal(m.output_tokens, 0)],
  ["prefill", "Prefill", "Reading the prompt", (m) => seconds(m.prefill_seconds)],
  ["first", "First token", "From the start until the first token stood", (m) => seconds(m.seconds_to_first_token)],
  ["total", "Total", "Prefill and decoding together, without what the page costs",
    (m) => seconds(m.prefill_seconds + m.decode_seconds)],
];

function decimal(value, digits) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function seconds(value) {
  return value < 1 ? `${decimal(value * 1000, value < 0.1 ? 1 : 0)} ms` : `${decimal(value, 2)} s`;
}

function percent(p) {
  return `${decimal(p * 100, 1)} %`;
}

// A token's text as [before, shown, after]: the space that begins a word and the indent after a line break stand
// outside the coloured box, so that boxes hug words and lines break as they do in text.
function split(text) {
  const [, before, body, after] = /^( ?)([^]*?)(\n[ \t]*)?$/.exec(text.replaceAll("\r\n", "\n"));
  const shown = body.replaceAll("\n", "↵\n").replaceAll("\t", "⇥") + (after ? "↵" : "");
  return shown ? [before, shown, after ?? ""] : ["", before || "∅", ""];
}

class Lane {
  constructor(template, { name, about }) {
    this.root = template.content.firstElementChild.cloneNode(true);
    this.name = name;
    this.part = (key) => this.root.querySelector(`[data-${key}]`);
    this.root.setAttribute("aria-label", name);
    this.part("name").textContent = name;
    this.part("about").textContent = about;
    this.figures = {};
    for (const [key, label, explanation] of FIGURES) {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const value = document.createElement("dd");
      term.textContent = label;
      pair.title = explanation;
      value.textContent = "–";
      pair.append(term, value);
      this.part("figures").append(pair);
      this.figures[key] = value;
    }
    this.cells = []; // by position: its nodes, and what the frames have said of it
    this.fresh = []; // cells that the last frame fixed
    this.committed = 0;
    this.forwards = 0;
    this.time = 0; // seconds of engine work so far
    this.finished = false;
    this.badge("");
  }

  badge(text, kind = "") {
    this.part("badge").textContent = text;
    this.part("badge").dataset.kind = kind;
  }

  figure(key, text) {
    this.figures[key].textContent = text;
  }

  // Apply one frame to the cells; `settle` paints what changed.
  apply(frame) {
    if (!this.cells.length) this.part("canvas").textContent = "";
    for (const cell of this.fresh) this.mark(cell, { fresh: false });
    this.fresh = [];
    this.time = frame.time;
    if (frame.kind !== "prefill" && frame.kind !== "finish") this.forwards += 1;
    if (frame.kind === "prefill") {
      this.figure("prefill", seconds(frame.time));
    } else if (frame.kind === "denoise") {
      this.reach(frame.stop);
      this.open(frame);
      for (const [position, text, confidence] of frame.pending) {
        if (position >= 0) this.mark(this.cells[position], { guess: text, confidence });
      }
    } else if (frame.kind === "commit") {
      this.commit(frame.stop);
    } else if (frame.kind === "verify") {
      this.commit(frame.start + 1 + frame.accepted);
      this.truncate(this.committed);
    } else if (frame.kind === "finish") {
      this.truncate(frame.length);
      this.commit(frame.length);
      this.finish(frame);
    }
    for (const [position, , text, confidence, reason, runnersUp] of frame.fixed ?? []) {
      this.reach(position + 1);
      if (position === 0) this.figure("first", seconds(frame.time));
      const how = { block: frame.block, step: frame.step, time: frame.time };
      const cell = this.cells[position];
      this.mark(cell, { fixed: true, fresh: true, text, confidence, reason, runnersUp, ...how });
      this.fresh.push(cell);
    }
  }

  // A block wider than one token shows where it begins.
  open(frame) {
    const first = this.cells[Math.max(frame.start, 0)];
    if (frame.stop - frame.start > 1 && first) this.mark(first, { opens: frame.block + 1 });
  }

  commit(stop) {
    for (const cell of this.cells.slice(this.committed, stop)) this.mark(cell, { committed: true });
    this.committed = Math.max(this.committed, stop);
  }

  finish(frame) {
    this.finished = true;
    for (const [key, , , show] of FIGURES) this.figure(key, show(frame.metrics));
    this.badge(ENDINGS[frame.reason] ?? frame.reason, "done");
  }

  reach(stop) {
    while (this.cells.length < stop) {
      const slot = document.createElement("span");
      const node = document.createElement("span");
      slot.append("", node, "");
      this.part("canvas").append(slot);
      this.cells.push({ slot, node, position: this.cells.length, dirty: true });
    }
  }

  truncate(length) {
    for (const cell of this.cells.splice(length)) cell.slot.remove();
  }

  mark(cell, news) {
    Object.assign(cell, news, { dirty: true });
  }

  settle() {
    for (const cell of this.cells) {
      if (cell.dirty) this.paint(cell);
      cell.dirty = false;
    }
    if (!this.finished && this.cells.length) {
      const fixed = this.cells.filter((cell) => cell.fixed).length;
      this.figure("forwards", decimal(this.forwards, 0));
      this.figure("total", seconds(this.time));
      this.badge(`${fixed} fixed, ${this.cells.length - fixed} masked`, "running");
    }
  }

  paint(cell) {
    const { node } = cell;
    const state = !cell.fixed ? "mask" : cell.committed ? "committed" : "fixed";
    node.className = `token ${state}${cell.fresh ? " new" : ""}${cell.opens ? " opens" : ""}`;
    const [before, shown, after] = cell.fixed ? split(cell.text) : ["", "···", ""];
    cell.slot.firstChild.data = before;
    node.textContent = shown;
    cell.slot.lastChild.data = after;
    node.title = this.describe(cell);
    node.style.setProperty("--p", (cell.confidence ?? 0).toFixed(3));
    if (cell.opens) node.dataset.block = cell.opens;
  }

  describe(cell) {
    const at = `position ${cell.position}`;
    if (!cell.fixed) {
      const guess = cell.guess === undefined ? "" : `; so far “${cell.guess}” at ${percent(cell.confidence)}`;
      return `masked, ${at}${guess}`;
    }
    const step = cell.step === undefined ? "" : `step ${cell.step + 1} of block ${cell.block + 1}, `;
    const others = (cell.runnersUp ?? []).map(([text, p]) => `“${text}” ${percent(p)}`).join(", ");
    return [
      `“${cell.text}” at ${percent(cell.confidence)}, ${REASONS[cell.reason] ?? cell.reason}`,
      `${step}${at}, after ${seconds(cell.time)}`,
      others && `next best: ${others}`,
    ].filter(Boolean).join("\n");
  }
}

