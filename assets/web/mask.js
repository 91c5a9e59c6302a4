// The attention mask of the current forward of one lane, drawn and described in words.

const MOST_BINS = 64; // most columns for the context
const MOST_CELLS = 128; // most rows or columns of a block

class MaskView {
  constructor(root) {
    this.root = root;
    this.part = (key) => root.querySelector(`[data-${key}]`);
    this.open = false;
  }

  draw(lane) {
    if (!this.open) return;
    const pass = lane?.state && lane.k >= 0 ? forwardOf(lane.state, lane.k) : null;
    this.part("figure").hidden = !pass;
    this.part("caption").textContent = pass ? `${lane.name}. ${pass.words}` : "There is no forward here yet.";
    if (!pass) return;
    const bins = Math.min(MOST_BINS, pass.context);
    const rows = Math.min(MOST_CELLS, pass.queries);
    const columns = Math.min(MOST_CELLS, pass.queries);
    const size = Math.max(3, Math.min(13, Math.floor(Math.min(420, this.root.clientWidth - 40) / Math.max(rows, bins + columns))));
    const gap = bins ? size : 0;
    const canvas = this.part("figure").querySelector("canvas");
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [bins * size + gap + columns * size, rows * size];
    Object.assign(canvas, { width: width * ratio, height: height * ratio });
    canvas.style.width = `${width}px`;
    canvas.setAttribute("aria-label", pass.words);
    const style = getComputedStyle(this.root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const paint = canvas.getContext("2d");
    paint.scale(ratio, ratio);
    for (let row = 0; row < rows; row += 1) {
      paint.fillStyle = colour("--sees-context");
      for (let bin = 0; bin < bins; bin += 1) paint.fillRect(bin * size, row * size, size - 1, size - 1);
      for (let column = 0; column < columns; column += 1) {
        const sees = pass.sees(at(row, rows, pass.queries), at(column, columns, pass.queries));
        paint.fillStyle = colour(sees ? "--sees" : "--blind");
        paint.fillRect(bins * size + gap + column * size, row * size, size - 1, size - 1);
      }
    }
    const scale = this.part("scale");
    scale.style.width = `${width}px`;
    scale.style.gridTemplateColumns = bins ? `${bins * size}px 1fr` : "1fr";
    scale.style.columnGap = `${gap}px`;
    scale.replaceChildren(...[bins && plural(pass.context, "context token"), pass.label].filter(Boolean)
      .map((text) => make("span", "", text)));
  }
}

// The index in the mask of a drawn row or column. shown: drawn rows or columns; total: rows or columns of the mask.
function at(index, shown, total) {
  return shown === total ? index : Math.floor(((index + 0.5) * total) / shown);
}

// The forward of event k, or the last one before it, as {queries, context, sees(query, key), label, words}; or null.
function forwardOf(state, k) {
  let event = state.events[k];
  if (["finish", "edit"].includes(event[0])) {
    event = state.events.slice(0, k).findLast(([kind]) => kind !== "finish" && kind !== "edit");
  }
  if (!event) return null;
  const [kind, , , ...rest] = event;
  const prompt = (state.header.prompt_ids ?? []).length;
  const blockCausal = state.header.context === "block_causal";
  const causal = (query, key) => key <= query;
  const all = () => true;
  if (kind === "prefill") {
    const size = state.settings.block_size ?? 1;
    const blocks = (query, key) => Math.floor(key / size) <= Math.floor(query / size);
    return {
      queries: Math.max(1, rest[0]), context: 0, sees: blockCausal ? blocks : causal, label: plural(rest[0], "prompt token"),
      words: blockCausal ? "Prefill: each prompt token attends to its whole block and to all blocks before it."
        : "Prefill: each prompt token attends to itself and to the tokens before it.",
    };
  }
  const [block, start, stop] = kind === "denoise" ? [rest[0], rest[2], rest[3]] : rest;
  const queries = stop - start;
  const context = Math.max(0, prompt + start);
  const base = { queries, context, label: queries === 1 ? "itself" : `block ${block + 1}, ${plural(queries, "token")}` };
  const before = context ? `all ${plural(context, "context token")}` : "no context yet";
  const shift = state.header.token_shift && queries > 1 ? " The output at a position predicts the next token." : "";
  if (kind === "denoise") {
    const words = `Denoise: every token of block ${block + 1}, masked or not, attends to ${before} and the whole block, `
      + `in both directions.${shift}`;
    return { ...base, sees: all, words };
  }
  if (queries === 1) return { ...base, sees: all, words: `AR step: the new token attends to ${before} and to itself.` };
  if (kind === "commit" && blockCausal) {
    return { ...base, sees: all, words: `Commit: every token of the finished block ${block + 1} attends to ${before} and the whole block.` };
  }
  const name = kind === "verify" ? "Verification" : "Commit";
  return { ...base, sees: causal, words: `${name}: each token of block ${block + 1} attends to ${before}, to itself and to the tokens before it, as in AR.` };
}
