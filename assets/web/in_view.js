// Triggers `seen` once, when the accordion around this component has been in view for half a second. While the page is
// laid out, it is in view until the lanes above it have their height, so the time counts from the first lane on.
const watched = element.closest("#figures");
let timer = null;
const watcher = new IntersectionObserver((entries) => {
  clearTimeout(timer);
  if (entries.at(-1).isIntersecting) timer = setTimeout(show, 500);
});
watcher.observe(watched);

function show() {
  if (!document.querySelector("[data-lanes] > *")) {
    timer = setTimeout(show, 500);
    return;
  }
  watcher.disconnect();
  trigger("seen");
}
