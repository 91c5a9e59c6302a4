// The models on this machine as cards. `props.value` is {cards, news}; cards: null until they are listed; news {card,
// text, error, busy} is shown in the card that it is about. Names come from folders and visitors, so they are shown as text.

const list = element.querySelector("[data-cards]");

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text;
  return node;
}

// name: of the loaded model that the event is about; "" for a model that is not loaded.
function button(card, label, event, name, disabled) {
  const node = make("button", "", label);
  node.type = "button";
  node.disabled = disabled;
  node.setAttribute("aria-label", `${label}: ${name || card.name}`);
  node.addEventListener("click", () => trigger(event, { id: card.id, name }));
  return node;
}

function newsOf({ text, error, busy }) {
  const node = make("div", error ? "news error" : "news");
  node.setAttribute("role", error ? "alert" : "status");
  node.append(text);
  if (busy) node.append(make("div", "going"));
  return node;
}

function cardOf(card, news) {
  const node = make("li", card.loaded.length ? "loaded" : "");
  const title = make("h3", "", card.name);
  title.append(make("span", "kind", card.kind));
  node.append(title, make("p", "", card.facts.join(" · ")));
  if (card.why_not) node.append(make("p", "", card.why_not));
  const busy = Boolean(news?.busy);
  const buttons = make("div", "buttons");
  for (const { name, about } of card.loaded) {
    const line = make("p", "about");
    line.append(make("b", "", "Loaded"), ` as ${name}: ${about}`);
    node.append(line);
    const several = card.loaded.length > 1 ? ` ${name}` : "";
    buttons.append(button(card, `Use${several} in a lane`, "used", name, busy));
    buttons.append(button(card, `Unload${several}`, "unloading", name, busy));
  }
  if (card.can_load) {
    buttons.append(button(card, "Load", "loading", "", busy));
    if (!card.loaded.length) buttons.append(button(card, "Use in a lane", "used", "", busy));
  }
  if (card.can_adapt) buttons.append(button(card, "Adapt", "adapting", "", busy));
  if (news) node.append(newsOf(news));
  if (buttons.childElementCount) node.append(buttons);
  return node;
}

function draw() {
  const { cards, news } = props.value ?? { cards: null, news: null };
  element.querySelector("[data-looking]").hidden = cards !== null;
  const focused = document.activeElement?.closest?.("#models") ? document.activeElement.getAttribute("aria-label") : null;
  list.replaceChildren(...(cards ?? []).map((card) => cardOf(card, news?.card === card.id ? news : null)));
  // The buttons are made anew; the keyboard stays where it was.
  if (focused) [...list.querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === focused)?.focus();
}

watch("value", draw);
draw();
