// The race player: the lanes, their common clock, and the panels below them.
//
// It uses neither Gradio nor a server. stage.js gives it the frames of a live run; replay.js gives it the race of a file.

const FOLLOW_MS = 120;
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

class Player {
  // on: { ended(), fork(payload), imported(race), sources() }, all optional.
  // tables: {strategies, policies} from playground/server/tables.py.
  constructor(root, on, tables) {
    this.root = root;
    this.on = on;
    this.tables = tables;
    this.part = (key) => root.querySelector(`[data-${key}]`);
    this.lanes = [];
    this.live = false;
    this.view = "confidence";
    this.chosen = null; // the lane that the mask view shows
    Object.assign(this, { title: "", verdict: "", label: "" });
    this.scrubber = new Scrubber(this.part("transport"), {
      seek: (time, playing) => this.#seek(time, playing),
      pause: () => this.#announce(),
    });
    this.part("transport").addEventListener("speed", () => this.#labels());
    this.inspector = new Inspector(this.part("inspector"), {
      fork: (payload, lane) => this.on.fork?.({ ...payload, lane: this.lanes.indexOf(lane), lanes: this.lanes.length }),
      changed: (lane) => lane.grid?.paint(lane.k),
      unpin: () => this.#look(null, null, true),
    }, { forks: Boolean(on.fork), policies: tables.policies });
    this.mask = new MaskView(this.part("maskview"));
    this.strip = new Strip(this.part("strip"), { choose: (lane) => this.#choose(lane) });
    this.#wire();
    new ResizeObserver(([{ contentRect: { width } }]) => {
      if (this.width && Math.abs(width - this.width) > 1) this.#reserve();
      this.width = width;
    }).observe(root);
  }

  #wire() {
    for (const button of this.root.querySelectorAll("[data-view]")) {
      if (button.tagName === "INPUT") button.addEventListener("change", () => this.#see(button.value));
    }
    // The keys work wherever the focus is, but not in a field and not while another tab of the page is shown.
    document.addEventListener("keydown", (event) => this.#pressed(event));
    for (const kind of ["scroll", "resize"]) {
      addEventListener(kind, () => { if (this.inspector.entry) this.inspector.place(); }, { capture: true, passive: true });
    }
    this.part("showmask").addEventListener("click", () => this.#toggleMask());
    this.part("masklane").addEventListener("change", () => {
      this.chosen = this.lanes[Number(this.part("masklane").value)] ?? null;
      this.mask.draw(this.chosen);
    });
    this.part("exportjson").addEventListener("click", () => this.#exportJson());
    this.part("exporthtml").addEventListener("click", () => this.#exportHtml());
    this.part("import").addEventListener("click", () => this.part("file").click());
    this.part("file").addEventListener("change", () => this.#import());
    this.part("exporthtml").hidden = !this.on.sources;
    if (!this.on.fork) this.part("forkhint").remove();
  }

  say(key, text) {
    this.part(key).textContent = text ?? "";
    this.part(key).hidden = !text;
  }

  // -- runs and races ----------------------------------------------------------------------------------

  // Start a live run: its lanes follow the first `keep` lanes that are shown now.
  begin(wanted, keep, title) {
    const kept = this.lanes.slice(0, keep);
    this.#fill([...kept, ...wanted.map((lane) => new Lane(this.#template, lane, this.#laneEvents))]);
    this.title = title || (kept.length ? this.title : "");
    this.live = wanted.length > 0;
    this.label = this.live ? "Live" : "";
    this.#setVerdict(kept.length ? this.verdict : ""); // a fork gets no verdict, so the old one stays
    this.scrubber.set([], []);
    for (const lane of this.lanes) lane.show(lane.state ? lane.state.last : -1, this.view);
  }

  // One frame of a live run. frame.lane counts from the first lane that is not kept.
  frame(frame, keep) {
    if (frame.kind === "summary") {
      if (frame.verdict || keep === 0) this.#setVerdict(frame.verdict);
      return;
    }
    const lane = this.lanes[keep + frame.lane];
    if (!lane) return;
    if (frame.kind === "open") {
      lane.rename(frame.name ?? lane.name, frame.about ?? lane.about);
      lane.open({ ...frame.header, context: frame.context ?? frame.header.context ?? null,
        token_shift: frame.token_shift ?? frame.header.token_shift ?? null });
      this.#listLanes();
      this.#labels();
    } else if (frame.kind === "event") lane.add(frame.event, frame.pieces, frame.bytes);
    else if (frame.kind === "done") {
      lane.done(frame.metrics, frame.text, frame.answer_pieces);
      this.#compare();
    }
  }

  // Draw the changes of the last frames.
  paintLive() {
    const moved = this.lanes.filter((lane) => lane.state && lane.k !== lane.state.last);
    for (const lane of moved) lane.show(lane.state.last, this.view);
    if (moved.length) this.#follow();
    this.inspector.draw();
    this.mask.draw(this.chosen);
    const decoding = this.lanes.findLast((lane) => lane.state);
    if (!this.picked && decoding && decoding !== this.current) this.#setCurrent(decoding);
    this.strip.draw(this.lanes, this.current);
  }

  // A click on the strip: on a phone it shows that lane, elsewhere it brings the lane into view.
  #choose(lane) {
    this.picked = true;
    this.#setCurrent(lane);
    this.strip.draw(this.lanes, lane);
    lane.root.scrollIntoView({ block: "nearest", behavior: STILL.matches ? "auto" : "smooth" });
    this.#reserve();
  }

  #setCurrent(lane) {
    this.current = lane;
    for (const each of this.lanes) each.root.toggleAttribute("data-current", each === lane);
  }

  // Scroll the lanes to their newest tokens. All lanes are measured before any is scrolled, because each change costs a
  // layout. For the same reason this runs a few times a second, not in every frame of a drag.
  #follow() {
    this.following ??= setTimeout(() => {
      this.following = null;
      const tops = this.lanes.map((lane) => lane.grid?.toFollow() ?? null);
      this.lanes.forEach((lane, index) => {
        if (tops[index] !== null) lane.grid.canvas.scrollTop = tops[index];
      });
    }, FOLLOW_MS);
  }

  // The run has ended: from now on it can be replayed.
  end(stopped) {
    this.live = false;
    for (const lane of this.lanes) {
      lane.stopped = lane.finished ? "" : stopped || "not finished";
      if (!lane.finished) lane.badge(lane.state ? lane.stopped : "not run", "stopped");
    }
    this.label = "";
    this.#replayable();
    const complete = this.lanes.length > 0 && this.lanes.every((lane) => lane.finished);
    if (complete && !STILL.matches) this.#fromTheStart();
    else this.scrubber.seek(this.scrubber.duration);
    this.on.ended?.();
  }

  // Show a race that is finished, from a file or recorded. loaded: called at the end.
  load(race, label, loaded = () => this.on.ended?.()) {
    this.live = false;
    this.#fill(race.lanes.map((lane) => Lane.of(this.#template, lane, this.#laneEvents)));
    Object.assign(this, { title: race.title ?? "", label });
    this.#setVerdict(race.verdict ?? "");
    this.#replayable();
    if (STILL.matches) this.scrubber.seek(this.scrubber.duration);
    else this.#fromTheStart();
    loaded();
  }

  // The race in the format of its file: all lanes that have begun.
  race() {
    const lanes = this.lanes.map((lane) => lane.toJSON()).filter(Boolean);
    return { format: "nbdiff-race", version: 1, title: this.title || lanes[0]?.name || "", verdict: this.verdict, lanes };
  }

  get #template() {
    return this.root.querySelector("template");
  }

  #laneEvents = { look: (lane, position, pinned, byKey) => this.#look(lane, position, pinned, byKey) };

  #fill(lanes) {
    this.inspector.reset();
    for (const lane of lanes) lane.grid?.pin(null);
    this.pinned = null;
    this.lanes = lanes;
    this.chosen = null;
    this.part("lanes").replaceChildren(...lanes.map((lane) => lane.root));
    this.part("lanes").dataset.count = Math.min(4, lanes.length);
    this.picked = false;
    // The first lane with blocks shows what this page is about.
    this.#setCurrent(lanes.find((lane) => lane.state?.widest > 1) ?? lanes[0] ?? null);
    this.strip.draw(lanes, this.current);
    this.#listLanes();
  }

  #listLanes() {
    const select = this.part("masklane");
    select.replaceChildren(...this.lanes.map((lane, index) => new Option(lane.name, String(index))));
    this.chosen ??= this.lanes.find((lane) => lane.state?.widest > 1) ?? this.lanes[1] ?? this.lanes[0] ?? null;
    select.value = String(this.lanes.indexOf(this.chosen));
  }

  #setVerdict(verdict) {
    this.verdict = verdict;
    this.say("verdict", verdict);
  }

  #replayable() {
    this.chosen = null;
    this.#listLanes();
    const states = this.lanes.map((lane) => lane.state).filter(Boolean);
    const blocks = states.flatMap((state) => state.blockEvents.map((k) => state.times[k]));
    this.scrubber.set(states.flatMap((state) => state.times), blocks);
    for (const lane of this.lanes) lane.grid?.finish();
    this.#compare();
    this.#labels();
    this.#reserve();
  }

