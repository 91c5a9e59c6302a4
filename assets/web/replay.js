// Replays the race in this HTML file, without a server or a network.

const dark = matchMedia("(prefers-color-scheme: dark)");
const applyScheme = () => document.body.classList.toggle("dark", dark.matches);
dark.addEventListener("change", applyScheme);
applyScheme();

const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
const player = new Player(document.querySelector("#stage [data-stage]"), {}, embedded("tables"));
player.part("status").hidden = true;
player.load(embedded("race"), "Recorded");
player.root.focus({ preventScroll: true }); // the keys work without a click
