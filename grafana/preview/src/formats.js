// How a variable's value is written into a text: `${name:format}`, as in Grafana.
import { dateTime, dateTimeFormat, textUtil } from '@grafana/data';

const each = (fn) => (value) => (Array.isArray(value) ? value.map(fn) : fn(value));
const join = (value, separator) => (Array.isArray(value) ? value.join(separator) : String(value));
const escapeRegex = (text) => String(text).replace(/[\\^$*+?.()|[\]{}/]/g, '\\$&');
const strict = (text) => text.replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
const strictEncode = (text) => strict(encodeURIComponent(text));

const globs = (value) =>
  Array.isArray(value) ? (value.length === 1 ? value[0] : `{${value.join(',')}}`) : String(value);

const FORMATS = {
  glob: globs,
  raw: (value) => join(value, ','),
  csv: (value) => join(value, ','),
  text: (value, variable) => join(variable.text ?? value, ' + '),
  pipe: (value) => join(value, '|'),
  json: (value) => JSON.stringify(value),
  regex: (value) => {
    const escaped = each(escapeRegex)(value);
    return Array.isArray(escaped) ? (escaped.length === 1 ? escaped[0] : `(${escaped.join('|')})`) : escaped;
  },
  singlequote: (value) => join(each((v) => `'${String(v).replaceAll("'", "\\'")}'`)(value), ','),
  doublequote: (value) => join(each((v) => `"${String(v).replaceAll('"', '\\"')}"`)(value), ','),
  percentencode: (value) => strictEncode(globs(value)),
  uriencode: (value) => strict(encodeURI(globs(value))),
  html: (value) => textUtil.escapeHtml(globs(value)),
  queryparam: (value, { name }) =>
    [value].flat().map((v) => `var-${encodeURIComponent(name)}=${strictEncode(v)}`).join('&'),
};

function formatDate(value, format = 'iso') {
  const time = Number(value);
  if (format === 'iso') {
    return dateTime(time).toISOString();
  }
  return format === 'seconds' ? String(Math.round(time / 1000)) : dateTimeFormat(time, { format });
}

/** Write `value` in a named format, or with a function (value, variable) => text. */
export function formatValue(value, format = 'glob', variable = {}) {
  if (typeof format === 'function') {
    return format(value, variable);
  }
  const [name, ...rest] = format.split(':');
  if (name === 'date') {
    return formatDate(value, rest.join(':') || undefined);
  }
  return (FORMATS[name] ?? FORMATS.glob)(value, variable);
}

const quoteEscape = (text) => String(text).replace(/\\/g, '\\\\').replace(/"/g, '\\"');
const promRegexEscape = (text) =>
  String(text).replace(/\\/g, '\\\\\\\\').replace(/[$^*{}[\]+?.()|]/g, '\\\\$&').replace(/"/g, '\\"');

/** As Grafana's Prometheus data source writes values into PromQL: regular expressions where several can be chosen. */
export function promFormat(value, variable) {
  if (!variable.multi && !variable.includeAll) {
    return Array.isArray(value) ? value.map(quoteEscape).join('|') : quoteEscape(value);
  }
  const escaped = [value].flat().map(promRegexEscape);
  return escaped.length === 1 ? escaped[0] : `(${escaped.join('|')})`;
}
