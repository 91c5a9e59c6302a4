// The stage: polls the run that the server names in `props.value`, and gives its frames to the player.
//
// Gradio runs this file once, as the body of function (element, trigger, props, server, upload, watch).

const POLL_MS = 50; // at most 20 polls a second; all frames of a poll are drawn together
const QUEUED_POLL_MS = 300;
const GIVE_UP_AFTER = 8; // failed polls in a row
const SEEN = 160; // pixels of the stage that must be in view, or may be above it
const LIVE = ["queued", "running"];
const BROKEN = ["failed", "unknown"];

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// A random id of this page: two tabs on one run are two viewers. crypto.randomUUID would need https or localhost.
const viewer = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("-");

// Where the page has no model of its own, a sentence stands for the controls of a fork.
if (props.why_no_forks) element.querySelector("[data-forkhint]").parentNode.append(` ${props.why_no_forks}`);

const player = new Player(element.querySelector("[data-stage]"), {
  ended: () => trigger("ended"),
  fork: props.why_no_forks ? null : (payload) => trigger("fork", payload),
  imported: (race) => {
    remember(lasting, KEPT.race, race);
    trigger("imported", { race });
  },
  sources: () => callServer("sources", {}),
}, props.value.tables);

let following = null; // the id of the live run, or null
let resumed = null; // the value with the run that the page continues after a reload

// Screen readers read the status at each change, so it is changed only for a new text.
function status(text) {
  if (player.part("status").textContent !== text) player.part("status").textContent = text;
}

// The result of a function of the server; null without an answer.
async function callServer(name, data) {
  try {
    return (await server[name](data)) ?? null;
  } catch {
    return null;
  }
}

// Handle a new value: a run to follow, a race to replay, or an error, which does not change the lanes.
function receive(value) {
  if (!value) return;
  player.say("error", value.error);
  player.say("note", value.note);
  if (value.error || value.stays || (value.run && value !== resumed)) showTop();
  if (value.error) {
    if (following === null) status("Not started.");
    return;
  }
  if (value.stays || (value.run && value.run === following)) return; // a message about what is shown
  leave();
  remember(ofTab, KEPT.run, null);
  if (value.race) {
    if (value.recorded) remember(lasting, KEPT.race, null); // the page was opened on it, or the visitor chose it
    status("Ready.");
    player.load(value.race, value.recorded ? "Recorded" : "");
    return;
  }
  const keep = Math.min(value.keep ?? 0, player.lanes.length);
  player.begin(value.lanes ?? [], keep, value.title);
  document.body.toggleAttribute("data-decoding", Boolean(value.run)); // the figures are those of the race before
  if (!value.run) return;
  following = value.run;
  const { run, lanes, title } = value;
  remember(ofTab, KEPT.run, { run, lanes, title, keep });
  follow(value.run, keep);
}

// On a phone the form is below the race: what was asked for would begin out of sight.
function showTop() {
  const { top } = element.getBoundingClientRect();
  if (top < -SEEN || top > innerHeight - SEEN) element.scrollIntoView();
}

// The page was loaded again: continue the run that was in progress, or show the last race. Returns false without either.
function resume() {
  if (openedByLink()) return false;
  const kept = recall(ofTab, KEPT.run);
  let race = null;
  try {
    race = parseRace(JSON.stringify(recall(lasting, KEPT.race)), props.value.tables);
  } catch (problem) {
    if (!(problem instanceof FileProblem)) throw problem;
  }
  if (race) player.load(race, "Last race", () => trigger("imported", { race }));
  if (typeof kept?.run !== "string" || !Array.isArray(kept.lanes)) return race !== null;
  const { run, lanes, keep, title } = kept;
  resumed = { ...props.value, run, lanes, keep, title, race: null, recorded: false };
  props.value = resumed;
  receive(resumed);
  trigger("resumed", { run, title });
  return true;
}

// The model that the page opens on may still be loading. A run waits for it; the recorded race does not.
async function showComingModel() {
  for (let shown = false; ; shown = true) {
    const coming = await callServer("coming", {});
    if (!coming) {
      if (shown) {
        player.say("note", props.value.note);
        trigger("arrived"); // other tabs list it now
      }
      return;
    }
    if (coming.problem) return player.say("error", coming.problem);
    player.say("note", coming.sentence);
    await wait(1000);
  }
}

async function follow(run, keep) {
  let cursor = 0;
  let failures = 0;
  while (following === run) {
    const reply = await callServer("poll", { run, viewer, cursor });
    if (following !== run) return;
    if (!reply) {
      failures += 1;
      if (failures === GIVE_UP_AFTER) return end("The server does not answer.", true);
      status("The connection is lost; trying again.");
      await wait(Math.min(4000, 200 * 2 ** failures));
      continue;
    }
    failures = 0;
    cursor = reply.cursor;
    for (const frame of reply.frames) player.frame(frame, keep);
    player.paintLive();
    if (reply.more) continue;
    if (!LIVE.includes(reply.state)) return end(reply.message, BROKEN.includes(reply.state), reply.state);
    if (reply.state === "queued") status(reply.ahead ? `Queued: ${plural(reply.ahead, "run")} before this one.` : "Queued.");
    else status(`${(player.lanes.find((lane) => !lane.finished) ?? player.lanes.at(-1)).name} is decoding.`);
    await wait(reply.state === "queued" ? QUEUED_POLL_MS : POLL_MS);
  }
}

function end(message, isError = false, state = "failed") {
  following = null;
  document.body.removeAttribute("data-decoding");
  remember(ofTab, KEPT.run, null);
  if (isError) player.say("error", message);
  status(state === "finished" ? "Finished." : isError ? "Not finished." : message);
  player.end(state === "stopped" ? "stopped" : "");
  if (player.lanes.some((lane) => lane.state?.events.length)) remember(lasting, KEPT.race, player.race());
}

// Tell the server that this viewer has left. When a page closes, the browser cancels a fetch but sends a beacon. A page
// that is loaded again comes back soon: the server waits for it.
function leave(mayReturn = false) {
  if (following === null) return;
  const data = { run: following, viewer, may_return: mayReturn };
  const body = { data, component_id: props.component_id, fn_name: "leave", session_hash: viewer };
  const address = new URL("gradio_api/component_server/", document.baseURI);
  navigator.sendBeacon(address, new Blob([JSON.stringify(body)], { type: "application/json" }));
  following = null;
}

// The browser shows the page again from its cache. If the server has not waited so long, the run was stopped.
window.addEventListener("pageshow", (event) => {
  if (event.persisted && player.live) resume();
});
watch("value", () => {
  const isOpening = props.value?.recorded && props.value.serial === openingSerial && !props.value.error;
  if (!restored || !isOpening) return receive(props.value);
  // Gradio sets the opening value once more after this script has run.
  if (following !== null) props.value = resumed;
});
window.addEventListener("pagehide", () => leave(true));
rememberTab();
const openingSerial = props.value?.serial; // a recorded race that the visitor chooses later has another one
const restored = resume();
if (!restored) receive(props.value);
showComingModel();
