// Dashboard variables: what can be chosen, what is chosen. Resolved in order of their dependencies.
import { stringToJsRegex } from '@grafana/data';
import { promFormat } from './formats.js';
import { interpolate } from './interpolate.js';
import { get } from './prometheus.js';

export const ALL = '$__all';
const natural = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });
const plain = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const firstNumber = (text) => Number(text.match(/-?\d+(\.\d+)?/)?.[0] ?? -1);

const ORDERS = [
  null,
  plain,
  (a, b) => firstNumber(a) - firstNumber(b),
  (a, b) => plain(a.toLowerCase(), b.toLowerCase()),
  (a, b) => natural.compare(a, b),
];

/** Grafana's sort codes: 1 alphabetical, 3 numerical, 5 without case, 7 natural; the next code descends. */
export function sortOptions(options, code = 0) {
  const order = ORDERS[Math.ceil(code / 2)];
  if (!order) {
    return options;
  }
  const sign = code % 2 ? 1 : -1;
  return [...options].sort((a, b) => sign * order(a.text, b.text));
}

/** Keep and cut values with the variable's regex; named groups `text` and `value` are honoured. */
export function applyRegex(values, regex) {
  const pattern = regex ? stringToJsRegex(regex.startsWith('/') ? regex : `/^${regex}$/`) : null;
  const options = values.flatMap((value) => {
    if (!pattern) {
      return [{ text: value, value }];
    }
    const global = new RegExp(pattern.source, pattern.flags.replace('g', ''));
    const match = value.match(global);
    if (!match) {
      return [];
    }
    const part = match.groups?.value ?? match.groups?.text ?? match[1] ?? match[0];
    return [{ text: match.groups?.text ?? part, value: part }];
  });
  return [...new Map(options.map((option) => [option.value, option])).values()];
}

function parseQuery(variable) {
  const query = variable.query ?? variable.definition ?? '';
  return typeof query === 'string' ? query : (query.query ?? variable.definition ?? '');
}

async function runQuery(query, range) {
  const time = [['start', range.from.valueOf() / 1000], ['end', range.to.valueOf() / 1000]];
  const found = query.match(/^label_values\((?:(.+),\s*)?([a-zA-Z_$][\w$]*)\s*\)\s*$/s);
  if (!found) {
    throw new Error(`this viewer looks up label_values(...) only, not ${query}`);
  }
  const match = found[1] ? [['match[]', found[1].trim()]] : [];
  return get(`label/${encodeURIComponent(found[2])}/values`, [...match, ...time]);
}

const cache = new Map();

async function queryOptions(variable, ctx) {
  const query = interpolate(parseQuery(variable), ctx, {}, promFormat).trim();
  if (!query) {
    return [];
  }
  const when = `${ctx.range.from.valueOf()}-${ctx.range.to.valueOf()}`;
  const key = JSON.stringify([ctx.dashboard.uid, query, variable.refresh === 2 ? when : '']);
  if (!cache.has(key)) {
    cache.set(key, runQuery(query, ctx.range).catch((error) => {
      cache.delete(key);
      throw new Error(`variable ${variable.name}: ${error.message}`);
    }));
  }
  return sortOptions(applyRegex((await cache.get(key)).map(String), interpolate(variable.regex ?? '', ctx)), variable.sort);
}

async function optionsOf(variable, ctx) {
  switch (variable.type) {
    case 'query': return queryOptions(variable, ctx);
    case 'datasource': return [{ text: ctx.config.datasource ?? 'Prometheus', value: ctx.config.datasource ?? 'prometheus' }];
    default: throw new Error(`this viewer has no variables of type ${variable.type}`);
  }
}

/** The chosen values: from the URL, else the dashboard's `current` if it still exists, else All or the first. */
function chosen(variable, options, fromUrl) {
  if (variable.type === 'datasource') {
    return options.slice(0, 1).map((option) => option.value);
  }
  if (fromUrl) {
    return variable.multi ? fromUrl : fromUrl.slice(0, 1);
  }
  const current = [variable.current?.value ?? []].flat().filter((value) => value !== '');
  const known = new Set(options.map((option) => option.value));
  const valid = current.filter((value) => known.has(value) || (value === ALL && variable.includeAll));
  if (valid.length) {
    return valid;
  }
  return variable.includeAll ? [ALL] : options.slice(0, 1).map((option) => option.value);
}

async function resolveOne(variable, ctx, fromUrl) {
  let options = [];
  let error;
  try {
    options = await optionsOf(variable, ctx);
  } catch (failure) {
    error = failure.message;
  }
  const values = chosen(variable, options, fromUrl?.map((v) => (v === 'All' && variable.includeAll ? ALL : v)));
  const isAll = Boolean(variable.includeAll) && values.includes(ALL);
  const texts = new Map(options.map((option) => [option.value, option.text]));
  const actual = isAll ? options.map((option) => option.value) : values;
  const names = isAll ? 'All' : values.map((value) => texts.get(value) ?? value);
  return {
    ...variable, options, error, isAll, selected: isAll ? [ALL] : values,
    value: variable.multi || isAll ? actual : (actual[0] ?? ''),
    text: variable.multi || isAll ? names : (names[0] ?? ''),
  };
}

/** Names of variables a variable's query speaks of. */
function dependencies(variable, all) {
  const text = JSON.stringify([variable.query, variable.definition, variable.regex]);
  return all.filter((other) => other !== variable && new RegExp(`\\$\\{?${other.name}\\b|\\[\\[${other.name}\\b`).test(text));
}

/** {name: variable with options, value, text, isAll} in the dashboard's order. */
export async function resolveVariables(ctx, urlVars) {
  const list = ctx.dashboard.templating?.list ?? [];
  const done = {};
  const visit = async (variable, path) => {
    if (done[variable.name] || path.includes(variable)) {
      return;
    }
    for (const other of dependencies(variable, list)) {
      await visit(other, [...path, variable]);
    }
    done[variable.name] ??= await resolveOne(variable, { ...ctx, vars: done }, urlVars[variable.name]);
  };
  for (const variable of list) {
    await visit(variable, []);
  }
  return Object.fromEntries(list.map((variable) => [variable.name, done[variable.name]]));
}
