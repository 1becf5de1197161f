import React from 'react';
import { getDisplayValueAlignmentFactors } from '@grafana/data';
import { BarGauge, VizRepeater } from '@grafana/ui';
import { WithLinks, clearSingleName, displayValues } from './values.jsx';

const MIN_WIDTH = 8;
const MIN_HEIGHT = 16;
const MAX_HEIGHT = 300;

export function BarGaugePanel(props) {
  const { panel, frames, width, height, ctx } = props;
  const options = panel.options ?? {};
  const displayMode = options.displayMode ?? 'gradient';
  const orientation = ['horizontal', 'vertical'].includes(options.orientation)
    ? options.orientation : (width > height ? 'vertical' : 'horizontal');
  const manual = options.sizing === 'manual';
  const values = displayValues(props);
  const draw = ({ value, alignmentFactors, width: w, height: h, count, orientation: direction }) => (
    <WithLinks value={value}>
      {(link) => (
        <BarGauge
          value={clearSingleName(count, value.field, value.display)} width={w} height={h} orientation={direction}
          field={value.field} text={options.text} display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          theme={ctx.theme} itemSpacing={displayMode === 'lcd' ? 2 : 10} displayMode={displayMode}
          alignmentFactors={alignmentFactors} showUnfilled={options.showUnfilled ?? true}
          valueDisplayMode={options.valueMode ?? 'color'} namePlacement={options.namePlacement ?? 'auto'} {...link}
        />
      )}
    </WithLinks>
  );
  return (
    <VizRepeater
      getValues={() => values} getAlignmentFactors={getDisplayValueAlignmentFactors} renderValue={draw} source={frames}
      width={width} height={height} orientation={orientation} itemSpacing={displayMode === 'lcd' ? 2 : 10}
      minVizWidth={manual && orientation === 'vertical' ? options.minVizWidth : MIN_WIDTH}
      minVizHeight={manual && orientation === 'horizontal' ? options.minVizHeight : MIN_HEIGHT}
      maxVizHeight={manual && orientation === 'horizontal' ? options.maxVizHeight : MAX_HEIGHT}
      renderCounter={ctx.tick}
    />
  );
}
