// The stage: follows the run that the server names in `props.value`, by polling, and hands its frames to the player.
//
// Gradio runs this text once as the body of function (element, trigger, props, server, upload, watch).

const POLL_MS = 50; // at most 20 a second; all that has come in between is painted at once
const QUEUED_POLL_MS = 300;
const GIVE_UP_AFTER = 8; // polls in a row that failed
const LIVE = ["queued", "running"];
const BROKEN = ["failed", "unknown"];

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// An id of this page alone: two tabs on one run are two viewers. crypto.randomUUID needs https or localhost.
const viewer = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16)).join("-");

const player = new Player(element.querySelector("[data-stage]"), {
  ended: () => trigger("ended"),
  fork: (payload) => trigger("fork", payload),
  imported: (race) => trigger("imported", { race }),
  sources: () => asked("sources", {}),
}, props.value.tables);

let following = null; // the run being followed, null when none is live

// The status is read out by screen readers, so it is touched only when it says something new.
function status(text) {
  if (player.part("status").textContent !== text) player.part("status").textContent = text;
}

// What a function of the server says; null where it does not answer.
async function asked(name, data) {
  try {
    return (await server[name](data)) ?? null;
  } catch {
    return null;
  }
}

// A new value: a run to follow, a race to replay, or an error, which leaves what is on the stage alone.
function receive(value) {
  if (!value) return;
  player.say("error", value.error);
  player.say("note", value.note);
  if (value.error) {
    if (following === null) status("Not started.");
    return;
  }
  if (value.run && value.run === following) return; // more was said about the run that is being followed
  leave();
  if (value.race) {
    status("Ready.");
    player.load(value.race, value.recorded ? "Recorded" : "");
    return;
  }
  const keep = Math.min(value.keep ?? 0, player.lanes.length);
  player.begin(value.lanes ?? [], keep, value.title);
  if (!value.run) return;
  following = value.run;
  follow(value.run, keep);
}

async function follow(run, keep) {
  let cursor = 0;
  let failures = 0;
  while (following === run) {
    const reply = await asked("poll", { run, viewer, cursor });
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
    for (const frame of reply.frames) player.frame(frame, keep);
    player.paintLive();
    if (reply.more) continue;
    if (!LIVE.includes(reply.state)) return end(reply.message, BROKEN.includes(reply.state), reply.state);
    if (reply.state === "queued") status(reply.ahead ? `Queued: ${reply.ahead} ahead of you.` : "Queued.");
    else status(`${(player.lanes.find((lane) => !lane.finished) ?? player.lanes.at(-1)).name} is decoding.`);
    await wait(reply.state === "queued" ? QUEUED_POLL_MS : POLL_MS);
  }
}

function end(message, isError = false, state = "failed") {
  following = null;
  if (isError) player.say("error", message);
  status(state === "finished" ? "Finished." : isError ? "Not finished." : message);
  player.end(state === "stopped" ? "stopped" : "");
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
  if (event.persisted && player.live) end("This run ended when the page was left.", false, "stopped");
});
watch("value", () => receive(props.value));
window.addEventListener("pagehide", leave);
receive(props.value);
