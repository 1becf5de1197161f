// @grafana/ui publishes no pie, so the slices are drawn here; legend and layout are Grafana's.
import React, { useState } from 'react';
import { formattedValueToString } from '@grafana/data';
import { VizLayout, VizLegend, measureText } from '@grafana/ui';
import { polar, ringPath } from './arc.js';
import { displayValues } from './values.jsx';

const percentText = (share, decimals) => `${(share * 100).toFixed(decimals ?? 0)}%`;

/** Non-negative values, largest first, each with its share of the sum. */
function slicesOf(values, sort) {
  const usable = values.filter(({ display }) => Number.isFinite(display.numeric) && display.numeric > 0);
  const total = usable.reduce((sum, { display }) => sum + display.numeric, 0);
  const order = { asc: 1, none: 0 }[sort] ?? -1;
  const sorted = order ? [...usable].sort((a, b) => order * (a.display.numeric - b.display.numeric)) : usable;
  let angle = 0;
  return sorted.map((value) => {
    const share = value.display.numeric / total;
    const start = angle;
    angle += share * 360;
    return { value, share, start, end: angle };
  });
}

function labelText(labels, { value, share }) {
  const parts = { name: value.display.title, value: formattedValueToString(value.display), percent: percentText(share) };
  return labels.map((label) => parts[label]).filter(Boolean);
}

/** Labels stand only in slices wide enough for their longest line. */
function fits(lines, { start, end }, radius, size) {
  const arc = (Math.min(end - start, 180) * Math.PI / 180) * radius;
  const widest = Math.max(...lines.map((line) => measureText(line, size).width));
  return arc > Math.max(lines.length * size * 1.2, widest * 0.8) && widest < radius * 1.6;
}

function Pie({ slices, width, height, options, theme }) {
  const radius = Math.min(width, height) / 2 - 4;
  const [cx, cy] = [width / 2, height / 2];
  const inner = options.pieType === 'donut' ? radius * 0.6 : 0;
  const labels = options.displayLabels ?? [];
  const size = Math.min(13, Math.max(9, radius / 8));
  const middle = inner ? (radius + inner) / 2 : radius * 0.68;
  return (
    <svg width={width} height={height} role="img">
      {slices.map((slice, i) => (
        <path key={i} d={ringPath(cx, cy, radius, inner, slice.start, slice.end)} fill={slice.value.display.color}
          stroke={theme.colors.background.primary} strokeWidth={slices.length > 1 ? 1.5 : 0}>
          <title>{labelText(['name', 'value', 'percent'], slice).join('  ')}</title>
        </path>
      ))}
      {labels.length > 0 && slices.map((slice, i) => {
        const [x, y] = polar(cx, cy, middle, (slice.start + slice.end) / 2);
        const lines = labelText(labels, slice);
        return fits(lines, slice, middle, size) && (
          <text key={i} x={x} y={y - ((lines.length - 1) * size * 1.2) / 2} textAnchor="middle" dominantBaseline="central"
            fontSize={size} pointerEvents="none" fill={theme.colors.getContrastText(slice.value.display.color)}>
            {lines.map((line, n) => <tspan key={n} x={x} dy={n ? size * 1.2 : 0}>{line}</tspan>)}
          </text>
        );
      })}
    </svg>
  );
}

/** Numbers beside a legend entry: value, percent. */
function legendValues(wanted, { value, share }) {
  const known = {
    value: { ...value.display, title: 'Value' },
    percent: { numeric: share, title: 'Percent', text: percentText(share) },
  };
  return wanted.map((name) => known[name]).filter(Boolean);
}

export function PieChart(props) {
  const { panel, width, height, ctx } = props;
  const [hidden, setHidden] = useState(new Set());
  const options = panel.options ?? {};
  const legend = { showLegend: true, displayMode: 'list', placement: 'right', values: [], ...options.legend };
  const all = displayValues(props);
  const slices = slicesOf(all.filter(({ display }) => !hidden.has(display.title)), options.sort);
  const sum = new Map(slices.map((slice) => [slice.value, slice]));
  const toggle = ({ label }) => setHidden((old) => {
    const next = new Set(old);
    return next.delete(label) ? next : next.add(label);
  });
  const order = new Map(slices.map((slice, i) => [slice.value, i]));
  const items = [...all].sort((a, b) => (order.get(a) ?? 1e6) - (order.get(b) ?? 1e6)).map((value) => ({
    label: value.display.title ?? '', color: value.display.color, yAxis: 1, disabled: hidden.has(value.display.title),
    getItemKey: () => value.display.title, getDisplayValues: () => (sum.has(value) ? legendValues(legend.values, sum.get(value)) : []),
  }));
  const drawn = legend.showLegend && legend.displayMode !== 'hidden' && (
    <VizLayout.Legend placement={legend.placement} width={legend.width}>
      <VizLegend items={items} placement={legend.placement} displayMode={legend.displayMode} onLabelClick={toggle} />
    </VizLayout.Legend>
  );
  return (
    <VizLayout width={width} height={height} legend={drawn || null}>
      {(w, h) => <Pie slices={slices} width={w} height={h} options={options} theme={ctx.theme} />}
    </VizLayout>
  );
}
