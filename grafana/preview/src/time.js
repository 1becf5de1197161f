// Time ranges as Grafana writes them in a URL: `now-6h`, an epoch in milliseconds, or an ISO date.
import { dateMath, dateTime, isDateTime, rangeUtil } from '@grafana/data';

const isEpoch = (text) => /^\d{9,}$/.test(text);

function parse(text, roundUp, timeZone) {
  if (isEpoch(text)) {
    return dateTime(Number(text));
  }
  const parsed = dateMath.parse(text, roundUp, timeZone);
  return parsed?.isValid() ? parsed : undefined;
}

/** The TimeRange of two URL values; anything unreadable becomes the last hour. */
export function parseRange(from, to, timeZone) {
  const start = parse(from, false, timeZone);
  const end = parse(to, true, timeZone);
  if (!start || !end || !(start.valueOf() < end.valueOf())) {
    return parseRange('now-1h', 'now', timeZone);
  }
  const raw = (text, value) => (text.includes('now') ? text : value);
  return { from: start, to: end, raw: { from: raw(from, start), to: raw(to, end) } };
}

const urlValue = (raw) => (isDateTime(raw) ? String(raw.valueOf()) : String(raw));

/** {from, to} for the URL. */
export const rangeToUrl = (range) => ({ from: urlValue(range.raw.from), to: urlValue(range.raw.to) });

export function shiftRange(range, direction) {
  const half = (range.to.valueOf() - range.from.valueOf()) / 2;
  return absolute(range.from.valueOf() + direction * half, range.to.valueOf() + direction * half);
}

export function zoomOut(range) {
  const half = (range.to.valueOf() - range.from.valueOf()) / 2;
  return absolute(range.from.valueOf() - half, range.to.valueOf() + half);
}

export function absolute(from, to) {
  const [start, end] = [dateTime(Math.round(from)), dateTime(Math.round(to))];
  return { from: start, to: end, raw: { from: start, to: end } };
}

/** Milliseconds of `15s`, `1m30s` is not an interval in Grafana either; undefined where unreadable. */
export function durationMs(text) {
  try {
    return text ? rangeUtil.intervalToMs(String(text).replace(/^>/, '')) : undefined;
  } catch {
    return undefined;
  }
}
