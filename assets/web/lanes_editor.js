// The lanes of the next run, as native form controls. `props.value` is {lanes, models, most, tables, serial}.
//
// The fields of a lane are made from tables.settings, which Python reads from DecodeSettings. Python checks the
// values. For an empty field, the checkpoint's value is used.

const { strategies, policies, settings } = props.value.tables;
// A policy reads one setting. The form shows that setting in one control, "parameter", beside the policy.
const parameters = new Set(policies.map((each) => each.setting));

let shownSerial = null;
const get = (key) => element.querySelector(`[data-${key}]`);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function fill(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  select.value = chosen;
}

const labelOf = (strategy) => strategies.find((each) => each.name === strategy)?.label ?? strategy;

const modelOf = (name) => props.value.models.find((each) => each.name === name);

function strategiesOf(model) {
  return modelOf(model)?.strategies ?? strategies.map((each) => each.name);
}

function policyOf(lane) {
  const name = lane.unmasking ?? modelOf(lane.model)?.defaults?.unmasking;
  return policies.find((each) => each.name === name) ?? policies[0];
}

// What an empty field stands for: the model's value, else the engine's. Sampling without a value is off.
function defaultOf(setting, lane) {
  const value = modelOf(lane.model)?.defaults?.[setting.name] ?? setting.default;
  if (value !== null) return `default: ${value}`;
  return setting.group === "Sampling" ? "off" : "default";
}

const isRead = (setting, strategy) => setting.strategies === null || setting.strategies.includes(strategy);

// The lane after a change. Settings that the new policy, strategy or model does not read are removed.
function changed(lane, field, value) {
  const next = { ...lane };
  const set = (name, what) => { if (what === null) delete next[name]; else next[name] = what; };
  set(field === "parameter" ? policyOf(lane).setting : field, value);
  if (field === "unmasking") for (const name of parameters) delete next[name];
  if (field === "model" && !strategiesOf(value).includes(next.strategy)) next.strategy = strategiesOf(value)[0];
  if (field === "model" || field === "strategy") {
    for (const setting of settings) if (!isRead(setting, next.strategy)) delete next[setting.name];
  }
  return next;
}

function publish(lanes) {
  props.value = { ...props.value, lanes };
  draw();
  keep(lanes);
  trigger("edited");
}

// A reload of the page must not lose the lanes.
function keep(lanes) {
  try {
    localStorage.setItem("nbdiff.lanes", JSON.stringify(lanes));
  } catch {
    // no storage: the page remembers nothing
  }
}

function read(input) {
  if (input.type === "checkbox") return input.checked;
  if (input.value === "") return null;
  if (input.tagName === "TEXTAREA") return input.value.split("\n").filter(Boolean);
  return input.type === "number" ? Number(input.value) : input.value;
}

function describe(lane) {
  const size = lane.strategy !== "ar" && lane.block_size ? ` ${lane.block_size}` : "";
  return `${labelOf(lane.strategy)}${size}`;
}

function numberInput(field, { least, most, step }, value, placeholder) {
  const input = make("input", { type: "number", placeholder, min: least, max: most, step: step ?? "any" });
  return named(input, field, value ?? "");
}

function named(control, field, value) {
  control.dataset.field = field;
  control.value = value;
  return control;
}

// The labelled control for a setting of this lane, by the kind of the setting.
function control(setting, lane) {
  const { name, kind, label, description, choices } = setting;
  let node = null;
  if (name === "strategy") {
    node = named(make("select"), name, "");
    const possible = strategiesOf(lane.model);
    // A model that decodes AR only keeps the other strategies in view, disabled.
    const shown = modelOf(lane.model)?.why_only_ar ? strategies.map((each) => each.name) : possible;
    fill(node, shown.map((each) => [each, labelOf(each)]), lane.strategy);
    for (const option of node.options) option.disabled = !possible.includes(option.value);
  } else if (name === "unmasking") {
    node = named(make("select"), name, "");
    fill(node, policies.map((each) => [each.name, each.label]), policyOf(lane).name);
  } else if (kind === "choice") {
    node = named(make("select"), name, "");
    fill(node, [["", defaultOf(setting, lane)], ...choices.map((each) => [each, each])], lane[name] ?? "");
  } else if (kind === "flag") {
    node = named(make("input", { type: "checkbox" }), name, "on");
    node.checked = lane[name] ?? setting.default;
  } else if (kind === "texts" || kind === "integers" || kind === "pairs") {
    const placeholder = kind === "pairs" ? "id=number, one per line" : "one per line";
    node = named(make("textarea", { rows: 1, placeholder }), name, (lane[name] ?? []).join("\n"));
  } else {
    node = numberInput(name, setting, lane[name], defaultOf(setting, lane));
  }
  return make("label", { title: description }, `${label} `, node);
}

