import React, { useState } from 'react';
import { getFrameDisplayName } from '@grafana/data';
import { Combobox } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const SELECT_HEIGHT = 40;

export function Table({ panel, frames, width, height, fieldConfig, ctx }) {
  const options = panel.options ?? {};
  const [chosen, setChosen] = useState(options.frameIndex ?? 0);
  const index = chosen < frames.length ? chosen : 0;
  const several = frames.length > 1;
  const table = (
    <TableNG
      data={frames[index]} width={width} height={height - (several ? SELECT_HEIGHT : 0)} timeRange={ctx.range}
      cellHeight={options.cellHeight ?? 'sm'} noHeader={options.showHeader === false} sortBy={options.sortBy}
      sortByBehavior="initial" resizable showTypeIcons={options.showTypeIcons} structureRev={1}
      enablePagination={options.enablePagination} frozenColumns={options.frozenColumns?.left ?? 0}
      fieldConfig={fieldConfig} noValue={fieldConfig.defaults.noValue} maxRowHeight={options.maxRowHeight}
    />
  );
  if (!several) {
    return table;
  }
  const choices = frames.map((frame, value) => ({ value, label: getFrameDisplayName(frame, value) }));
  return (
    <div>
      {table}
      <div style={{ height: SELECT_HEIGHT, padding: '8px 8px 0' }}>
        <Combobox options={choices} value={index} onChange={({ value }) => setChosen(value)} />
      </div>
    </div>
  );
}