  // Compare every answer with that of the first AR lane.
  #compare() {
    const baseline = this.lanes.find((lane) => lane.finished && lane.state.settings.strategy === "ar") ?? null;
    for (const lane of this.lanes) lane.reading?.compare(baseline);
    this.strip.draw(this.lanes, this.current);
  }

  #reserve() {
    if (this.live) return;
    const shown = this.lanes.filter((lane) => lane.state?.events.length && lane.root.offsetParent);
    for (const lane of shown) lane.grid.canvas.style.minHeight = ""; // first for all: lanes in one row have equal heights
    for (const lane of shown) lane.reserve(this.view);
  }

  #fromTheStart() {
    this.scrubber.seek(0);
    this.scrubber.play();
  }

  #seek(time, playing) {
    const moved = this.lanes.filter((lane) => lane.state && lane.state.eventAt(time) !== lane.k);
    for (const lane of moved) lane.show(lane.state.eventAt(time), this.view);
    if (moved.length) this.#follow();
    if (moved.includes(this.inspector.lane)) this.inspector.moved();
    this.root.dataset.playing = playing;
    this.inspector.paused(!playing && !this.live);
    this.mask.draw(this.chosen);
  }

  // Paused: describe the state for screen readers.
  #announce() {
    this.root.dataset.playing = false;
    this.inspector.paused(!this.live);
    const sentences = this.lanes.filter((lane) => lane.state).map((lane) => `${lane.name}: ${lane.state.summary(lane.k)}`);
    this.part("summary").textContent = sentences.join(" ");
  }

  #labels() {
    const replay = `Replay at ${speedName(this.scrubber?.rate ?? 1)}`;
    const has = this.lanes.some((lane) => lane.state);
    this.part("replaying").textContent = this.live || !has ? this.label : [this.label, replay].filter(Boolean).join(" · ");
    this.part("replaying").dataset.kind = this.label.toLowerCase();
    this.say("title", this.label === "Live" ? "" : this.title);
    this.part("title").title = this.title;
    this.part("transport").hidden = this.live || !has;
    const all = ["blocks", "drafts", "edits"].filter((what) => this.lanes.some((lane) => lane.state?.has[what]));
    for (const item of this.root.querySelectorAll("[data-when]")) item.hidden = has && !all.includes(item.dataset.when);
    const exportable = has && !this.live;
    for (const key of ["exportjson", "exporthtml"]) this.part(key).disabled = !exportable;
  }

  #see(view) {
    this.view = view;
    for (const lane of this.lanes) lane.grid?.paint(lane.k, view);
    this.root.dataset.shows = view;
  }

  // A token is pointed at or pinned, with the keyboard or not. A pinned token stays until it is unpinned or another one is pinned.
  #look(lane, position, pin, byKey = false) {
    if (pin) {
      const again = this.pinned && this.pinned.lane === lane && this.pinned.position === position;
      this.pinned?.lane.grid?.pin(null);
      this.pinned = position === null || again ? null : { lane, position };
      if (this.pinned) lane.grid.pin(position);
    } else if (this.pinned) return;
    this.inspector.show(lane, position, this.pinned !== null);
    if (pin && this.pinned) this.#aboveSheet(lane, position);
    if (byKey && this.pinned) this.inspector.root.focus({ preventScroll: true }); // Tab moves on to its controls
    if (lane && this.mask.open && pin && this.pinned) {
      this.chosen = lane;
      this.#listLanes();
      this.mask.draw(lane);
    }
  }

  // The sheet of a phone must not cover the token that it explains.
  #aboveSheet(lane, position) {
    const [panel, node] = [this.inspector.root.getBoundingClientRect(), lane.grid.cells[position].node.getBoundingClientRect()];
    const isSheet = panel.left === 0 && panel.width >= innerWidth;
    if (isSheet && node.bottom > panel.top) scrollBy({ top: node.bottom - panel.top + 24 });
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || this.live) return;
    const target = event.target instanceof Element ? event.target : document.body;
    if (!this.root.checkVisibility()) return; // another tab of the page is shown
    if (event.key === "Escape" && this.pinned) {
      const { lane, position } = this.pinned;
      this.#look(null, null, true);
      lane.grid.cells[position].node.focus({ preventScroll: true }); // the focus may have been in the panel
      return;
    }
    const isRange = target === this.scrubber.range;
    if (!isRange && target.closest("input:not([type=radio]), textarea, select, [contenteditable], [role=combobox], [role=listbox]")) return;
    // These choose an option or a tab themselves, and the space bar presses what has the focus.
    const moves = event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End";
    if (moves && target.closest("input[type=radio], [role=tab], [role=slider], .answer")) return;
    if (event.key === " " && target.closest("button, summary, a, [role=tab]")) return;
    if (this.scrubber.pressed(event.key)) event.preventDefault();
  }

  #toggleMask() {
    this.mask.open = !this.mask.open;
    this.part("showmask").setAttribute("aria-expanded", this.mask.open);
    this.part("maskview").hidden = !this.mask.open;
    this.mask.draw(this.chosen);
  }

  // -- files -------------------------------------------------------------------------------------------

  #exportJson() {
    const race = this.race();
    download(`${fileName(race.title)}.json`, "application/json", JSON.stringify(race));
  }

  async #exportHtml() {
    this.say("error", "");
    const sources = await this.on.sources();
    if (!sources?.page) return this.say("error", "The server did not send the parts of the replay file.");
    const race = this.race();
    download(`${fileName(race.title)}.html`, "text/html", replayPage(sources, race));
  }

  async #import() {
    const [file] = this.part("file").files;
    this.part("file").value = "";
    if (!file) return;
    this.say("error", "");
    try {
      const race = await readRace(file, this.tables);
      if (this.live) throw new FileProblem("A run is in progress; stop it before you import a file.");
      this.load(race, "Imported", () => this.on.imported?.(race));
    } catch (error) {
      if (!(error instanceof FileProblem)) throw error;
      this.say("error", error.message);
    }
  }
}
