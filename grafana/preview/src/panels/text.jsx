import React, { useMemo } from 'react';
import { ScrollContainer } from '@grafana/ui';
import { interpolate } from '../interpolate.js';
import { renderMarkup } from '../markup.js';

export function Text({ panel, width, height, ctx }) {
  const { mode = 'markdown', content = '' } = panel.options ?? {};
  const html = useMemo(() => (mode === 'code' ? '' : renderMarkup(content, ctx, mode)), [content, mode, ctx]);
  return (
    <div style={{ width, height }}>
      <ScrollContainer>
        {mode === 'code'
          ? <pre>{interpolate(content, ctx, {}, 'text')}</pre>
          : <div className="markdown-html" dangerouslySetInnerHTML={{ __html: html }} />}
      </ScrollContainer>
    </div>
  );
}
