// Bundles the tests as the viewer is bundled, and runs them in node.
import { build } from 'esbuild';
import { spawnSync } from 'node:child_process';

await build({
  entryPoints: ['test/safety.test.js'], outfile: 'out/test/safety.test.cjs', bundle: true, platform: 'node', format: 'cjs',
  jsx: 'automatic', loader: { '.svg': 'text' }, define: { 'process.env.NODE_ENV': '"production"' }, logLevel: 'error',
  mainFields: ['module', 'main'], banner: { js: 'globalThis.window ??= globalThis; globalThis.location ??= new URL("http://127.0.0.1/");' },
});
process.exit(spawnSync(process.execPath, ['--test', 'out/test/'], { stdio: 'inherit' }).status ?? 1);
