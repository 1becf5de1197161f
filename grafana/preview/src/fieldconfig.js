// Units, colours, thresholds, mappings and overrides, applied by @grafana/data.
import { Registry, applyFieldOverrides, cacheFieldDisplayNames, locationUtil } from '@grafana/data';
import { interpolate } from './interpolate.js';

const STANDARD = ['unit', 'min', 'max', 'fieldMinMax', 'decimals', 'displayName', 'noValue', 'color', 'thresholds',
  'mappings', 'links', 'actions', 'description', 'filterable'];
const BY_THRESHOLDS = new Set(['stat', 'bargauge', 'table']);
const TIMESERIES = {
  drawStyle: 'line', lineWidth: 1, fillOpacity: 0, showPoints: 'auto', pointSize: 5, axisPlacement: 'auto',
  lineInterpolation: 'linear', gradientMode: 'none', barAlignment: 0, spanNulls: false,
};
const TABLE = { align: 'auto', cellOptions: { type: 'auto' }, inspect: false };
const DEFAULT_THRESHOLDS = { mode: 'absolute', steps: [{ value: null, color: 'green' }, { value: 80, color: 'red' }] };

/** Axis options are not for the time field of a chart. */
const applies = (path) => (path.startsWith('axis') ? ({ type }) => type !== 'time' && type !== 'string' : () => true);

const property = (id, path, isCustom) => ({
  id, path, name: id, isCustom, process: (value) => value, shouldApply: applies(path), editor: () => null, override: () => null,
});

/** A registry of the standard options and of whatever `custom` options this panel uses. */
function registryFor({ defaults, overrides }) {
  const custom = new Set(Object.keys(defaults.custom ?? {}));
  for (const { properties } of overrides) {
    properties.filter(({ id }) => id.startsWith('custom.')).forEach(({ id }) => custom.add(id.slice(7)));
  }
  return new Registry(() => [
    ...STANDARD.map((id) => property(id, id, false)),
    ...[...custom].map((id) => property(`custom.${id}`, id, true)),
  ]);
}

/** JSON has no -Infinity: the base threshold is written as null. */
const openThresholds = (thresholds) => thresholds?.steps && {
  ...thresholds,
  steps: thresholds.steps.map((step, i) => (i === 0 && step.value == null ? { ...step, value: -Infinity } : step)),
};

function mergeCustom(type, custom = {}) {
  const merged = { ...(type === 'timeseries' ? TIMESERIES : type === 'table' ? TABLE : {}), ...custom };
  if (merged.hidden) {
    merged.hideFrom = { ...merged.hideFrom, viz: true };
  }
  return merged;
}

function openProperty({ id, value }) {
  if (id === 'thresholds') {
    return { id, value: openThresholds(value) };
  }
  return id === 'custom.hidden' ? { id: 'custom.hideFrom', value: { viz: value } } : { id, value };
}

/** The panel's fieldConfig with the defaults Grafana gives to a panel of its type. */
export function completeFieldConfig(panel) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  const byThresholds = BY_THRESHOLDS.has(panel.type);
  return {
    defaults: {
      ...defaults,
      color: defaults.color ?? { mode: byThresholds ? 'thresholds' : 'palette-classic' },
      thresholds: openThresholds(defaults.thresholds ?? DEFAULT_THRESHOLDS),
      custom: mergeCustom(panel.type, defaults.custom),
    },
    overrides: overrides.map((rule) => ({ ...rule, properties: rule.properties.map(openProperty) })),
  };
}

const SAFE = new Set(['http:', 'https:', 'mailto:']);

/** A link's address if it is relative, http(s) or mail; else one where nothing happens. */
export function safeUrl(href) {
  try {
    const url = new URL(href, location.origin);
    return SAFE.has(url.protocol) ? href : 'about:blank';
  } catch {
    return 'about:blank';
  }
}

// @grafana/data would decode the addresses of links while it cleans them, and so break `a%26b`; safeUrl checks them.
locationUtil.initialize({ config: { appSubUrl: '', disableSanitizeHtml: true } });

const postProcess = ({ linkModel }) => ({ ...linkModel, href: safeUrl(linkModel.href) });

export function applyFieldConfig(frames, fieldConfig, ctx) {
  const applied = applyFieldOverrides({
    data: frames,
    fieldConfig,
    fieldConfigRegistry: registryFor(fieldConfig),
    replaceVariables: (text, scoped, format) => interpolate(text, ctx, { ...ctx.scoped, ...scoped }, format),
    theme: ctx.theme,
    timeZone: ctx.timeZone,
    dataLinkPostProcessor: postProcess,
  });
  cacheFieldDisplayNames(applied);
  return applied;
}
