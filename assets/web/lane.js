// One lane: its canvas, its figures, and the data for its export.

// [key, label, explanation, text from the metrics, or null if the figure does not apply]. The first three are large.
const LARGE = 3;
const FIGURES = [
  ["forwards", "Forwards", "Calls of the network after the prefill", (m) => decimal(m.decode_forwards, 0)],
  ["share", "Tokens per forward", "Output tokens after the first, divided by the forwards of decoding",
    (m) => decimal(m.tokens_per_forward, 2)],
  ["total", "Total time", "Prefill and decoding, without the time of the page",
    (m) => seconds(m.prefill_seconds + m.decode_seconds)],
  ["rate", "Output tokens/s", "Output tokens after the first, divided by the seconds of decoding",
    (m) => decimal(m.tokens_per_second, 0)],
  ["denoise", "Denoise", "Forwards that predicted masked tokens", (m) => decimal(m.denoise_forwards, 0)],
  ["commit", "Commit", "Forwards that wrote tokens to the KV cache: commits and verifications",
    (m) => decimal(m.commit_forwards, 0)],
  ["tokens", "Output tokens", "Tokens of the answer, with its end-of-text token", (m) => decimal(m.output_tokens, 0)],
  ["drafts", "Drafts accepted", "Draft tokens that the AR pass accepted, of all that it verified",
    (m) => (m.drafted > 0 ? `${decimal(m.accepted, 0)} of ${decimal(m.drafted, 0)}` : null)],
  ["prefill", "Prefill", "Time to read the prompt", (m) => seconds(m.prefill_seconds)],
  ["first", "First token", "Time from the start to the first fixed token", (m) => seconds(m.seconds_to_first_token)],
];
const EMPTY_HEADER = { settings: {}, pieces: {}, prompt_ids: [] };

class Lane {
  // on: { look(lane, position, pinned, byKey) }
  constructor(template, { name, about }, on) {
    this.root = template.content.firstElementChild.cloneNode(true);
    this.part = (key) => this.root.querySelector(`[data-${key}]`);
    this.on = on;
    this.k = -1;
    this.stopped = "";
    this.figures = {};
    FIGURES.forEach(([key, label, explanation], index) => {
      const pair = make("div");
      pair.title = explanation;
      pair.append(make("dt", "", label), make("dd", "", "–"));
      pair.hidden = key === "drafts";
      this.part(index < LARGE ? "large" : "small").append(pair);
      this.figures[key] = pair;
    });
    this.rename(name, about);
    this.metrics = null;
    this.text = "";
    this.badge("");
  }

  // A lane from a race file.
  static of(template, kept, on) {
    const lane = new Lane(template, kept, on);
    lane.open({ ...kept.trace, context: kept.context ?? null, token_shift: kept.token_shift ?? null });
    for (const event of kept.trace.events) lane.state.add(event);
    const text = kept.text || lane.state.answer.join("") || lane.state.text(lane.state.last);
    if (lane.finished) lane.done(kept.metrics ?? measure(kept.trace.events), text);
    else lane.stopped = "not finished";
    return lane;
  }

  rename(name, about) {
    Object.assign(this, { name, about: about ?? "" });
    this.root.setAttribute("aria-label", name);
    this.part("name").textContent = name;
    this.part("about").textContent = this.about;
  }

  open(header) {
    this.state = new TraceState(header);
    const look = (position, pinned, byKey) => this.on.look(this, position, pinned, byKey);
    this.grid = new Grid(this.part("canvas"), this.state, { look });
    this.reading = new Reading(this);
  }

  add(event, pieces, bytes) {
    if (!this.state) this.open(EMPTY_HEADER);
    this.state.add(event, pieces, bytes);
  }

  // answer: the text of each token of the answer
  done(metrics, text, answer = null) {
    Object.assign(this, { metrics, text });
    if (answer && this.state) this.state.answer = answer;
  }

  get finished() {
    return this.state?.finished ?? false;
  }

