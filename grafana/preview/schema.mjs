// Writes out/dashboard.schema.json: the JSON schema of a dashboard, from the types of @grafana/schema.
import { mkdirSync, writeFileSync } from 'node:fs';
import { createGenerator } from 'ts-json-schema-generator';

const TYPES = 'node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen.d.ts';

const schema = createGenerator({ path: TYPES, type: 'Dashboard', skipTypeCheck: true, additionalProperties: false })
  .createSchema('Dashboard');
mkdirSync('out', { recursive: true });
writeFileSync('out/dashboard.schema.json', `${JSON.stringify(schema, null, 1)}\n`);
console.log(`out/dashboard.schema.json, ${Object.keys(schema.definitions).length} definitions`);
