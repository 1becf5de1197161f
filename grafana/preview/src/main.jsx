import React from 'react';
import { createRoot } from 'react-dom/client';
import { initPluginTranslations } from '@grafana/i18n';
import { App } from './app.jsx';
import { interceptLinks, navigate, parseHref } from './location.js';
import { getJson } from './prometheus.js';
import './viewer.css';

/** Charts measure text on a canvas as soon as they are drawn: the fonts must be there. */
async function loadFont(file, weight) {
  const font = new FontFace('Inter', `url(/public/fonts/inter/${file}.woff2)`, { weight });
  document.fonts.add(await font.load());
}

async function main() {
  const [config, index] = await Promise.all([
    getJson('/config.json'),
    getJson('/dashboards/index.json'),
    initPluginTranslations('jobwatt'),
    loadFont('Inter-Regular', '400'),
    loadFont('Inter-Medium', '500'),
  ]);
  const first = config.home ?? index[0]?.uid;
  if (!parseHref(location.href).uid && first) {
    navigate(`/d/${first}${location.search}`, { replace: true });
  }
  interceptLinks();
  createRoot(document.getElementById('root')).render(<App site={{ config, index }} />);
}

main().catch((error) => {
  console.error(error);
  document.getElementById('root').textContent = `The viewer could not start: ${error.message}`;
  document.body.dataset.problems = JSON.stringify([{ panel: '', kind: 'error', text: error.message }]);
  document.body.dataset.ready = '1';
});
