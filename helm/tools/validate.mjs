// Checks objects of the Prometheus Operator, JSON on stdin, against the schemas of its CRDs; one line for each fault.
// The CRDs let unknown fields pass (the API server drops them), so every key must also be one that the kind's type knows.
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), 'node_modules/@kubernetes-models/prometheus-operator');
const BORROWED = ['matchLabels', 'matchExpressions', 'key']; // of Kubernetes' own LabelSelector and SecretKeySelector
const FREE = new Set(['metadata', 'labels', 'annotations', 'matchLabels']); // the site's own keys

function known(path, seen = new Set()) {
  const keys = new Set(BORROWED);
  if (seen.has(path)) return keys;
  seen.add(path);
  const text = readFileSync(path, 'utf8');
  for (const [, key] of text.matchAll(/"([A-Za-z0-9_]+)"\??:/g)) keys.add(key);
  for (const [, from] of text.matchAll(/from "(\.[^"]+)\.js"/g)) {
    for (const key of known(resolve(dirname(path), `${from}.d.ts`), seen)) keys.add(key);
  }
  return keys;
}

function* strangers(value, keys, where = '') {
  if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) yield* strangers(item, keys, `${where}[${i}]`);
  } else if (value && typeof value === 'object') {
    for (const [key, item] of Object.entries(value)) {
      if (!keys.has(key)) yield `${where}.${key}`;
      if (!FREE.has(key)) yield* strangers(item, keys, `${where}.${key}`);
    }
  }
}

let bad = 0;
for (const object of JSON.parse(readFileSync(0, 'utf8'))) {
  const name = `${object.kind} ${object.metadata.name}`;
  const faults = [];
  try {
    const kinds = await import(`@kubernetes-models/prometheus-operator/${object.apiVersion}/${object.kind}`);
    new kinds[object.kind](object).validate();
    const keys = known(join(ROOT, object.apiVersion, `${object.kind}.d.ts`));
    for (const place of strangers(object, keys)) faults.push(`${place} is not known`);
  } catch (err) {
    faults.push(err.message);
  }
  for (const fault of faults) console.log(`${name}: ${fault}`);
  bad += faults.length;
}
process.exit(bad ? 1 : 0);
