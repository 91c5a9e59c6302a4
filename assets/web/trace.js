// The state of one lane's answer after any of its events. All views of the player read it.
//
// Events are packed as docs/trace-format.md describes and are added one by one. Each position keeps the list of its
// entries in the order of events, so a binary search finds its state after event k.

const MASK = 0; // still masked; the entry holds the current prediction, if there is one
const DRAFT = 1; // a draft token that is not verified yet
const OPEN = 2; // fixed, in a block that is not committed yet
const COMMITTED = 3; // in the context
const REJECTED = 4; // a draft token that this event rejected
const MOST_TOKENS = 4; // that one character can take: UTF-8 has at most 4 bytes
const STATE_NAMES = ["mask", "draft", "open", "committed", "rejected"];

// The index of the last item of a sorted list whose key is at most `limit`; -1 if there is none.
function lastUpTo(list, limit, key) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(list[middle]) <= limit) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const identity = (value) => value;
const atOf = (entry) => entry.at;
const firstOf = (pair) => pair[0];

class TraceState {
  // header: the JSON of a trace. Its events are not read; `add` takes them.
  constructor(header) {
    this.header = header;
    this.settings = header.settings ?? {};
    this.pieces = new Map(Object.entries(header.pieces ?? {}));
    this.bytes = new Map(Object.entries(header.bytes ?? {})); // by token: hexadecimal, of a token with parts of characters
    this.answer = header.answer_pieces ?? []; // by position of the finished answer: the text of its token
    this.events = [];
    this.times = []; // by event: seconds of the engine's clock
    this.lengths = []; // by event: number of positions on the canvas
    this.shown = []; // by event: the same, with the draft tokens that it rejected
    this.committed = []; // by event: number of positions in the context
    this.masked = []; // by event: number of masked positions
    this.places = []; // by event: [block, step] of the current denoising, both from 0, or null
    this.forwards = []; // by event: number of forwards so far, without the prefill
    this.has = { blocks: false, drafts: false, edits: false }; // for the legend
    this.histories = []; // by position: its entries, oldest first
    this.borders = []; // by position: [event, number of the block that begins here, or 0], oldest first
    this.blockEvents = []; // events that began a block
    this.widest = 0; // tokens of the widest block
    this.now = []; // by position: its newest entry
    this.maskedNow = 0; // number of masked positions after the newest event
  }

  get last() {
    return this.events.length - 1;
  }

  get finished() {
    return this.events.length > 0 && this.events.at(-1)[0] === "finish";
  }

  // The text of a token without its neighbours; of a token with a part of a character, its bytes.
  textOf = (token) => {
    const bytes = this.bytes.get(String(token));
    if (bytes !== undefined) return `⟨${this.hexOf(token)}⟩`;
    return this.pieces.get(String(token)) ?? `⟨${token}⟩`;
  };

  // The bytes of a token with a part of a character, as "E7 A7".
  hexOf = (token) => (this.bytes.get(String(token)) ?? "").toUpperCase().replace(/..(?=.)/g, "$& ");

  // The text that a fixed token adds at a position after event k: a character of several tokens is added by the last of
  // them. "" for a token that leaves a character incomplete.
  textAt(position, k, entry) {
    const own = this.bytes.get(String(entry.token));
    if (own === undefined) {
      const finished = this.answer.length > 0 && this.finished && this.events.at(-1)[4][position] === entry.token;
      return (finished && this.answer[position]) || this.textOf(entry.token);
    }
    const before = []; // the tokens that may hold the beginning of the same character
    for (let at = position - 1; at >= 0 && before.length < MOST_TOKENS - 1; at -= 1) {
      const left = this.entry(at, k);
      const bytes = left?.fixed ? this.bytes.get(String(left.token)) : undefined;
      if (bytes === undefined) break;
      before.unshift(bytes);
    }
    const utf8 = new TextDecoder();
    for (const bytes of before) utf8.decode(fromHex(bytes), { stream: true });
    return utf8.decode(fromHex(own), { stream: true });
  }

  // The same for a view of one token: the bytes of a token that leaves a character incomplete.
  nameAt(position, k, entry) {
    return (entry.fixed && this.textAt(position, k, entry)) || this.textOf(entry.token);
  }

