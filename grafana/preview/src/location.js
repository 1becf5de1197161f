// The URL is the only state of the page: which dashboard, which values, which time, which theme.
import { useSyncExternalStore } from 'react';

const listeners = new Set();
const notify = () => listeners.forEach((listener) => listener());
const subscribe = (listener) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};
window.addEventListener('popstate', notify);

export const useHref = () => useSyncExternalStore(subscribe, () => location.pathname + location.search);

/** What a page address says: {uid, vars: {name: [values]}, from, to, timeZone, refresh, theme, kiosk}. */
export function parseHref(href) {
  const url = new URL(href, location.origin);
  const vars = {};
  for (const [key, value] of url.searchParams) {
    if (key.startsWith('var-')) {
      (vars[key.slice(4)] ??= []).push(value);
    }
  }
  const get = (name) => url.searchParams.get(name) ?? undefined;
  return {
    uid: url.pathname.match(/^\/d\/([^/]+)/)?.[1],
    vars,
    from: get('from'),
    to: get('to'),
    timeZone: get('timezone'),
    refresh: get('refresh'),
    theme: get('theme'),
    kiosk: url.searchParams.has('kiosk'),
  };
}

export function navigate(href, { replace = false } = {}) {
  history[replace ? 'replaceState' : 'pushState'](null, '', href);
  notify();
}

/** Change some parameters of the current address; an array repeats its name, null removes it. */
export function setParams(changes, options) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    url.searchParams.delete(name);
    for (const item of value == null ? [] : [value].flat()) {
      url.searchParams.append(name, item);
    }
  }
  navigate(url.pathname + url.search, options);
}

/** Follow links to other dashboards without loading the page anew. */
export function interceptLinks() {
  document.addEventListener('click', (event) => {
    const anchor = event.target.closest?.('a[href]');
    const plain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    if (!anchor || !plain || event.defaultPrevented || anchor.target === '_blank') {
      return;
    }
    const url = new URL(anchor.href, location.href);
    if (url.origin === location.origin && url.pathname.startsWith('/d/')) {
      event.preventDefault();
      navigate(url.pathname + url.search);
      window.scrollTo(0, 0);
    }
  });
}
