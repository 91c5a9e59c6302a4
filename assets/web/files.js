// Import and export of races and traces. An imported file is checked.

const MOST_BYTES = 20 * 1024 * 1024;
const MOST_POSITIONS = 1 << 20;
const MOST_LANES = 24;

// An error in a file, as a sentence for the visitor.
class FileProblem extends Error {}

// A file's text as a race. tables: from playground/server/tables.py. Throws FileProblem.
function parseRace(text, tables) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new FileProblem("This file is not JSON; it may have been cut off.");
  }
  if (!isRecord(data)) throw new FileProblem("This file contains neither a race nor a trace.");
  if (data.format === "nbdiff-trace") {
    checkTrace(data);
    const name = tables.strategies.find((each) => each.name === data.settings.strategy)?.label ?? "Trace";
    const lane = { name, about: String(data.model ?? ""), trace: data, context: null, token_shift: null, text: "" };
    return { format: "nbdiff-race", version: 1, title: "Imported trace", verdict: "", lanes: [lane] };
  }
  if (data.format !== "nbdiff-race") throw new FileProblem("This file contains neither a race nor a trace: its entry “format” is missing or unknown.");
  if (data.version !== 1) throw new FileProblem(`This race has version ${brief(data.version)}; this page reads version 1.`);
  const { lanes } = data;
  if (!Array.isArray(lanes) || !lanes.length) throw new FileProblem("This race has no lanes.");
  if (lanes.length > MOST_LANES) throw new FileProblem(`This race has ${lanes.length} lanes; this page shows at most ${MOST_LANES}.`);
  for (const lane of lanes) {
    if (!isRecord(lane) || typeof lane.name !== "string") throw new FileProblem("This race is damaged: a lane has no name.");
    checkTrace(lane.trace);
  }
  return {
    format: data.format, version: 1, title: String(data.title ?? ""), verdict: String(data.verdict ?? ""),
    // The metrics of a file are not used: the page computes them from the events.
    lanes: lanes.map((lane) => ({
      name: lane.name.slice(0, 80), about: String(lane.about ?? "").slice(0, 200), trace: lane.trace,
      context: typeof lane.context === "string" ? lane.context : null,
      token_shift: typeof lane.token_shift === "boolean" ? lane.token_shift : null,
      text: typeof lane.text === "string" ? lane.text : "",
    })),
  };
}

