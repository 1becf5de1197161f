// From an address to everything a panel needs to know: dashboard, variables, time, theme.
import { useCallback, useEffect, useState } from 'react';
import { getTimeZoneInfo, rangeUtil } from '@grafana/data';
import { parseHref } from './location.js';
import { getJson } from './prometheus.js';
import { setPageLoaded } from './ready.js';
import { parseRange } from './time.js';
import { resolveVariables } from './variables.js';

const dashboards = new Map();

function loadDashboard(index, uid) {
  const entry = index.find((item) => item.uid === uid);
  if (!entry) {
    throw new Error(`There is no dashboard with uid ${uid}.`);
  }
  if (!dashboards.has(entry.file)) {
    const promise = getJson(`/dashboards/${entry.file.replace(/(\.json)?$/, '.json')}`);
    promise.catch(() => dashboards.delete(entry.file));
    dashboards.set(entry.file, promise);
  }
  return dashboards.get(entry.file);
}

function timeZoneOf(page, dashboard) {
  const zone = page.timeZone || dashboard.timezone || 'browser';
  return zone === 'browser' || getTimeZoneInfo(zone, Date.now()) ? zone : 'browser';
}

async function resolve(href, tick, { config, index }) {
  const page = parseHref(href);
  const dashboard = await loadDashboard(index, page.uid);
  const timeZone = timeZoneOf(page, dashboard);
  const range = parseRange(page.from ?? dashboard.time?.from ?? 'now-1h', page.to ?? dashboard.time?.to ?? 'now', timeZone);
  const ctx = { config, dashboard, range, timeZone, tick, revision: `${href} ${tick}`, vars: {}, scoped: {} };
  ctx.vars = await resolveVariables(ctx, page.vars);
  return ctx;
}

/** The part of the address that data depends on: a change of theme asks nothing anew. */
function dataHref(href) {
  const url = new URL(href, location.origin);
  ['theme', 'refresh', 'kiosk'].forEach((name) => url.searchParams.delete(name));
  return url.pathname + url.search;
}

/** {ctx, error, loading, refresh} for the current address; the last ctx stays while the next is resolved. */
export function useDashboard(href, site) {
  const [tick, setTick] = useState(0);
  const [state, setState] = useState({ loading: true });
  const key = dataHref(href);
  useEffect(() => {
    let stale = false;
    setPageLoaded(false);
    setState((old) => ({ ...old, loading: true }));
    resolve(key, tick, site).then(
      (ctx) => !stale && setState({ ctx }),
      (error) => !stale && setState({ error: error.message }),
    );
    return () => { stale = true; };
  }, [key, tick, site]);
  const refresh = useCallback(() => setTick((old) => old + 1), []);
  return { ...state, refresh };
}

export function useAutoRefresh(interval, refresh) {
  useEffect(() => {
    let ms = 0;
    try {
      ms = interval ? rangeUtil.intervalToMs(interval) : 0;
    } catch {
      ms = 0;
    }
    if (!ms) {
      return undefined;
    }
    const timer = setInterval(() => !document.hidden && refresh(), ms);
    return () => clearInterval(timer);
  }, [interval, refresh]);
}
