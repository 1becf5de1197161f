// Screenshots: node shot.mjs LIST.json, where the list is [{url, out, width, height, theme, plain}].
// `plain`: no page of the viewer's, which is not waited for.
// One JSON line for each: {url, out, ms, height, problems, errors}. Exit code 1 if a page had script errors.
import { chromium } from 'playwright-core';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const READY_MS = 30_000;
const SETTLE_MS = 300;
const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

function withTheme(url, theme) {
  const address = new URL(url);
  if (theme) {
    address.searchParams.set('theme', theme);
  }
  return address.href;
}

const ready = (page) =>
  page.waitForFunction(() => document.body.dataset.ready === '1', null, { timeout: READY_MS });

async function shoot(context, { url, out, width = 1500, height = 900, theme, plain = false }) {
  const started = Date.now();
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => {
    const { url: source } = message.location();
    if (message.type() === 'error' && !source.includes('/prometheus/')) { // failed queries are among the problems
      errors.push(`${message.text()} ${source}`);
    }
  });
  page.on('requestfailed', (request) => {
    const why = request.failure()?.errorText;
    if (why !== 'net::ERR_ABORTED') { // the viewer itself gives up a question it no longer needs
      errors.push(`${request.url()}: ${why}`);
    }
  });
  await page.setViewportSize({ width, height });
  await page.emulateMedia({ colorScheme: theme ?? 'light' });
  const drawn = () => (plain ? page.waitForLoadState('networkidle') : ready(page));
  let problems = [];
  let pageHeight;
  try {
    await page.goto(plain ? url : withTheme(url, theme), { waitUntil: 'load' });
    await drawn();
    pageHeight = await page.evaluate(() => document.documentElement.scrollHeight);
    await page.setViewportSize({ width, height: Math.max(height, pageHeight) }); // what is out of sight, Chromium does not draw
    await page.waitForTimeout(SETTLE_MS);
    await drawn();
    problems = await page.evaluate(() => JSON.parse(document.body.dataset.problems ?? '[]'));
  } catch (error) {
    errors.push(error.message);
  }
  await page.screenshot({ path: out, fullPage: true });
  await page.close();
  console.log(JSON.stringify({ url, out, ms: Date.now() - started, height: pageHeight, problems, errors }));
  return errors.length === 0;
}

const list = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const profile = mkdtempSync(join(tmpdir(), 'jobwatt-shot-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS,
});
let good = true;
try {
  for (const item of list) {
    good = (await shoot(context, item)) && good;
  }
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
process.exit(good ? 0 : 1);
