// A race replayed by the page that holds it: no server, no network, from a file as well.

const dark = matchMedia("(prefers-color-scheme: dark)");
const dress = () => document.body.classList.toggle("dark", dark.matches);
dark.addEventListener("change", dress);
dress();

const embedded = (id) => JSON.parse(document.getElementById(id).textContent);
const player = new Player(document.querySelector("#stage [data-stage]"), {}, embedded("tables"));
player.part("status").hidden = true;
player.load(embedded("race"), "Recorded");
player.root.focus({ preventScroll: true }); // so that the keys work at once
