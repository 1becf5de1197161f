// Tells screenshots and tests when the page is done, and what went wrong on it:
// body.dataset.ready is "1" once no panel is loading, body.dataset.problems a JSON list.
const panels = new Map();
let pageLoaded = false;
let pageProblem;
let generation = 0;

const settled = () => pageLoaded && [...panels.values()].every((panel) => !panel.loading);

function publish() {
  generation += 1;
  const mine = generation;
  document.body.dataset.problems = JSON.stringify([pageProblem, ...[...panels.values()].map((panel) => panel.problem)].filter(Boolean));
  if (!settled()) {
    document.body.dataset.ready = '0';
    return;
  }
  // Two frames and a moment, so that canvases and icons are drawn.
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => {
    if (mine === generation && settled()) {
      document.body.dataset.ready = '1';
    }
  }, 150)));
}

/** Whether variables are known and panels stand; `error` where the page itself cannot be shown. */
export function setPageLoaded(loaded, error) {
  pageLoaded = loaded;
  pageProblem = error && { panel: '', kind: 'error', text: error };
  publish();
}

export function setPanel(key, loading, problem) {
  panels.set(key, { loading, problem });
  publish();
}

export function dropPanel(key) {
  panels.delete(key);
  publish();
}
