// `$name`, `${name:format}`, `[[name]]` and Grafana's own `$__…` in queries, titles and links.
import { formattedValueToString, getDisplayProcessor, getFieldDisplayName, getFieldDisplayValuesProxy } from '@grafana/data';
import { formatValue } from './formats.js';
import { rangeToUrl } from './time.js';

const PATTERN = /\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{(\w+)(?:\.([^:^}]+))?(?::([^}]+))?\}/g;

/** Walk `fields["A b"].text`, `labels.user`, `[0]` down an object. */
function walk(root, path) {
  const keys = [...(path ?? '').matchAll(/\[["']?([^\]"']+)["']?\]|([^.[\]]+)/g)].map((m) => m[1] ?? m[2]);
  return keys.reduce((node, key) => (node == null ? undefined : node[key]), root);
}

function valueMacro(path, { frame, field, rowIndex, calculatedValue }) {
  const raw = rowIndex === undefined ? calculatedValue?.numeric : field?.values[rowIndex];
  const shown = calculatedValue ?? (field?.display ?? getDisplayProcessor())(raw);
  switch (path) {
    case 'numeric': return shown.numeric;
    case 'text': return shown.text;
    case 'time': return frame?.fields.find((f) => f.type === 'time')?.values[rowIndex ?? 0];
    case 'raw': return raw;
    default: return formattedValueToString(shown);
  }
}

function dataMacro(path, { frame, rowIndex }) {
  const fields = getFieldDisplayValuesProxy({ frame, rowIndex: rowIndex ?? 0 });
  return walk({ fields, name: frame?.name, refId: frame?.refId }, path);
}

function fieldMacro(path, { frame, field, data }) {
  const name = getFieldDisplayName(field, frame, data);
  return path ? walk({ name: field.name, displayName: name, labels: field.labels ?? {} }, path) : name;
}

const DATA_MACROS = {
  __value: valueMacro,
  __data: dataMacro,
  __field: fieldMacro,
  __series: (path, { frame, field, data }) => frame?.name ?? getFieldDisplayName(field, frame, data),
};

/** `var-a=x&var-a=y&…` of every variable, for links that carry them on. */
export const variableParams = (ctx) =>
  Object.values(ctx.vars).map((v) =>
    formatValue(v.isAll ? '$__all' : v.value, 'queryparam', v)).join('&');

export const timeParams = (ctx) => new URLSearchParams(rangeToUrl(ctx.range)).toString();

function builtin(name, ctx) {
  switch (name) {
    case '__from': return ctx.range.from.valueOf();
    case '__to': return ctx.range.to.valueOf();
    case '__dashboard': return ctx.dashboard.title;
    case '__timezone': return ctx.timeZone;
    case '__range': return `${rangeSeconds(ctx)}s`;
    case '__range_s': return rangeSeconds(ctx);
    case '__range_ms': return rangeSeconds(ctx) * 1000;
    default: return undefined;
  }
}

const rangeSeconds = ({ range }) => Math.round((range.to.valueOf() - range.from.valueOf()) / 1000);

function userVariable(variable, path, format, ctx) {
  const name = typeof format === 'string' ? format.split(':')[0] : format;
  if (name === 'text' || path === 'text') {
    return formatValue(variable.text, 'text', variable);
  }
  if (variable.isAll && name === 'queryparam') {
    return formatValue('$__all', 'queryparam', variable);
  }
  if (variable.isAll && variable.allValue) {
    return interpolate(variable.allValue, ctx);
  }
  return formatValue(variable.value, format, variable);
}

/** Replace every variable known in `ctx`; unknown ones stay as they are. */
export function interpolate(text, ctx, scoped = {}, format) {
  if (typeof text !== 'string' || !/[$[]/.test(text)) {
    return text;
  }
  return text.replace(PATTERN, (match, plain, square, squareFormat, name, path, braceFormat) => {
    name ??= plain ?? square;
    const style = squareFormat ?? braceFormat ?? format;
    if (name === '__url_time_range') {
      return timeParams(ctx);
    }
    if (name === '__all_variables') {
      return variableParams(ctx);
    }
    const context = scoped.__dataContext?.value;
    if (DATA_MACROS[name]) {
      const value = context && DATA_MACROS[name](path, context);
      return value == null ? (context ? '' : match) : formatValue(String(value), style, { name });
    }
    const value = scoped[name]?.value ?? builtin(name, ctx);
    if (value !== undefined) {
      return formatValue(value, style, { name });
    }
    return Object.hasOwn(ctx.vars, name) ? userVariable(ctx.vars[name], path, style, ctx) : match;
  });
}
