// The strip above the lanes: the counted work of each lane, and whether its text is AR's. On a phone, where one lane is
// shown at a time, its buttons choose the lane.

class Strip {
  // on: { choose(lane) }
  constructor(root, on) {
    this.root = root;
    this.on = on;
  }

  draw(lanes, current) {
    // Of a fork, only what follows the change is counted, as in the figures of its lane.
    const counts = lanes.map(({ state }) => {
      if (!state) return 0;
      return state.has.edits ? measure(state.events).decode_forwards : state.forwards.at(-1) ?? 0;
    });
    const most = Math.max(1, ...counts);
    while (this.root.children.length > lanes.length) this.root.lastChild.remove();
    lanes.forEach((lane, index) => {
      const item = this.root.children[index] ?? this.root.appendChild(this.#item(index));
      const button = item.firstChild;
      const [name, work, text] = button.children;
      const same = lane.reading?.same ?? null;
      name.textContent = lane.name;
      const since = lane.state?.has.edits ? " since the fork" : "";
      work.textContent = lane.state ? plural(counts[index], "forward") + since : lane.stopped ? "not run" : "waits";
      text.textContent = same === null ? "" : same ? "same text" : "text differs";
      text.dataset.same = String(same);
      button.style.setProperty("--share", counts[index] / most);
      button.setAttribute("aria-current", lane === current);
    });
    this.lanes = lanes;
    this.root.hidden = lanes.length === 0;
  }

  #item(index) {
    const item = make("li");
    const button = make("button");
    button.type = "button";
    button.append(make("span", "name"), make("span", "work"), make("span", "agrees"));
    button.addEventListener("click", () => this.on.choose(this.lanes[index]));
    item.append(button);
    return item;
  }
}
