// The panel for one token: why it was fixed, its confidences, its alternatives, and the controls of a fork.

// The threshold that this token must exceed; null without one, as for drafts, AR and other policies.
function limitOf({ strategy, unmasking, threshold }, { fixed, reason }) {
  if (fixed && !["over_threshold", "most_confident"].includes(reason)) return null;
  return strategy === "block_diffusion" && unmasking === "confidence" && typeof threshold === "number" ? threshold : null;
}

const GAP = 8; // pixels between the token, the panel and the edge of the window
const SPARK = { width: 260, height: 64, left: 4, right: 4, top: 5, bottom: 5 };

class Inspector {
  // on: { fork(payload), changed(lane) }; policies: the table of unmasking policies, for a fork.
  constructor(root, on, { forks, policies }) {
    this.root = root;
    this.on = on;
    this.forks = forks;
    this.policies = policies;
    // A replay file has no engine, so the controls of a fork are removed from the document.
    const fork = root.querySelector("[data-fork]");
    if (!forks) fork.remove();
    this.part = (key) => root.querySelector(`[data-${key}]`) ?? fork.querySelector(`[data-${key}]`) ?? fork;
    this.lane = null;
    this.position = null;
    this.pinned = false;
    this.changes = new Map(); // by position: {token, text}; token: an id, a typed string, or null for a mask
    this.isPaused = false;
    this.part("replace").addEventListener("click", () => this.#toggleReplacement());
    this.part("replacement").addEventListener("submit", (event) => this.#replace(event));
    this.part("remask").addEventListener("click", () => this.#change({ token: null, text: null }));
    this.part("pinguess").addEventListener("click", () => this.#fixPrediction());
    this.part("continue").addEventListener("click", () => this.#continue());
    this.part("unpin").addEventListener("click", () => this.on.unpin());
    this.part("limit").addEventListener("input", () => this.#forkable());
    this.part("policy").addEventListener("input", () => {
      this.#field();
      this.#forkable();
    });
    this.draw();
  }

  // Show a token at its place on the page; position null hides the panel.
  show(lane, position, pinned) {
    if (this.lane !== lane && lane) this.#dropChanges(lane);
    Object.assign(this, { lane: lane ?? this.lane, position, pinned });
    this.part("replacement").hidden = true;
    this.draw();
  }

  // The time has changed. Changes for a fork belong to one event, so they are deleted.
  moved() {
    if (this.changes.size) this.#dropChanges(this.lane);
    this.draw();
  }

  // The changes of a fork are shown in the lane that it came from. They must not stay there.
  reset() {
    if (this.lane) this.#dropChanges(this.lane);
    Object.assign(this, { lane: null, position: null, pinned: false });
    this.draw();
  }

  // Whether the replay is paused: only then can a fork begin.
  paused(isPaused) {
    if (this.isPaused === isPaused) return;
    this.isPaused = isPaused;
    this.#forkable();
    this.place();
  }

  draw() {
    const { lane, position } = this;
    const k = lane?.k ?? -1;
    const entry = lane?.state && position !== null ? lane.state.entry(position, k) : null;
    this.entry = entry;
    this.part("unpin").hidden = !this.pinned;
    if (entry) {
      const { state } = lane;
      const text = entry.token === null ? "" : inline(state.nameAt(position, k, entry));
      this.part("token").textContent = entry.fixed ? text : text ? `${text} ?` : "···";
      this.part("token").dataset.state = STATE_NAMES[state.stateOf(position, k, entry)];
      this.part("sure").textContent = entry.p === null ? "" : percent(entry.p);
      this.part("where").textContent = [lane.name, ...this.#where(state, k, entry)].join(" · ");
      this.part("why").textContent = this.#why(state, entry);
      this.#history(state, k, entry);
      this.#others(state, entry);
    }
    this.#forkable();
    this.place();
  }

  // Put the panel below its token, above it, or beside it, where there is room. On a phone, CSS makes it a sheet at the
  // bottom.
  place() {
    const { root, entry } = this;
    const isOpen = root.matches(":popover-open");
    if (!entry || !root.isConnected) {
      if (isOpen) root.hidePopover();
      return;
    }
    if (!isOpen) root.showPopover();
    const token = this.lane.grid.cells[this.position].node.getBoundingClientRect();
    const { width, height } = root.getBoundingClientRect();
    const { clientWidth: room } = document.documentElement; // without the scroll bar
    const inside = (start, size, most) => Math.max(GAP, Math.min(start, most - size - GAP));
    const above = Math.min(token.top, innerHeight) - GAP - height;
    let [left, top] = [inside(token.left, width, room), token.bottom + GAP];
    if (top + height > innerHeight) {
      top = Math.max(GAP, above);
      if (above < GAP) {
        const right = token.right + GAP;
        left = inside(right + width <= room ? right : token.left - GAP - width, width, room);
        top = inside(token.top, height, innerHeight);
      }
    }
    root.style.setProperty("--left", `${Math.round(left)}px`);
    root.style.setProperty("--top", `${Math.round(top)}px`);
  }

  #where(state, k, entry) {
    const block = state.widest > 1 ? state.blockOf(this.position, k) : 0;
    const at = [`position ${this.position}`];
    if (block) at.push(`block ${block}`);
    if (!entry.fixed || entry.rejected) return at;
    const kind = state.events[entry.at]?.[0];
    const made = {
      prefill: "fixed with the prompt",
      denoise: entry.block === null ? "" : `fixed in step ${entry.step + 1} of block ${entry.block + 1}`,
      commit: state.widest > 1 ? `fixed as block ${entry.block + 1} was committed` : "",
      verify: `fixed as block ${entry.block + 1} was verified`,
      edit: entry.kept ? "" : "changed by hand",
    }[kind];
    return [...at, made, `after ${seconds(state.times[entry.at])}`].filter(Boolean);
  }

  #why(state, entry) {
    if (entry.rejected) return "A draft token that the AR pass rejected.";
    if (entry.fixed) return why(entry, state.settings, state.textOf, state.fixedTogether(entry));
    if (entry.edited) return "Masked again by hand in this fork.";
    if (entry.token === null) return "Masked; no forward has predicted it yet.";
    const limit = limitOf(state.settings, entry);
    const below = limit !== null && entry.p <= limit ? `, not above the threshold ${limit}` : "";
    return `Still masked: the confidence of the current prediction is ${share(entry.p)}${below}.`;
  }

  // The confidence in each forward that predicted this position, and the threshold if there is one.
  #history(state, k, entry) {
    const points = state.confidences(this.position, k);
    const box = this.part("history");
    box.hidden = points.length === 0;
    if (!points.length) return;
    const { width, height, left, right, top, bottom } = SPARK;
    const x = (index) => (points.length === 1 ? width / 2 : left + (index / (points.length - 1)) * (width - left - right));
    const y = (p) => top + (1 - p) * (height - top - bottom);
    const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", preserveAspectRatio: "xMinYMid meet" });
    svg.setAttribute("aria-label", `Confidence: ${points.map(([, p]) => percent(p)).join(", ")}`);
    for (const p of [0, 0.5, 1]) svg.append(makeSvg("line", { class: "rule", x1: 0, x2: width, y1: y(p), y2: y(p) }));
    const limit = limitOf(state.settings, entry);
    if (typeof limit === "number") {
      svg.append(makeSvg("line", { class: "limit", x1: 0, x2: width, y1: y(limit), y2: y(limit) }));
    }
    svg.append(makeSvg("polyline", { class: "curve", points: points.map(([, p], i) => `${x(i)},${y(p)}`).join(" ") }));
    points.forEach(([at, p, token], i) => {
      const last = i === points.length - 1 && entry.fixed && at === entry.at;
      const dot = makeSvg("circle", { class: last ? "dot fixed" : "dot", cx: x(i), cy: y(p), r: last ? 4.5 : 3 });
      const title = makeSvg("title", {});
      title.textContent = `${inline(state.textOf(token))} at ${percent(p)}`;
      dot.append(title);
      svg.append(dot);
    });
    this.part("spark").replaceChildren(svg);
    const predictions = points.map(([, , token]) => inline(state.textOf(token))).filter((text, i, all) => text !== all[i - 1]);
    this.part("guesses").textContent = predictions.length > 1 ? `Predictions: ${predictions.slice(-6).join(" → ")}` : "";
    const over = points.length === 1 ? "in one forward" : `over ${points.length} forwards`;
    this.part("over").textContent = `Confidence ${over}${typeof limit === "number" ? `, threshold ${limit}` : ""}`;
  }

  #others(state, entry) {
    const rows = entry.fixed && entry.p !== null ? [[entry.token, entry.p], ...(entry.others ?? [])] : [];
    this.part("others").hidden = rows.length < 2;
    this.part("bars").replaceChildren(...rows.slice(0, 5).map(([token, p], index) => {
      const row = make("li", index ? "" : "chosen");
      row.style.setProperty("--p", p);
      row.append(make("span", "text", inline(state.textOf(token))), make("span", "bar"), make("span", "value", percent(p)));
      return row;
    }));
  }

  // -- a fork ------------------------------------------------------------------------------------------

  #dropChanges(lane) {
    this.changes.clear();
    for (const each of new Set([this.lane, lane])) {
      if (each?.grid) each.grid.overlay = new Map();
      if (each) this.on.changed(each);
    }
    this.fieldsOf = null;
  }

  #forkable() {
    const { lane, entry } = this;
    const possible = this.forks && this.isPaused && Boolean(lane?.state) && lane.k >= 0;
    this.part("fork").hidden = !possible || !(this.pinned || this.changes.size);
    if (!possible) return;
    const { settings } = lane.state;
    if (this.fieldsOf !== lane) {
      this.fieldsOf = lane;
      // A draft in one pass uses no policy: that pass fixes all of its tokens.
      this.part("knobs").hidden = settings.strategy === "ar"
        || (settings.strategy === "self_speculative" && (settings.draft_steps ?? 1) === 1);
      const known = this.policies.map(({ name, label }) => [name, label]);
      const chosen = settings.unmasking ?? known[0][0];
      if (!known.some(([name]) => name === chosen)) known.push([chosen, chosen]);
      this.part("policy").replaceChildren(...known.map(([name, label]) => new Option(label, name)));
      this.part("policy").value = chosen;
      this.#field();
    }
    const exists = Boolean(entry) && !entry.rejected;
    this.part("replace").disabled = !exists;
    this.part("remask").disabled = !exists || (!entry.fixed && !this.changes.has(this.position)) || settings.strategy === "ar";
    this.part("pinguess").disabled = !exists || entry.fixed || entry.token === null;
    this.part("changes").replaceChildren(...[...this.changes].map(([position, { text }]) => {
      const item = make("li", "", text === null ? `${position}: masked again` : `${position}: “${inline(text)}”`);
      const undo = make("button", "undo", "×");
      undo.type = "button";
      undo.setAttribute("aria-label", `Undo the change at position ${position}`);
      undo.addEventListener("click", () => this.#change(null, position));
      item.append(undo);
      return item;
    }));
    this.part("continue").disabled = !this.changes.size && !Object.keys(this.#settings()).length;
    this.part("from").textContent = `Continues ${lane.name} at ${seconds(lane.state.times[lane.k])} in a new lane.`;
  }

  get #policy() {
    return this.policies.find(({ name }) => name === this.part("policy").value);
  }

  // The setting of the selected policy.
  #field() {
    const policy = this.#policy;
    this.part("limitbox").hidden = !policy;
    if (!policy) return;
    this.part("limitname").textContent = policy.setting_label;
    const limit = this.part("limit");
    Object.assign(limit, { min: policy.setting_least ?? "", max: policy.setting_most ?? "", step: policy.setting_step ?? "any" });
    limit.value = this.lane.state.settings[policy.setting] ?? "";
  }

  #settings() {
    const { settings } = this.lane.state;
    const wanted = {};
    if (this.part("knobs").hidden) return wanted;
    const policy = this.part("policy").value;
    const field = this.#policy?.setting;
    const limit = this.part("limit");
    if (field && limit.value !== "" && limit.validity.valid && Number(limit.value) !== settings[field]) {
      wanted[field] = Number(limit.value);
    }
    if (policy !== settings.unmasking) wanted.unmasking = policy;
    return wanted;
  }

