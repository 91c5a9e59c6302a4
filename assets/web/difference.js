// The difference between two answers, token by token, and plain text for the clipboard.

const MOST_COMPARED = 4_000_000; // pairs of tokens in the table below

// Runs of tokens, in order: {kind: "same" | "gone" | "new", from, to}. "gone": tokens [from, to) of `before` only; the
// others are of `after`. Tokens are compared by their texts, so that models with different tokenizers can be compared.
function difference(before, after) {
  let start = 0;
  while (start < before.length && start < after.length && before[start] === after[start]) start += 1;
  let [left, right] = [before.length, after.length];
  while (left > start && right > start && before[left - 1] === after[right - 1]) [left, right] = [left - 1, right - 1];
  const found = [];
  const add = (kind, from, to) => {
    const last = found.at(-1);
    if (from === to) return;
    if (last?.kind === kind && last.to === from) last.to = to;
    else found.push({ kind, from, to });
  };
  add("same", 0, start);
  for (const [kind, at] of middle(before.slice(start, left), after.slice(start, right))) add(kind, start + at, start + at + 1);
  add("same", right, after.length);
  return found;
}

// The same for texts without a common beginning and end: [[kind, place], ...], by their longest common subsequence.
function middle(before, after) {
  const [n, m] = [before.length, after.length];
  const gone = (from) => before.slice(from).map((_, at) => ["gone", from + at]);
  const fresh = (from) => after.slice(from).map((_, at) => ["new", from + at]);
  if (n * m > MOST_COMPARED) return [...gone(0), ...fresh(0)];
  const width = m + 1;
  const common = new Uint16Array((n + 1) * width); // by (i, j): the longest for before[i:] and after[j:]
  for (let i = n - 1; i >= 0; i -= 1) {
    for (let j = m - 1; j >= 0; j -= 1) {
      common[i * width + j] = before[i] === after[j] ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const found = [];
  let [i, j] = [0, 0];
  while (i < n && j < m) {
    if (before[i] === after[j]) found.push(["same", [i++, j++][1]]);
    else if (common[(i + 1) * width + j] >= common[i * width + j + 1]) found.push(["gone", i++]);
    else found.push(["new", j++]);
  }
  return [...found, ...gone(i), ...fresh(j)];
}

// Text without characters that nobody sees: control characters, spaces of no width, marks of direction, tags. The joiners
// of emoji and of Indic and Persian text stay.
function visibleText(text) {
  return text.replaceAll("\r\n", "\n")
    .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu, "")
    .replaceAll("\u00a0", " ");
}

// Returns whether the browser has taken the text.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // no permission, or no secure context
    const field = make("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