  add(event, pieces = null, bytes = null) {
    for (const [token, text] of Object.entries(pieces ?? {})) this.pieces.set(token, String(text));
    for (const [token, text] of Object.entries(bytes ?? {})) this.bytes.set(token, String(text));
    const k = this.events.length;
    const [kind, , time, ...rest] = event;
    const previous = k ? [this.committed[k - 1], this.places[k - 1], this.forwards[k - 1]] : [0, null, 0];
    let [committed, place, forwards] = previous;
    let shown = 0;
    this.events.push(event);
    this.has.drafts ||= kind === "verify" || this.settings.strategy === "self_speculative";
    this.has.edits ||= kind === "edit";
    if (kind === "denoise" || kind === "commit" || kind === "verify") forwards += 1;
    const how = { at: k, pass: forwards, block: null, step: null };
    if (kind === "denoise") {
      const [block, step, start, stop, , pending] = rest;
      Object.assign(how, { block, step });
      place = [block, step];
      this.#open(block, start, stop, k);
      this.#reach(stop, k);
      for (const [position, token, p] of pending) {
        if (position >= 0) this.#put(position, { ...how, fixed: false, token, p });
      }
    } else if (kind === "commit") {
      how.block = rest[0];
      committed = rest[2];
      this.widest = Math.max(this.widest, rest[2] - rest[1]);
      if (rest[2] - rest[1] === 1) place = null;
    } else if (kind === "verify") {
      const [block, start, stop, accepted] = rest;
      how.block = block;
      committed = start + 1 + accepted;
      shown = this.#reject(committed, Math.min(stop, this.now.length), how);
    } else if (kind === "edit") {
      committed = rest[0];
      this.#edit(rest, how);
    } else if (kind === "finish") {
      committed = this.#finish(rest[1], how);
    }
    for (const [position, token, p, reason, others] of fixedOf(kind, rest)) {
      if (position >= 0) this.#fix(position, { ...how, fixed: true, token, p, reason, others });
    }
    this.times.push(time);
    this.lengths.push(this.now.length);
    this.shown.push(Math.max(shown, this.now.length));
    this.committed.push(committed);
    this.masked.push(this.maskedNow);
    this.places.push(place);
    this.forwards.push(forwards);
  }

  // -- queries of the views ----------------------------------------------------------------------------

  // The index of the last event at or before a time in seconds; -1 before the first.
  eventAt(time) {
    return lastUpTo(this.times, time + 1e-9, identity);
  }

  // The entry of a position after event k; null outside the canvas.
  entry(position, k) {
    if (k < 0 || position >= this.shown[k]) return null;
    const history = this.histories[position];
    const entry = history[lastUpTo(history, k, atOf)] ?? null;
    return entry && (position < this.lengths[k] || (entry.rejected && entry.at === k)) ? entry : null;
  }

  // The state of an entry after event k: one of the five constants above.
  stateOf(position, k, entry) {
    if (entry.rejected) return REJECTED;
    if (!entry.fixed) return MASK;
    if (position < this.committed[k]) return COMMITTED;
    return entry.reason === "draft" ? DRAFT : OPEN;
  }

  // The number (from 1) of the block that begins at a position; 0 if none begins there.
  border(position, k) {
    const list = this.borders[position];
    return list ? (list[lastUpTo(list, k, firstOf)]?.[1] ?? 0) : 0;
  }

  // The number of the block of a position; 0 in a lane without blocks.
  blockOf(position, k) {
    for (let at = position; at >= 0; at -= 1) {
      const number = this.border(at, k);
      if (number) return number;
    }
    return 0;
  }

  // The confidences of all tokens that the same event fixed for the same reason.
  fixedTogether(entry) {
    const [kind, , , ...rest] = this.events[entry.at];
    return fixedOf(kind, rest).filter((each) => each[3] === entry.reason).map((each) => each[2]);
  }

  // The confidences at a position up to event k: [[event, confidence, token], ...].
  confidences(position, k) {
    return (this.histories[position] ?? [])
      .filter((entry) => entry.at <= k && entry.p !== null && entry.token !== null && !entry.rejected)
      .map((entry) => [entry.at, entry.p, entry.token]);
  }

