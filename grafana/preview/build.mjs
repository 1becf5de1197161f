// Builds out/: app.js, app.css, index.html, and the icons and fonts that @grafana/ui fetches while it runs.
import { build } from 'esbuild';
import { cpSync, mkdirSync, rmSync } from 'node:fs';

const OUT = 'out';
const ICONS = 'node_modules/@grafana/ui/dist/public/img/icons';
const ROBOTO = 'node_modules/@fontsource-variable/roboto-mono/files/roboto-mono-latin-wght-normal.woff2';
const ROBOTO_IN_GRAFANA = 'L0xTDF4xlVMF-BfR8bXMIhJHg45mwgGEFl0_3vrtSM1J-gEPT5Ese6hmHSh0mQ.woff2';
const INTER = ['Regular', 'Medium', 'Italic', 'MediumItalic'];

/** @grafana/ui brings a code editor of three megabytes, which a viewer never opens. */
const noEditor = {
  name: 'no-editor',
  setup(context) {
    context.onResolve({ filter: /^monaco-editor/ }, ({ path }) => ({ path, namespace: 'no-editor' }));
    context.onLoad({ filter: /.*/, namespace: 'no-editor' }, () => ({ contents: 'module.exports = {};' }));
  },
};

rmSync(`${OUT}/public`, { recursive: true, force: true });
mkdirSync(OUT, { recursive: true });
const { metafile } = await build({
  entryPoints: { app: 'src/main.jsx' },
  outdir: OUT,
  bundle: true,
  minify: true,
  format: 'esm',
  jsx: 'automatic',
  metafile: true,
  plugins: [noEditor],
  logLevel: 'warning',
  conditions: ['browser', 'import', 'module'],
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.svg': 'text', '.woff2': 'dataurl', '.ttf': 'dataurl', '.png': 'dataurl' },
});
cpSync('src/index.html', `${OUT}/index.html`);
cpSync(ICONS, `${OUT}/public/build/img/icons`, { recursive: true });
cpSync('src/icons', `${OUT}/public/build/img/icons/unicons`, { recursive: true }); // missing in the published package
cpSync(ROBOTO, `${OUT}/public/fonts/roboto/${ROBOTO_IN_GRAFANA}`);
for (const style of INTER) {
  cpSync(`node_modules/inter-ui/web/Inter-${style}.woff2`, `${OUT}/public/fonts/inter/Inter-${style}.woff2`);
}
for (const [file, { bytes }] of Object.entries(metafile.outputs)) {
  console.log(`${file} ${(bytes / 1e6).toFixed(1)} MB`);
}
