// The answers of a sweep, and the clicks on the points of its figures. `props.value` is {answers}; an answer is
// {name, prompt, text, checked, tpf, setting, problem}. All of it is shown as text: models and visitors have written it.
//
// A click on a point is sent to Python as the row of the table that the point shows.

const list = element.querySelector("[data-answers]");

function make(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

function answerOf(answer) {
  const { name, prompt, text, checked, tpf, setting, problem } = answer;
  const node = make("li", "", "");
  const title = make("p", "", "");
  title.append(make("b", "", name));
  if (checked) title.append(" · ", make("b", checked, checked));
  if (tpf !== null) title.append(` · ${tpf.toFixed(2)} tokens per forward`);
  const open = make("button", "", "Open in Decode");
  open.type = "button";
  open.setAttribute("aria-label", `Open in Decode: ${name}, problem ${problem + 1}`);
  open.addEventListener("click", () => {
    trigger("opened", { setting, problem });
    scrollTo(0, 0); // the other tab is shown from its beginning
  });
  node.append(title, make("p", "prompt", prompt), make("p", "", text), open);
  return node;
}

function draw() {
  list.replaceChildren(...(props.value?.answers ?? []).map(answerOf));
}

watch("value", draw);
draw();

// Gradio draws a figure anew at each change, so each new figure gets its listener.

const figures = () => document.querySelectorAll("#sweep-plots .js-plotly-plot");

function listen() {
  for (const figure of figures()) {
    if (figure.dataset.answers || typeof figure.on !== "function") continue;
    figure.dataset.answers = "yes";
    figure.on("plotly_click", ({ points }) => {
      const row = points[0]?.customdata;
      if (Number.isInteger(row)) trigger("picked", { row });
    });
  }
}

// The figures are not there yet when this runs.
function watchFigures(tries) {
  const place = document.getElementById("sweep-plots");
  if (place) {
    new MutationObserver(listen).observe(place, { childList: true, subtree: true });
    listen();
  } else if (tries) {
    setTimeout(watchFigures, 500, tries - 1);
  }
}

watchFigures(600);
