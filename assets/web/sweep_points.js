// A click on a point of a figure is sent to Python: the row of the table that the point shows.
//
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
