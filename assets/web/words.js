// Format numbers, token texts and reasons as words, and create DOM nodes.
//
// The text of a model is set by textContent and never parsed as markup.

// How an answer ended: a short form, made from the number of output tokens, and a sentence.
const ENDINGS = {
  eos: [() => "finished", "The model ended its answer."],
  stop_string: [() => "stop string", "A stop string ended the answer."],
  stop_token: [() => "stop token", "A stop token ended the answer."],
  length: [(count) => `cut at ${plural(count, "token")}`, "The answer reached the limit of tokens."],
};

function decimal(value, digits) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1 ? `${decimal(value * 1000, value < 0.1 ? 1 : 0)} ms` : `${decimal(value, 2)} s`;
}

// Rounding must not show a small probability as 0.0 %, nor one below 1 as 100.0 %.
function percent(p) {
  if (p > 0 && p < 0.0005) return "< 0.1 %";
  if (p < 1 && p >= 0.9995) return "> 99.9 %";
  return `${decimal(p * 100, 1)} %`;
}

// A confidence beside a threshold: two decimals; four near 0 and 1, where rounding would hide a difference.
function share(p) {
  return p > 0.994 && p < 1 ? p.toFixed(4) : p < 0.01 && p > 0 ? p.toFixed(4) : p.toFixed(2);
}

function plural(count, one) {
  return `${decimal(count, 0)} ${one}${count === 1 ? "" : "s"}`;
}

// A token's text as [before, shown, after]. The coloured box holds only `shown`: without the space before a word and the
// indent after a line break, lines break as in plain text.
function splitText(text) {
  const [, before, body, after] = /^( ?)([^]*?)(\n[ \t]*)?$/.exec(text.replaceAll("\r\n", "\n"));
  const solid = /^ +$/.test(body) ? "\u00a0".repeat(body.length) : body; // no line break inside a run of spaces
  const shown = solid.replaceAll("\n", "↵\n").replaceAll("\t", "⇥") + (after ? "↵" : "");
  return shown ? [before, shown, after ?? ""] : ["", before ? "\u00a0" : "∅", ""];
}

// A token on one line, with visible signs for spaces and line breaks.
function inline(text) {
  return text === "" ? "∅" : text.replaceAll("\r", "␍").replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "␣");
}

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function makeSvg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// The reason why a token was fixed, as one sentence with its numbers. entry: of TraceState. together: the confidences of
// all tokens that the same pass fixed for the same reason, with that of this token.
function why(entry, settings, textOf, together = []) {
  const p = entry.p === null ? "" : share(entry.p);
  const sampled = settings.temperature > 0 ? `, sampled at temperature ${settings.temperature}` : "";
  const count = settings.tokens_per_step ?? 1;
  switch (entry.reason) {
    case "ar":
      return sampled ? `The next token of AR${sampled}; its probability is ${p}.`
        : `The most likely next token of AR, with probability ${p}.`;
    case "over_threshold":
      return `${p} is above the threshold${withSpace(settings.threshold)}.`;
    case "most_confident":
      return mostConfident(entry, settings, p);
    case "top_k":
      return count === 1 ? `${p} is the highest of its pass, and a pass fixes one token.`
        : `${p} is among the ${count} highest of its pass.`;
    case "lowest_entropy":
      return count === 1 ? "The entropy here is the lowest of its pass, and a pass fixes one token."
        : `Among the ${count} positions of its pass with the lowest entropy.`;
    case "over_factor":
      return byFactor(settings.factor, p, together);
    case "over_margin":
      return `Its margin over the second-best token, ${share(marginOf(entry))}, is above the margin${withSpace(settings.margin)}.`;
    case "within_entropy_bound":
      return "Among the positions with the lowest entropy of its pass, as many as the bound"
        + `${typeof settings.entropy_bound === "number" ? ` of ${settings.entropy_bound} nats` : ""} allows; at least one.`;
    case "scheduled":
      return typeof settings.steps_per_block === "number"
        ? `A block has ${plural(settings.steps_per_block, "step")}; ${p} is among the highest of this step.`
        : `Each step fixes its planned number of tokens; ${p} is among the highest of this step.`;
    case "draft":
      return `A draft token with confidence ${p}${sampled}; the next AR pass verifies it.`;
    case "accepted_draft":
      return `The AR pass accepted this draft token; its AR probability is ${p}.`;
    case "correction":
      return entry.before === null ? `The token of AR, with probability ${p}; it replaces a rejected draft token.`
        : `The token of AR, with probability ${p}; it replaces the rejected draft token “${inline(textOf(entry.before))}”.`;
    case "edited":
      return "Changed by hand in this fork.";
    default:
      return "Part of the finished answer.";
  }
}

function withSpace(limit) {
  return typeof limit === "number" ? ` ${limit}` : "";
}

function marginOf(entry) {
  return Math.max(0, entry.p - (entry.others?.[0]?.[1] ?? 0));
}

// No token of the pass met the rule of the policy. Each pass must fix a token, or the block would never end.
function mostConfident(entry, settings, p) {
  const end = ", and every pass fixes at least one token.";
  const { threshold, factor, margin } = settings;
  if (settings.unmasking === "margin") {
    return typeof margin === "number" && marginOf(entry) <= margin
      ? `Its margin over the second-best token, ${share(marginOf(entry))}, is not above the margin ${margin}, but the largest of its pass${end}`
      : `Its margin over the second-best token is the largest of its pass${end}`;
  }
  if (settings.unmasking === "factor") {
    return `${p} is too low for the factor rule${typeof factor === "number" ? ` (factor ${factor})` : ""}, but the highest of its pass${end}`;
  }
  return typeof threshold === "number" && entry.p <= threshold
    ? `${p} is not above the threshold ${threshold}, but the highest of its pass${end}` : `${p} is the highest of its pass${end}`;
}

// The factor rule fixes n tokens together if (n + 1) (1 - the lowest confidence of them) is below the factor.
function byFactor(factor, p, together) {
  if (typeof factor !== "number" || !together.length) {
    return `${p} is high enough for the factor rule: the more tokens a pass fixes, the higher each confidence must be.`;
  }
  const least = Math.min(...together);
  const [n, product] = [together.length, (together.length + 1) * (1 - least)];
  const which = n === 1 ? `${p} is the highest of its pass` : `${p} is among the ${n} highest of its pass, the lowest of them ${least.toFixed(4)}`;
  return `${which}: ${n + 1} × (1 − ${n === 1 ? p : least.toFixed(4)}) = ${share(product)} is below the factor ${factor}.`;
}