  #toggleReplacement() {
    const form = this.part("replacement");
    form.hidden = !form.hidden;
    if (form.hidden) return;
    const field = form.querySelector("input");
    const { lane, entry, position } = this;
    field.value = entry.token === null ? "" : lane.state.nameAt(position, lane.k, entry);
    field.select();
    field.focus();
  }

  #replace(event) {
    event.preventDefault();
    const text = this.part("replacement").querySelector("input").value;
    const { lane, entry, position } = this;
    // Unchanged, it is the same token: text that is typed never becomes a control token.
    const same = entry.token !== null && text === lane.state.nameAt(position, lane.k, entry);
    if (text) this.#change({ token: same ? entry.token : text, text });
    this.part("replacement").hidden = true;
  }

  #fixPrediction() {
    const { token } = this.entry;
    this.#change({ token, text: this.lane.state.textOf(token) });
  }

  #change(change, position = this.position) {
    if (change) this.changes.set(position, change);
    else this.changes.delete(position);
    this.lane.grid.overlay = new Map([...this.changes].map(([at, { text }]) => [at, text === null ? null : [text]]));
    this.on.changed(this.lane);
    this.#forkable();
    this.place();
  }

  #continue() {
    const { lane } = this;
    this.on.fork({
      trace: lane.cutAfter(lane.k),
      name: lane.name,
      changes: [...this.changes].sort(([a], [b]) => a - b).map(([position, { token }]) => [position, token]),
      settings: this.#settings(),
    }, lane);
  }
}
