import React from 'react';
import { getDisplayValueAlignmentFactors } from '@grafana/data';
import { BigValue, VizRepeater } from '@grafana/ui';
import { WithLinks, displayValues } from './values.jsx';

export function Stat(props) {
  const { panel, frames, width, height, ctx } = props;
  const options = panel.options ?? {};
  const graphMode = options.graphMode ?? 'area';
  const values = displayValues(props, { sparkline: graphMode !== 'none', percentChange: options.showPercentChange });
  const draw = ({ value, alignmentFactors, width: w, height: h, count }) => (
    <WithLinks value={value}>
      {(link) => (
        <BigValue
          value={value.display} sparkline={value.sparkline} width={w} height={h} count={count} theme={ctx.theme}
          colorMode={options.colorMode ?? 'value'} graphMode={graphMode} justifyMode={options.justifyMode ?? 'auto'}
          textMode={options.textMode ?? 'auto'} text={options.text} alignmentFactors={alignmentFactors}
          percentChangeColorMode={options.percentChangeColorMode} disableWideLayout={options.wideLayout === false}
          hasLinks={value.hasLinks} {...link}
        />
      )}
    </WithLinks>
  );
  return (
    <VizRepeater
      getValues={() => values} getAlignmentFactors={getDisplayValueAlignmentFactors} renderValue={draw} source={frames}
      width={width} height={height} orientation={options.orientation ?? 'auto'} autoGrid renderCounter={ctx.tick}
    />
  );
}