function parameterControl(lane) {
  const { rule, setting, setting_label: label, setting_least: least, setting_most: most, setting_step: step } = policyOf(lane);
  const name = make("span", { "data-parameter-label": "" }, label);
  const placeholder = defaultOf(settings.find((each) => each.name === setting), lane);
  return make("label", { title: rule }, name, " ", numberInput("parameter", { least, most, step }, lane[setting], placeholder));
}

// Why this model decodes AR only, and the way to change that.
function onlyAr(lane) {
  const why = modelOf(lane.model)?.why_only_ar;
  if (!why) return [];
  const note = make("div", { class: "only-ar" }, `${why} Block diffusion and self-speculation need an adapted model.`);
  if (props.value.trains) {
    const adapt = make("button", { type: "button" }, `Adapt ${lane.model}`);
    adapt.addEventListener("click", () => {
      trigger("adapting", { model: lane.model });
      scrollTo(0, 0); // the other tab is shown from its beginning
    });
    note.append(" ", adapt);
  }
  const shownDisabled = settings.filter((each) => each.name === "block_size" || each.name === "unmasking");
  const disabled = shownDisabled.map((setting) => {
    const label = control(setting, { ...lane, strategy: "block_diffusion" });
    const input = label.querySelector("select, input");
    input.disabled = true;
    delete input.dataset.field; // it is no field of this lane
    return label;
  });
  return [...disabled, note];
}

function row(lane, index) {
  const node = element.querySelector("template").content.firstElementChild.cloneNode(true);
  node.querySelector("[data-title]").textContent = `Lane ${index + 1}`;
  node.querySelector("[data-field=on]").checked = lane.on !== false;
  node.toggleAttribute("data-off", lane.on === false);
  const models = props.value.models.map((each) => [each.name, each.name]);
  if (!props.value.models.some((each) => each.name === lane.model)) models.push([lane.model, `${lane.model} (not loaded)`]);
  fill(node.querySelector("[data-field=model]"), models, lane.model);
  const remove = node.querySelector("[data-remove]");
  for (const setting of settings) {
    if (!isRead(setting, lane.strategy) || parameters.has(setting.name)) continue;
    remove.before(control(setting, lane));
    if (setting.name === "unmasking") remove.before(parameterControl(lane));
    if (setting.name === "strategy") remove.before(...onlyAr(lane));
  }
  for (const input of node.querySelectorAll("[data-field]")) {
    const { field } = input.dataset;
    input.addEventListener("change", () => {
      const lanes = props.value.lanes.map((each, i) => (i === index ? changed(each, field, read(input)) : each));
      publish(lanes);
      element.querySelectorAll("fieldset")[index]?.querySelector(`[data-field=${field}]`)?.focus();
    });
  }
  remove.setAttribute("aria-label", `Remove lane ${index + 1}`);
  remove.disabled = props.value.lanes.length === 1;
  remove.addEventListener("click", () => publish(props.value.lanes.filter((_, i) => i !== index)));
  return node;
}

function draw() {
  const { lanes, most } = props.value;
  shownSerial = props.value.serial;
  const running = lanes.filter((lane) => lane.on !== false);
  get("summary").textContent = `Lanes: ${running.map(describe).join(" · ") || "all are off"}`;
  get("list").replaceChildren(...lanes.map(row));
  get("add").disabled = lanes.length >= most;
}

get("add").addEventListener("click", () => publish([...props.value.lanes, { ...props.value.lanes.at(-1), on: true }]));
watch("value", () => {
  if (props.value.serial === shownSerial) return;
  draw();
  if (props.value.chosen) keep(props.value.lanes); // a preset, not the lanes that the page opens with
});
draw();