  get duration() {
    return this.state?.times.at(-1) ?? 0;
  }

  badge(text, kind = "", title = "") {
    const badge = this.part("badge");
    badge.textContent = text;
    Object.assign(badge.dataset, { kind });
    badge.title = title;
  }

  // Show the state after event k.
  show(k, view) {
    if (!this.state) return;
    this.k = k;
    this.grid.paint(k, view);
    this.reading.draw();
    this.#count(k);
  }

  // The text after the event that the lane shows. After the last event, it is the answer without control tokens.
  textNow() {
    const over = this.k >= 0 && this.state.events[this.k][0] === "finish";
    return over ? this.text : this.state.text(this.k);
  }

  // The tokens of the finished answer as {text: what each adds to the answer, name: a text that is never empty}.
  words() {
    const { state } = this;
    return state.events.at(-1)[4].map((_, at) => {
      const entry = state.entry(at, state.last);
      const name = state.nameAt(at, state.last, entry);
      return { text: state.answer.length ? state.answer[at] ?? "" : name, name };
    });
  }

  // Set the height of the longest state, so that nothing below moves during the replay.
  reserve(view) {
    const { canvas } = this.grid;
    const longest = this.state.shown.indexOf(Math.max(...this.state.shown));
    const heights = [longest, this.state.last].map((k) => {
      this.grid.paint(k, view);
      return canvas.offsetHeight;
    });
    canvas.style.minHeight = `${Math.max(...heights)}px`;
    this.grid.paint(this.k, view);
  }

  #count(k) {
    const { state } = this;
    const over = k >= 0 && state.events[k][0] === "finish";
    this.root.dataset.over = over;
    if (over) {
      const took = state.times[k];
      const [ending, sentence] = ENDINGS[state.events[k][3]] ?? [() => state.events[k][3], ""];
      this.badge(`${ending(state.lengths[k])} · ${seconds(took)}`, "done", sentence);
    } else if (this.stopped && k === state.last) this.badge(this.stopped, "stopped");
    else if (k >= 0) {
      const fixed = state.lengths[k] - state.masked[k];
      this.badge(state.widest > 1 ? `${fixed} fixed, ${state.masked[k]} masked` : plural(fixed, "token"), "running");
    }
    else this.badge("not started");
    const metrics = over && this.metrics ? this.metrics : this.#soFar(k);
    for (const [key, , , value] of FIGURES) {
      const text = value(metrics);
      // A figure that the finished lane has is visible during the whole replay, so that nothing moves.
      this.figures[key].hidden = text === null && !(this.metrics && value(this.metrics));
      this.figures[key].lastChild.textContent = text ?? "–";
    }
  }

  #soFar(k) {
    const { state } = this;
    return { ...measure(state.events.slice(0, k + 1)), output_tokens: k < 0 ? 0 : state.lengths[k] - state.masked[k] };
  }

  // The lane in the format of a race file; null if it has no event. A stopped lane has a trace without a finish.
  toJSON() {
    if (!this.state?.events.length) return null;
    const { context, token_shift: shift, events, ...header } = this.state.header;
    const { answer } = this.state;
    const trace = { ...header, ...this.#texts(), ...(answer.length ? { answer_pieces: answer } : {}), events: this.state.events };
    return {
      name: this.name, about: this.about, trace, context: context ?? null, token_shift: shift ?? null,
      metrics: this.finished ? this.metrics : null, text: this.finished ? this.text : "",
    };
  }

  // The trace up to event k, without a finish: the start of a fork.
  cutAfter(k) {
    const { context, token_shift: shift, answer_pieces: answer, ...header } = this.state.header;
    const events = this.state.events.slice(0, k + 1).filter(([kind]) => kind !== "finish");
    return { ...header, ...this.#texts(), events };
  }

  #texts() {
    const { pieces, bytes } = this.state;
    return { pieces: Object.fromEntries(pieces), ...(bytes.size ? { bytes: Object.fromEntries(bytes) } : {}) };
  }
}
