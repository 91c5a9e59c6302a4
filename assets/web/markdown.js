// Markdown of an answer as DOM nodes. It is output of a model: every text is set as text, nothing is parsed as HTML, and
// an address becomes neither a link nor a request.

const FENCE = /^ {0,3}(```+|~~~+) *([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6}) +(.+?)(?: +#+)?$/;
const ITEM = /^( *)(?:([-*+])|(\d{1,9})[.)]) +(.*)$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^ *\|?(?: *:?-+:? *\|)+ *(?::?-+:? *)?$/;
// A line that begins a Python definition or a branch. A model of code writes it without a fence, and its indents matter.
const CODE = /^(?:(?:async )?def \w+\(.*|class \w+.*:|(?:from [\w.]+ )?import [\w., *]+|@\w+.*|(?:for|while|if) .+:)$/;
const INLINE = /(`+)([^]*?[^`])\1(?!`)|\*\*(?=\S)([^]*?\S)\*\*(?!\*)|(?<![\w*])\*(?=[^\s*])([^*\n]*[^\s*])\*(?![\w*])|~~(?=\S)([^]*?\S)~~/;
const MOST_NESTED = 8; // levels of lists and quotes

// The text as a fragment. Markdown that is not known stays as it is written.
function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  blocks(text.replaceAll("\r\n", "\n").split("\n"), fragment, 0);
  return fragment;
}

function blocks(lines, parent, level) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const heading = HEADING.exec(line);
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) at = fenced(lines, at, parent);
    else if (CODE.test(line)) at = unfenced(lines, at, parent);
    else if (heading) {
      // The page has its own headings: those of an answer begin below them.
      inlines(heading[2], parent.appendChild(make(`h${Math.min(6, heading[1].length + 2)}`)));
      at += 1;
    } else if (RULE.test(line)) {
      parent.append(make("hr"));
      at += 1;
    } else if (QUOTE.test(line) && level < MOST_NESTED) at = quote(lines, at, parent, level);
    else if (ITEM.test(line) && level < MOST_NESTED) at = list(lines, at, parent, level);
    else if (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? "")) at = table(lines, at, parent);
    else at = paragraph(lines, at, parent);
  }
}

const begins = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM, CODE].some((kind) => kind.test(line));

function code(lines, parent) {
  parent.appendChild(make("pre")).append(make("code", "", lines.join("\n")));
}

function fenced(lines, from, parent) {
  const [, mark] = FENCE.exec(lines[from]);
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  let to = from + 1;
  while (to < lines.length && !closes(lines[to])) to += 1;
  code(lines.slice(from + 1, to), parent);
  return to + 1;
}

// Code without a fence: its first line, and the lines after it that are indented, empty, or code again.
function unfenced(lines, from, parent) {
  let to = from + 1;
  while (to < lines.length && (!lines[to].trim() || /^[ \t]/.test(lines[to]) || CODE.test(lines[to]))) to += 1;
  while (!lines[to - 1].trim()) to -= 1;
  code(lines.slice(from, to), parent);
  return to;
}

function paragraph(lines, from, parent) {
  let to = from + 1;
  while (to < lines.length && lines[to].trim() && !begins(lines[to])) to += 1;
  inlines(lines.slice(from, to).join("\n"), parent.appendChild(make("p")));
  return to;
}

function quote(lines, from, parent, level) {
  let to = from;
  while (to < lines.length && QUOTE.test(lines[to])) to += 1;
  const inner = lines.slice(from, to).map((line) => line.replace(QUOTE, ""));
  blocks(inner, parent.appendChild(make("blockquote")), level + 1);
  return to;
}

function list(lines, from, parent, level) {
  const [, indent, bullet, number] = ITEM.exec(lines[from]);
  const node = parent.appendChild(make(bullet ? "ul" : "ol"));
  if (!bullet && number !== "1") node.start = Number(number);
  const own = (line) => {
    const item = ITEM.exec(line);
    return item && item[1].length <= indent.length + 1 && Boolean(item[2]) === Boolean(bullet) ? item : null;
  };
  let at = from;
  for (let item = own(lines[at]); item; item = at < lines.length ? own(lines[at]) : null) {
    const inside = [item[4]];
    for (at += 1; at < lines.length && !own(lines[at]); at += 1) {
      const isIndented = /^\s/.test(lines[at]);
      const goesOn = isIndented || (lines[at].trim() && lines[at - 1].trim() && !begins(lines[at]));
      const emptyInside = !lines[at].trim() && (/^\s+\S/.test(lines[at + 1] ?? "") || own(lines[at + 1] ?? ""));
      if (!goesOn && !emptyInside) break;
      inside.push(lines[at].replace(/^(?:\t| {1,4})/, ""));
    }
    blocks(inside, node.appendChild(make("li")), level + 1);
  }
  return at;
}

function table(lines, from, parent) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|");
  const node = parent.appendChild(make("table"));
  const row = (line, tag) => {
    const made = node.appendChild(make("tr"));
    for (const cell of cells(line)) inlines(cell.trim(), made.appendChild(make(tag)));
  };
  row(lines[from], "th");
  let at = from + 2;
  for (; at < lines.length && lines[at].includes("|"); at += 1) row(lines[at], "td");
  return at;
}

// Code, strong, emphasis and strikethrough; all else is text.
function inlines(text, parent) {
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    const [whole, , literal, strong, emphasis, struck] = found;
    parent.append(rest.slice(0, found.index));
    if (literal !== undefined) parent.append(make("code", "", literal.replace(/^ (.*\S.*) $/, "$1")));
    else inlines(strong ?? emphasis ?? struck, parent.appendChild(make(strong ? "strong" : emphasis ? "em" : "s")));
    rest = rest.slice(found.index + whole.length);
  }
  parent.append(rest);
}
