// Numbers, token texts and reasons in words; small makers of nodes.
//
// What a model wrote is text and stays text: it goes in by textContent, never through a parser.

// How an answer ended: in short, and as a sentence.
const ENDINGS = {
  eos: ["finished", "The model ended its answer."],
  stop_string: ["stop string", "A stop string ended the answer."],
  length: ["at the limit", "The answer was cut at the limit of tokens."],
};

function decimal(value, digits) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${decimal(value * 1000, value < 0.1 ? 1 : 0)} ms` : `${decimal(value, 2)} s`;
}

// Neither "0.0 %" for what is possible nor "100.0 %" for what is not sure.
function percent(p) {
  if (p > 0 && p < 0.0005) return "< 0.1 %";
  if (p < 1 && p >= 0.9995) return "> 99.9 %";
  return `${decimal(p * 100, 1)} %`;
}

// A confidence as it stands beside a threshold: two decimals, more where two would hide which side it is on.
function share(p) {
  return p > 0.994 && p < 1 ? p.toFixed(4) : p < 0.01 && p > 0 ? p.toFixed(4) : p.toFixed(2);
}

function plural(count, one) {
  return `${decimal(count, 0)} ${one}${count === 1 ? "" : "s"}`;
}

// A token's text as [before, shown, after]: the space that begins a word and the indent after a line break stand
// outside the coloured box, so that boxes hug words and lines break as they do in text.
function splitText(text) {
  const [, before, body, after] = /^( ?)([^]*?)(\n[ \t]*)?$/.exec(text.replaceAll("\r\n", "\n"));
  const seen = /^ +$/.test(body) ? "\u00a0".repeat(body.length) : body; // a line must not break inside of blanks
  const shown = seen.replaceAll("\n", "↵\n").replaceAll("\t", "⇥") + (after ? "↵" : "");
  return shown ? [before, shown, after ?? ""] : ["", before ? "\u00a0" : "∅", ""];
}

// A token on one line, its blanks to be seen.
function inline(text) {
  return text === "" ? "∅" : text.replaceAll("\r", "␍").replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣");
}

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function drawn(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// Why a token was fixed, as one sentence with the numbers that decided. `entry` as TraceState keeps it; `mates`: the
// confidences of all that its pass fixed for the same reason, its own among them.
function why(entry, settings, textOf, mates = []) {
  const p = entry.p === null ? "" : share(entry.p);
  const sampled = settings.temperature > 0 ? `, sampled at temperature ${settings.temperature}` : "";
  const count = settings.tokens_per_step ?? 1;
  switch (entry.reason) {
    case "ar":
      return sampled ? `AR's next token${sampled}; AR gives it ${p}.` : `AR's most likely next token, at ${p}.`;
    case "over_threshold":
      return `${p} is above the threshold${given(settings.threshold)}.`;
    case "most_confident":
      return mostConfident(entry, settings, p);
    case "top_k":
      return count === 1 ? `${p} is the highest of its pass, and a pass fixes one token.`
        : `${p} is among the ${count} highest of its pass.`;
    case "lowest_entropy":
      return count === 1 ? "The model was least uncertain here, by entropy; a pass fixes one token."
        : `Among the ${count} positions of its pass with the least entropy.`;
    case "over_factor":
      return byFactor(settings.factor, p, mates);
    case "over_margin":
      return `It leads the runner-up by ${share(lead(entry))}, more than the margin${given(settings.margin)}.`;
    case "within_entropy_bound":
      return "Among the least uncertain of its pass, by entropy: as many as fit the bound"
        + `${typeof settings.entropy_bound === "number" ? ` of ${settings.entropy_bound} nats` : ""}; the first always does.`;
    case "scheduled":
      return typeof settings.steps_per_block === "number"
        ? `A block is spread over ${plural(settings.steps_per_block, "step")}; ${p} is among the highest of this one.`
        : `Each step fixes its planned number of tokens; ${p} is among the highest of this one.`;
    case "draft":
      return `A draft at ${p}${sampled}: a guess, to be checked by the next verification.`;
    case "accepted_draft":
      return `A draft that the AR pass agreed with; AR gives it ${p}.`;
    case "correction":
      return entry.before === null ? `AR's own token, at ${p}, where the draft was wrong.`
        : `AR's own token, at ${p}, where the draft “${inline(textOf(entry.before))}” was wrong.`;
    case "edited":
      return "Written by hand, where the run was forked.";
    default:
      return "Part of the finished answer.";
  }
}

function given(limit) {
  return typeof limit === "number" ? ` ${limit}` : "";
}

function lead(entry) {
  return Math.max(0, entry.p - (entry.others?.[0]?.[1] ?? 0));
}

// No token of the pass met the rule, and a pass that fixes none would never end.
function mostConfident(entry, settings, p) {
  const end = ", and every pass fixes at least one token.";
  const { threshold, factor, margin } = settings;
  if (settings.unmasking === "margin") {
    return typeof margin === "number" && lead(entry) <= margin
      ? `Its lead over the runner-up, ${share(lead(entry))}, is not above the margin ${margin}, but the largest of its pass${end}`
      : `Its lead over the runner-up is the largest of its pass${end}`;
  }
  if (settings.unmasking === "factor") {
    return `${p} is too low for the factor rule${typeof factor === "number" ? ` (factor ${factor})` : ""}, but the highest of its pass${end}`;
  }
  return typeof threshold === "number" && entry.p <= threshold
    ? `${p} is not above the threshold ${threshold}, but the highest of its pass${end}` : `${p} is the highest of its pass${end}`;
}

// n tokens may be fixed together where (n + 1) (1 - the least sure of them) is below the factor.
function byFactor(factor, p, mates) {
  if (typeof factor !== "number" || !mates.length) {
    return `${p} is sure enough for the factor rule: the more a pass fixes, the surer each must be.`;
  }
  const least = Math.min(...mates);
  const [n, product] = [mates.length, (mates.length + 1) * (1 - least)];
  const which = n === 1 ? `${p}, the surest of its pass` : `${p} is among the ${n} surest of its pass, the least of them at ${least.toFixed(4)}`;
  return `${which}: ${n + 1} × (1 − ${n === 1 ? p : least.toFixed(4)}) = ${share(product)} is below the factor ${factor}.`;
}
