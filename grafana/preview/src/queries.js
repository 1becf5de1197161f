// A panel's targets, asked of Prometheus as Grafana's data source asks, and answered as data frames.
import { FieldType, rangeUtil, toDataFrame } from '@grafana/data';
import { promFormat } from './formats.js';
import { interpolate } from './interpolate.js';
import { post } from './prometheus.js';
import { durationMs } from './time.js';

const MAX_POINTS = 11_000; // Prometheus refuses more points in a series
const DEFAULT_SCRAPE_MS = 15_000;

const secondsText = (ms) => (ms % 1000 ? `${ms}ms` : `${ms / 1000}s`);

/** {step, rateInterval} in milliseconds for a target in a panel of `width` pixels. */
export function stepFor(target, panel, ctx, width) {
  const scrape = durationMs(ctx.config.scrapeInterval) ?? DEFAULT_SCRAPE_MS;
  const own = interpolate(target.interval || panel.interval || '', ctx, {});
  const least = durationMs(own) ?? scrape;
  const points = panel.maxDataPoints || Math.max(Math.floor(width), 100);
  const { intervalMs } = rangeUtil.calculateInterval(ctx.range, points, `${least}ms`);
  const span = ctx.range.to.valueOf() - ctx.range.from.valueOf();
  const safe = rangeUtil.roundInterval(span / MAX_POINTS);
  const step = Math.max(intervalMs * (target.intervalFactor || 1), safe, 1);
  return { step, rateInterval: Math.max(step + scrape, 4 * scrape) };
}

/** `$__interval` and its kin, as variables for interpolate(). */
function intervalVariables({ step, rateInterval }) {
  return {
    __interval: { value: secondsText(step) },
    __interval_ms: { value: step },
    __rate_interval: { value: secondsText(rateInterval) },
    __rate_interval_ms: { value: rateInterval },
  };
}

function legendName(target, metric) {
  const { __name__: name = '', ...labels } = metric;
  if (target.legendFormat === '__auto') {
    return Object.keys(metric).length ? undefined : target.expr;
  }
  if (target.legendFormat) {
    return target.legendFormat.replace(/\{\{\s*([^{}]+?)\s*\}\}/g, (_, label) => metric[label] ?? '');
  }
  const inner = Object.entries(labels).map(([key, value]) => `${key}="${value}"`).join(', ');
  return Object.keys(metric).length ? (inner ? `${name}{${inner}}` : name) : target.expr;
}

const number = (text) => (text === 'NaN' ? NaN : Number(text.replace('Inf', 'Infinity')));

function seriesFrame(target, { metric, values, value }, step) {
  const points = values ?? [value];
  const name = legendName(target, metric);
  return toDataFrame({
    refId: target.refId,
    name,
    fields: [
      { name: 'Time', type: FieldType.time, config: { interval: step }, values: points.map((p) => p[0] * 1000) },
      {
        name: 'Value', type: FieldType.number, labels: metric,
        config: name === undefined ? {} : { displayNameFromDS: name },
        values: points.map((p) => number(p[1])),
      },
    ],
  });
}

/** One row for each sample, one column for each label: `format: table`. */
function tableFrame(target, series, valueName) {
  const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric).sort()))];
  const rows = series.flatMap(({ metric, values, value }) => (values ?? [value]).map((p) => [metric, p]));
  const column = (label) => ({
    name: label, type: FieldType.string, config: { filterable: true }, values: rows.map(([metric]) => metric[label] ?? ''),
  });
  return toDataFrame({
    refId: target.refId,
    meta: { preferredVisualisationType: 'table' },
    fields: [
      { name: 'Time', type: FieldType.time, values: rows.map(([, p]) => p[0] * 1000) },
      ...labels.map(column),
      { name: valueName, type: FieldType.number, values: rows.map(([, p]) => number(p[1])) },
    ],
  });
}

async function ask(target, panel, ctx, width, signal) {
  const steps = stepFor(target, panel, ctx, width);
  const query = interpolate(target.expr, ctx, { ...ctx.scoped, ...intervalVariables(steps) }, promFormat);
  const align = (time) => Math.floor(time.valueOf() / steps.step) * steps.step / 1000;
  const asks = [];
  if (target.range || !target.instant) {
    const params = { query, start: align(ctx.range.from), end: align(ctx.range.to), step: steps.step / 1000 };
    asks.push(post('query_range', params, signal));
  }
  if (target.instant) {
    asks.push(post('query', { query, time: ctx.range.to.valueOf() / 1000 }, signal));
  }
  const answers = await Promise.all(asks);
  return { series: answers.flatMap(toSeries), step: steps.step };
}

function toSeries({ resultType, result }) {
  return resultType === 'scalar' || resultType === 'string' ? [{ metric: {}, value: result }] : result;
}

/** Frames of all targets of a panel that are not hidden. A failing query fails the panel, with its refId. */
export async function queryPanel(panel, ctx, width, signal) {
  const targets = (panel.targets ?? []).filter((target) => !target.hide && target.expr);
  const named = { ...ctx, scoped: {} };
  const answers = await Promise.all(targets.map(async (target) => {
    try {
      return { target, ...(await ask(target, panel, named, width, signal)) };
    } catch (error) {
      if (error.name !== 'AbortError') {
        error.message = `${targets.length > 1 ? `${target.refId}: ` : ''}${error.message}`;
      }
      throw error;
    }
  }));
  const tables = answers.filter(({ target }) => target.format === 'table').length;
  return answers.flatMap(({ target, series, step }) => {
    const shown = { ...target, legendFormat: interpolate(target.legendFormat, named) };
    return target.format === 'table'
      ? [tableFrame(shown, series, tables > 1 ? `Value #${target.refId}` : 'Value')]
      : series.map((one) => seriesFrame(shown, one, step));
  });
}
