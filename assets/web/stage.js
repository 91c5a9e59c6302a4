// The stage: follows the run that the server names in `props.value`, by polling, and hands its frames to the lanes.
//
// Gradio runs this text once as the body of function (element, trigger, props, server, upload, watch).

const POLL_MS = 60; // about 16 a second
const QUEUED_POLL_MS = 300;
const GIVE_UP_AFTER = 8; // polls in a row that failed
const LIVE = ["queued", "running"];
const BROKEN = ["failed", "unknown"];

const part = (key) => element.querySelector(`[data-${key}]`);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// An id of this page alone: two tabs on one run are two viewers. crypto.randomUUID needs https or localhost.
const viewer = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("-");

let lanes = [];
let following = null; // the run being followed, null when none is live

function say(key, text) {
  part(key).textContent = text;
  part(key).hidden = !text;
}

// The status is read out by screen readers, so it is touched only when it says something new.
function status(text) {
  if (part("status").textContent !== text) part("status").textContent = text;
}

function setUp(wanted) {
  const template = element.querySelector("template");
  lanes = wanted.map((lane) => new Lane(template, lane));
  part("lanes").replaceChildren(...lanes.map((lane) => lane.root));
}

// A new value: a run to follow, or an error, which leaves what is on the stage alone.
function receive(value) {
  say("error", value.error);
  say("note", value.note);
  if (value.error) {
    if (following === null) status("Not started.");
    return;
  }
  leave();
  setUp(value.lanes);
  say("verdict", "");
  if (value.run === null) return;
  following = value.run;
  follow(value.run);
}

async function follow(run) {
  let cursor = 0;
  let failures = 0;
  while (following === run) {
    const reply = await server.poll({ run, viewer, cursor });
    if (following !== run) return;
    if (!reply) {
      failures += 1;
      if (failures === GIVE_UP_AFTER) return end("The server does not answer any more.", true);
      status("The connection is lost; trying again.");
      await wait(Math.min(4000, 200 * 2 ** failures));
      continue;
    }
    failures = 0;
    cursor = reply.cursor;
    show(reply.frames);
    if (reply.more) continue;
    if (!LIVE.includes(reply.state)) return end(reply.message, BROKEN.includes(reply.state), reply.state);
    if (reply.state === "queued") status(reply.ahead ? `Queued: ${reply.ahead} ahead of you.` : "Queued.");
    else status(`${(lanes.find((lane) => !lane.finished) ?? lanes.at(-1)).name} is decoding.`);
    await wait(reply.state === "queued" ? QUEUED_POLL_MS : POLL_MS);
  }
}

function show(frames) {
  for (const frame of frames) {
    if (frame.kind === "summary") say("verdict", frame.verdict);
    else lanes[frame.lane].apply(frame);
  }
  for (const lane of lanes) lane.settle();
}

function end(message, isError = false, state = "failed") {
  following = null;
  for (const lane of lanes) {
    if (!lane.finished) lane.badge(state === "stopped" ? "stopped" : "not finished", "stopped");
  }
  if (isError) say("error", message);
  status(state === "finished" ? "Finished." : isError ? "Not finished." : message);
  trigger("ended");
}

// Tell the server that this viewer is gone. A beacon outlives the page; a fetch would be cancelled with it.
function leave() {
  if (following === null) return;
  const data = { run: following, viewer };
  const body = { data, component_id: props.component_id, fn_name: "leave", session_hash: viewer };
  const address = new URL("gradio_api/component_server/", document.baseURI);
  navigator.sendBeacon(address, new Blob([JSON.stringify(body)], { type: "application/json" }));
  following = null;
}

// A page that the browser brings back has left its run, as leave() has told the server.
window.addEventListener("pageshow", (event) => {
  if (event.persisted && lanes.some((lane) => !lane.finished)) end("This run ended when the page was left.", false, "stopped");
});
watch("value", () => receive(props.value));
window.addEventListener("pagehide", leave);
receive(props.value);
