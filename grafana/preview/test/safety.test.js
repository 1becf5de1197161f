// What keeps values that users control out of PromQL, HTML and addresses.
import assert from 'node:assert/strict';
import test from 'node:test';
import { safeUrl } from '../src/fieldconfig.js';
import { promFormat } from '../src/formats.js';
import { renderMarkup } from '../src/markup.js';

const one = {};
const several = { multi: true };

test('a chosen value is one string of PromQL, whatever is in it', () => {
  assert.equal(promFormat('a"} or up{x="', one), 'a\\"} or up{x=\\"');
  assert.equal(promFormat('a\\', one), 'a\\\\');
});

test('values that can be several are regular expressions that match themselves only', () => {
  assert.equal(promFormat(['a.b'], several), 'a\\\\.b');
  assert.equal(promFormat(['x', 'y|z'], several), '(x|y\\\\|z)');
});

test('only relative, http(s) and mail addresses are opened', () => {
  for (const good of ['/d/x?var-user=a%26b', 'https://example.org/', 'mailto:a@example.org']) {
    assert.equal(safeUrl(good), good);
  }
  for (const bad of ['javascript:alert(1)', ' javascript:alert(1)', 'data:text/html,x', 'vbscript:x']) {
    assert.equal(safeUrl(bad), 'about:blank');
  }
});

test('a value in Markdown is shown as it is', () => {
  const vars = { user: { name: 'user', type: 'query', value: '<img src=x onerror=alert(1)> *b* [a](javascript:x)', text: 'x' } };
  const html = renderMarkup('**jobs of** $user', { vars, range: {}, scoped: {} });
  assert.match(html, /<strong>jobs of<\/strong>/);
  assert.doesNotMatch(html, /<img|<a |<em>/);
});
