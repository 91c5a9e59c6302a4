// Gradio 6.31 sends the event `input` of a text field after a keypress, and so not after Backspace, a paste, a cut, a
// drop or a completion. Those get a keypress here, because what the page shows of a form follows from that event.

let pressed = false; // whether the text that comes now has a keypress of its own

document.addEventListener(
  "keypress",
  () => {
    pressed = true;
    setTimeout(() => { pressed = false; });
  },
  true,
);
document.addEventListener("input", ({ target }) => {
  if (pressed || !target.matches?.('[data-testid="textbox"]')) return;
  target.dispatchEvent(new KeyboardEvent("keypress", { key: "Unidentified", bubbles: true }));
});
