// The lanes of the next run, as native form controls. `props.value` holds {lanes, models, policies, most, serial}.
//
// Python names the choices; what is typed here is checked there. An empty field means: as the checkpoint says.

const STRATEGY_NAMES = { ar: "AR", block_diffusion: "Block diffusion", self_speculative: "Self-speculation" };
// the fields that a strategy reads, beyond model, temperature, seed, top-k and top-p
const FIELDS_OF = {
  ar: [],
  block_diffusion: ["block_size", "unmasking", "parameter", "sub_block_size"],
  self_speculative: ["block_size", "draft_steps"],
};
const ALWAYS = ["model", "strategy", "temperature", "seed", "top_k", "top_p"];

let shownSerial = null;
const get = (key) => element.querySelector(`[data-${key}]`);

function options(select, pairs, chosen) {
  select.replaceChildren(
    ...pairs.map(([value, text]) => {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = text;
      return option;
    }),
  );
  select.value = chosen;
}

function strategiesOf(model) {
  return props.value.models.find((each) => each.name === model)?.strategies ?? Object.keys(STRATEGY_NAMES);
}

function policyOf(lane) {
  return props.value.policies.find((each) => each.name === (lane.unmasking ?? "confidence")) ?? props.value.policies[0];
}

// What a change means for the rest of the lane: a parameter of another policy is dropped with its policy.
function changed(lane, field, value) {
  const next = { ...lane };
  const set = (name, what) => { if (what === null) delete next[name]; else next[name] = what; };
  if (field === "parameter") set(policyOf(lane).field, value);
  else set(field, value);
  if (field === "unmasking") for (const each of props.value.policies) delete next[each.field];
  if (field === "model" && !strategiesOf(value).includes(next.strategy)) next.strategy = strategiesOf(value)[0];
  if (field === "model" || field === "strategy") {
    const kept = [...ALWAYS, ...FIELDS_OF[next.strategy], "on"];
    for (const name of Object.keys(next)) {
      const isParameter = props.value.policies.some((each) => each.field === name);
      if (!kept.includes(name) && !(isParameter && kept.includes("parameter"))) delete next[name];
    }
  }
  return next;
}

function publish(lanes) {
  props.value = { ...props.value, lanes };
  draw();
}

function read(input) {
  if (input.type === "checkbox") return input.checked;
  if (input.type !== "number") return input.value;
  return input.value === "" ? null : Number(input.value);
}

function describe(lane) {
  if (lane.strategy === "ar") return "AR";
  const size = lane.block_size ? ` ${lane.block_size}` : "";
  return `${STRATEGY_NAMES[lane.strategy]}${size}`;
}

function row(lane, index) {
  const node = element.querySelector("template").content.firstElementChild.cloneNode(true);
  node.querySelector("[data-title]").textContent = `Lane ${index + 1}`;
  node.toggleAttribute("data-off", lane.on === false);
  const policy = policyOf(lane);
  node.querySelector("[data-parameter-label]").textContent = policy.label;
  const models = props.value.models.map((each) => [each.name, each.name]);
  if (!props.value.models.some((each) => each.name === lane.model)) models.push([lane.model, `${lane.model} (not loaded)`]);
  options(node.querySelector("[data-field=model]"), models, lane.model);
  options(node.querySelector("[data-field=strategy]"),
    strategiesOf(lane.model).map((name) => [name, STRATEGY_NAMES[name]]), lane.strategy);
  options(node.querySelector("[data-field=unmasking]"),
    props.value.policies.map((each) => [each.name, each.title]), policy.name);
  for (const label of node.querySelectorAll("[data-for]")) {
    label.hidden = ![...ALWAYS, ...FIELDS_OF[lane.strategy]].includes(label.dataset.for);
  }
  for (const input of node.querySelectorAll("[data-field]")) {
    const field = input.dataset.field;
    if (field === "on") input.checked = lane.on !== false;
    else if (input.type === "number") input.value = lane[field === "parameter" ? policy.field : field] ?? "";
    input.addEventListener("change", () => {
      const lanes = props.value.lanes.map((each, i) => (i === index ? changed(each, field, read(input)) : each));
      publish(lanes);
      element.querySelectorAll("fieldset")[index]?.querySelector(`[data-field=${field}]`)?.focus();
    });
  }
  const remove = node.querySelector("[data-remove]");
  remove.setAttribute("aria-label", `Remove lane ${index + 1}`);
  remove.disabled = props.value.lanes.length === 1;
  remove.addEventListener("click", () => publish(props.value.lanes.filter((_, i) => i !== index)));
  return node;
}

function draw() {
  const { lanes, most } = props.value;
  shownSerial = props.value.serial;
  const running = lanes.filter((lane) => lane.on !== false);
  get("summary").textContent = `Lanes: ${running.map(describe).join(" · ") || "none is on"}`;
  get("list").replaceChildren(...lanes.map(row));
  get("add").disabled = lanes.length >= most;
}

get("add").addEventListener("click", () => publish([...props.value.lanes, { ...props.value.lanes.at(-1), on: true }]));
watch("value", () => { if (props.value.serial !== shownSerial) draw(); });
draw();
