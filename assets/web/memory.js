// What a reload of the page must not lose, in the storage of the browser: the tab, the last race, the run in progress.
//
// The form is stored by its own events, the sweep by its tab. Without a storage (a private window, a full disk) the page
// works and remembers nothing.

const KEPT = { tab: "nbdiff.tab", race: "nbdiff.race", run: "nbdiff.run" };
const MOST_KEPT = 3_000_000; // characters of a race

function recall(storage, key) {
  try {
    return JSON.parse(storage().getItem(key));
  } catch {
    return null;
  }
}

// value null: forget.
function remember(storage, key, value) {
  try {
    const text = value === null ? null : JSON.stringify(value);
    if (text === null || text.length > MOST_KEPT) storage().removeItem(key);
    else storage().setItem(key, text);
  } catch {
    // no storage
  }
}

const lasting = () => localStorage; // of all tabs of the browser
const ofTab = () => sessionStorage; // of this tab, until it is closed

// The page was opened by a link, which says what it shows.
const openedByLink = () => location.hash.startsWith("#run=");

// Remember which tab of the page is shown, and show it again.
function rememberTab() {
  const tabs = () => [...document.querySelectorAll("#tabs > .tab-wrapper [role=tab]")];
  const nameOf = (tab) => tab.textContent.trim();
  document.addEventListener("click", (event) => {
    const tab = event.target.closest?.("#tabs > .tab-wrapper [role=tab]");
    if (tab) remember(lasting, KEPT.tab, nameOf(tab));
  });
  const wanted = location.hash ? null : recall(lasting, KEPT.tab); // a fragment names a run, a job or a tab
  const show = (tries) => {
    const tab = tabs().find((each) => nameOf(each) === wanted);
    if (tab) tab.click();
    else if (tries) setTimeout(show, 100, tries - 1);
  };
  if (typeof wanted === "string") show(30);
}
