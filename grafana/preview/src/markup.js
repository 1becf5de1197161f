// Text that a dashboard's author wrote in Markdown or HTML, with values of variables in it that nobody vouches for.
import { renderTextPanelMarkdown, textUtil } from '@grafana/data';
import { interpolate } from './interpolate.js';

/**
 * HTML for Markdown (or for HTML), sanitised by Grafana's allow-list. Values are put in after the Markdown is
 * rendered, so that a job called `*x*` or `[a](b)` is shown as just that.
 */
export function renderMarkup(text, ctx, mode = 'markdown') {
  const values = [];
  const hold = (value) => `jwvalue${values.push(Array.isArray(value) ? value.join(', ') : String(value)) - 1}jw`;
  const held = interpolate(text, ctx, {}, hold) ?? '';
  const html = mode === 'html' ? held : renderTextPanelMarkdown(held, { noSanitize: true });
  const filled = html.replace(/jwvalue(\d+)jw/g, (_, i) => textUtil.escapeHtml(values[i]));
  return textUtil.sanitizeTextPanelContent(filled);
}
