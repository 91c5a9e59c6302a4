// The turns of the chat: what was asked, what the first lane answered, and a button that shows the race of the turn.

const turnList = element.querySelector("[data-turns]");

function draw() {
  const { turns, chosen } = props.value ?? { turns: [], chosen: null };
  turnList.replaceChildren(...turns.map(({ prompt, answer, race }, index) => {
    const item = make("li");
    const its = make("div", "said its");
    its.append(renderMarkdown(answer));
    const show = make("button", "", race);
    show.type = "button";
    show.setAttribute("aria-label", `Show the race of turn ${index + 1}: ${race}`);
    show.setAttribute("aria-pressed", index === chosen);
    show.addEventListener("click", () => trigger("picked", { turn: index }));
    item.append(make("div", "said mine", prompt), its, show);
    return item;
  }));
  turnList.lastChild?.scrollIntoView({ block: "nearest" });
}

watch("value", draw);
draw();