function brief(value) {
  const text = String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

function isRecord(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const isInteger = (value) => Number.isSafeInteger(value);
const isProbability = (value) => typeof value === "number" && value >= 0 && value <= 1;
const isPosition = (value) => isInteger(value) && value < MOST_POSITIONS;

function isFixed(each) {
  if (!Array.isArray(each) || each.length !== 5) return false;
  const [position, token, p, reason, others] = each;
  return isPosition(position) && isInteger(token) && isProbability(p) && typeof reason === "string" && Array.isArray(others)
    && others.every((pair) => Array.isArray(pair) && isInteger(pair[0]) && isProbability(pair[1]));
}

function isPending(each) {
  return Array.isArray(each) && each.length === 3 && isPosition(each[0]) && isInteger(each[1]) && isProbability(each[2]);
}

const isFixedList = (list) => Array.isArray(list) && list.every(isFixed);

// By kind: whether the fields after kind, row and time are valid.
const SHAPES = {
  prefill: (f) => f.length === 2 && isInteger(f[0]) && f[0] >= 0 && isFixedList(f[1]),
  denoise: (f) => f.length === 6 && f.slice(0, 4).every(isPosition) && isFixedList(f[4]) && Array.isArray(f[5]) && f[5].every(isPending),
  commit: (f) => f.length === 4 && f.slice(0, 3).every(isPosition) && isFixedList(f[3]),
  verify: (f) => f.length === 5 && f.slice(0, 4).every(isPosition) && isFixedList(f[4]),
  edit: (f) => f.length === 3 && isPosition(f[0]) && f[0] >= 0 && Array.isArray(f[1])
    && f[1].every((token) => token === null || isInteger(token)) && Array.isArray(f[2]) && f[2].every(isPosition),
  finish: (f) => f.length === 2 && typeof f[0] === "string" && Array.isArray(f[1]) && f[1].every(isInteger),
};

const isHex = (text) => typeof text === "string" && /^([0-9a-f]{2})+$/.test(text);

// Throws FileProblem for events that are invalid or in a wrong order. The trace of a stopped lane has no finish event.
function checkTrace(trace) {
  const damaged = (what) => new FileProblem(`This trace is damaged: ${what}.`);
  if (!isRecord(trace) || trace.format !== "nbdiff-trace") throw new FileProblem("This race is damaged: a lane has no trace.");
  if (![1, 2, 3].includes(trace.version)) throw new FileProblem(`This trace has version ${brief(trace.version)}; this page reads versions 1 to 3.`);
  if (!isRecord(trace.settings)) throw damaged("it has no settings");
  if (!isRecord(trace.pieces) || !Object.values(trace.pieces).every((text) => typeof text === "string")) throw damaged("it has no texts");
  if (trace.bytes !== undefined && (!isRecord(trace.bytes) || !Object.values(trace.bytes).every(isHex))) throw damaged("its bytes are not hexadecimal");
  if (trace.answer_pieces !== undefined && (!Array.isArray(trace.answer_pieces) || !trace.answer_pieces.every((text) => typeof text === "string"))) throw damaged("the texts of its answer are not texts");
  if (!Array.isArray(trace.prompt_ids) || !trace.prompt_ids.every(isInteger)) throw damaged("it has no prompt");
  if (!Array.isArray(trace.events) || !trace.events.length) throw damaged("it has no events");
  let [reach, before] = [0, 0];
  trace.events.forEach((event, k) => {
    if (!Array.isArray(event)) throw damaged("an event is not a list");
    const [kind, , time, ...fields] = event;
    if (!Object.hasOwn(SHAPES, kind) || !SHAPES[kind](fields)) throw damaged(`event ${k} is not a valid “${brief(kind)}”`);
    if (typeof time !== "number" || !(time >= before) || time === Infinity) throw damaged(`the time of event ${k} is before that of the event before it`);
    before = time;
    if (kind === "finish" && k !== trace.events.length - 1) throw damaged("an event follows its finish event");
    if (kind === "edit" && fields[0] > reach) throw damaged("an edit is outside the answer");
    if (kind === "edit") reach = fields[0] + fields[1].length;
    if (["denoise", "commit", "verify"].includes(kind)) {
      const [start, stop] = kind === "denoise" ? fields.slice(2, 4) : fields.slice(1, 3);
      if (start < -trace.prompt_ids.length || start >= stop || start > reach) throw damaged("a block is outside the answer");
      if (kind === "verify" && !(fields[3] >= 0 && fields[3] < stop - start)) throw damaged("it accepts more draft tokens than it has");
      reach = Math.max(reach, stop);
    }
    for (const [position] of [...fixedOf(kind, fields), ...(kind === "denoise" ? fields[5] : [])]) {
      if (position < 0 || position > reach) throw damaged("a token is outside the answer");
      reach = Math.max(reach, position + 1);
    }
  });
}

async function readRace(file, tables) {
  if (file.size > MOST_BYTES) throw new FileProblem("This file is larger than 20 MB, the limit of this page.");
  return parseRace(await file.text(), tables);
}

// A race as JSON for a script element.
function embeddable(race) {
  return JSON.stringify(race).replaceAll("<", "\\u003c");
}

// The HTML file that replays a race. sources: {page, css, html, tables, js} from playground/server/replay_file.py.
function replayPage(sources, race) {
  const title = race.title.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const slots = { ...sources, title, race: embeddable(race) };
  return sources.page.replace(/<!-{2}(title|css|html|tables|race|js)-{2}>/g, (_, slot) => slots[slot]);
}

function download(name, type, text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function fileName(title) {
  return `race-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40) || "nbdiff"}`;
}