  // The text after event k. Each run of masks is one "…".
  text(k) {
    const parts = [];
    for (let at = 0; k >= 0 && at < this.lengths[k]; at += 1) {
      const entry = this.entry(at, k);
      if (entry?.fixed) parts.push(this.textAt(at, k, entry));
      else if (parts.at(-1) !== " … ") parts.push(" … ");
    }
    return parts.join("").trim();
  }

  // The state after event k as one sentence, for screen readers.
  summary(k) {
    if (k < 0) return "nothing decoded yet.";
    const masked = this.masked[k];
    const fixed = `${plural(this.lengths[k] - masked, "token")} fixed`;
    const place = this.places[k];
    const where = this.events[k][0] === "finish" ? "finished" : place && `step ${place[1] + 1} of block ${place[0] + 1}`;
    const text = this.text(k);
    return [where, fixed, masked && `${masked} masked`].filter(Boolean).join(", ") + (text ? `: ${text}` : ".");
  }

  // -- how events change the canvas --------------------------------------------------------------------

  #put(position, entry) {
    const history = (this.histories[position] ??= []);
    const before = this.now[position];
    if (before) this.maskedNow -= before.fixed ? 0 : 1;
    this.maskedNow += entry.fixed ? 0 : 1;
    if (history.at(-1)?.at === entry.at) history.pop(); // one event, one entry
    history.push(entry);
    this.now[position] = entry;
  }

  #fix(position, entry) {
    this.#reach(position + 1, entry.at);
    const history = this.histories[position];
    const drafted = [...history].reverse().find((each) => each.reason === "draft" || each.rejected);
    const current = this.now[position];
    entry.before = entry.reason === "correction" ? drafted?.token ?? null : null;
    const agreed = entry.reason === "accepted_draft" && drafted && drafted.token === entry.token ? drafted : null;
    entry.order = agreed?.order ?? entry.pass;
    entry.draftStep = agreed?.step ?? null;
    if (current?.fixed && current.at === entry.at) return;
    this.#put(position, entry);
  }

  #reach(length, k) {
    while (this.now.length < length) {
      this.#put(this.now.length, { at: k, fixed: false, token: null, p: null });
    }
  }

  #cut(length) {
    for (const entry of this.now.splice(length)) this.maskedNow -= entry.fixed ? 0 : 1;
  }

  // Mark where a block of more than one token begins.
  #open(block, start, stop, k) {
    this.widest = Math.max(this.widest, stop - start);
    if (stop - start < 2) return;
    this.has.blocks = true;
    const list = (this.borders[Math.max(start, 0)] ??= []);
    if (list.at(-1)?.[1] === block + 1) return;
    list.push([k, block + 1]);
    this.blockEvents.push(k);
  }

  // Remove the draft tokens in [from, stop). They are shown as rejected for this one event. Returns the shown length.
  #reject(from, stop, how) {
    for (let at = from; at < stop; at += 1) {
      const draft = this.now[at];
      if (draft.fixed) this.histories[at].push({ ...draft, at: how.at, rejected: true });
    }
    this.#cut(from);
    return stop;
  }

  #edit([start, tokens, changed], how) {
    const before = this.now.slice();
    for (let at = start; at < this.borders.length; at += 1) {
      if (this.borders[at]?.at(-1)?.[1]) this.borders[at].push([how.at, 0]);
    }
    this.#cut(start);
    const byHand = new Set(changed);
    tokens.forEach((token, index) => {
      const at = start + index;
      const old = before[at];
      const entry = { ...how, fixed: token !== null, token, p: null, others: [], edited: byHand.has(at) };
      if (token !== null && !entry.edited && old?.fixed && old.token === token) this.#put(at, { ...old, at: how.at, kept: true });
      else this.#put(at, { ...entry, reason: token === null ? undefined : "edited", order: how.pass });
    });
  }

  #finish(ids, how) {
    this.#cut(ids.length);
    ids.forEach((token, at) => {
      if (this.now[at]?.fixed && this.now[at].token === token) return;
      this.#put(at, { ...how, fixed: true, token, p: null, reason: "answer", others: [], order: how.pass });
    });
    return ids.length;
  }
}
