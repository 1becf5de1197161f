// @grafana/ui publishes no gauge, so this one is drawn here: three quarters of a ring with threshold marks.
import React from 'react';
import { formattedValueToString, getActiveThreshold } from '@grafana/data';
import { VizRepeater, measureText } from '@grafana/ui';
import { ringPath } from './arc.js';
import { WithLinks, clearSingleName, displayValues } from './values.jsx';

const START = -135;
const SWEEP = 270;
const MIN_SIZE = 75;

const clamp = (x) => Math.min(Math.max(x, 0), 1);

/** Threshold steps as [from, to, colour] with parts of the range 0..1. */
function bands({ thresholds, min, max }, theme) {
  const steps = thresholds?.steps ?? [];
  const part = (value) => clamp(thresholds.mode === 'percentage' ? value / 100 : (value - min) / (max - min));
  return steps.map((step, i) => [
    i === 0 ? 0 : part(step.value), i + 1 < steps.length ? part(steps[i + 1].value) : 1,
    theme.visualization.getColorByName(getActiveThreshold(step.value, steps).color),
  ]).filter(([from, to]) => to > from);
}

function Dial({ display, field, width, height, theme, showMarkers, onClick, className }) {
  const title = display.title;
  const titleSize = title ? Math.min(16, Math.max(11, height / 12)) : 0;
  const radius = Math.min(width / 2, (height - titleSize * 1.6) / 1.75) - 4;
  const [cx, cy] = [width / 2, radius + 4];
  const [min, max] = [field.min ?? 0, field.max ?? 100];
  const share = clamp((display.numeric - min) / (max - min || 1)) || 0;
  const ring = radius * (showMarkers ? 0.9 : 1);
  const text = formattedValueToString(display);
  const fit = (ring * 1.25) / Math.max(measureText(text, 10).width, 1) * 10;
  const at = (x) => START + SWEEP * x;
  return (
    <svg width={width} height={height} onClick={onClick} className={className} role="img" aria-label={`${title ?? ''} ${text}`}>
      <path d={ringPath(cx, cy, ring, ring * 0.72, at(0), at(1))} fill={theme.colors.background.secondary} />
      {share > 0 && <path d={ringPath(cx, cy, ring, ring * 0.72, at(0), at(share))} fill={display.color} />}
      {showMarkers && bands({ ...field, min, max }, theme).map(([from, to, color]) => (
        <path key={from} d={ringPath(cx, cy, radius, radius * 0.93, at(from), at(to))} fill={color} />
      ))}
      <text x={cx} y={cy} textAnchor="middle" dominantBaseline="central" fill={display.color ?? theme.colors.text.primary}
        fontSize={Math.min(fit, ring * 0.5)} fontWeight={500}>{text}</text>
      {title && (
        <text x={cx} y={height - titleSize * 0.5} textAnchor="middle" fill={theme.colors.text.primary} fontSize={titleSize}>
          {title}
        </text>
      )}
    </svg>
  );
}

export function Gauge(props) {
  const { panel, frames, width, height, ctx } = props;
  const options = panel.options ?? {};
  const values = displayValues(props);
  const draw = ({ value, width: w, height: h, count }) => (
    <WithLinks value={value}>
      {(link) => (
        <Dial display={clearSingleName(count, value.field, value.display)} field={value.field} width={w} height={h}
          theme={ctx.theme} showMarkers={options.showThresholdMarkers ?? true} {...link} />
      )}
    </WithLinks>
  );
  return (
    <VizRepeater
      getValues={() => values} renderValue={draw} source={frames} width={width} height={height} autoGrid
      orientation={options.orientation ?? 'auto'} minVizWidth={MIN_SIZE} minVizHeight={MIN_SIZE} renderCounter={ctx.tick}
    />
  );
}
