import React, { useMemo, useState } from 'react';
import { FieldType, getFieldDisplayName } from '@grafana/data';
import {
  EventBusPlugin, PanelContextProvider, TimeSeries as Chart, TooltipPlugin2, VizTooltipContent, VizTooltipFooter,
  VizTooltipHeader, VizTooltipWrapper, getFieldDisplayItems, getFieldDisplayLinks, usePanelContext,
} from '@grafana/ui';
import { setParams } from '../location.js';

const ONE_SERIES = 0; // TooltipHoverMode is a const enum that @grafana/ui does not export
const ALL_SERIES = 1;
const DEFAULT_LEGEND = { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] };

const isDrawable = (frame) =>
  frame.length > 0 && frame.fields.some((f) => f.type === FieldType.time) && frame.fields.some((f) => f.type === FieldType.number);

/** Series hidden by a click on the legend. */
function hideSeries(frames, hidden) {
  if (!hidden) {
    return frames;
  }
  return frames.map((frame) => ({
    ...frame,
    fields: frame.fields.map((field) => {
      if (field.type !== FieldType.number || !hidden(getFieldDisplayName(field, frame, frames))) {
        return field;
      }
      const custom = { ...field.config.custom, hideFrom: { ...field.config.custom?.hideFrom, viz: true } };
      return { ...field, config: { ...field.config, custom } };
    }),
  }));
}

/** A click shows one series alone, a second click all again; with Ctrl or Shift, series come and go one by one. */
function useVisibility() {
  const [state, setState] = useState(null);
  const toggle = (label, mode) => setState((old) => {
    if (mode === 'select') {
      return old?.only === label ? null : { only: label };
    }
    const out = new Set(old?.out);
    return out.delete(label) ? { out } : { out: out.add(label) };
  });
  const hidden = state && ((name) => (state.only === undefined ? state.out.has(name) : state.only !== name));
  return [hidden, toggle];
}

function Tooltip({ options, frame, idxs, seriesIdx, isPinned, links }) {
  const time = frame.fields[0];
  const at = seriesIdx == null ? idxs.find((i) => i != null) : idxs[seriesIdx];
  const mode = options.mode ?? 'single';
  const items = getFieldDisplayItems(
    frame.fields, time, idxs, seriesIdx, mode, options.sort ?? 'none',
    (field) => field.type === FieldType.number && !field.config.custom?.hideFrom?.tooltip && !field.config.custom?.hideFrom?.viz,
    options.hideZeros,
  );
  return (
    <VizTooltipWrapper>
      <VizTooltipHeader item={{ label: '', value: time.display(time.values[at ?? 0]).text }} isPinned={isPinned} />
      <VizTooltipContent items={items} isPinned={isPinned} scrollable={mode === 'multi'} maxHeight={options.maxHeight ?? 400} />
      {isPinned && links.length > 0 && <VizTooltipFooter dataLinks={links} />}
    </VizTooltipWrapper>
  );
}

function Plugins({ config, frame, options }) {
  const { eventBus, eventsScope, sync } = usePanelContext();
  const cursorSync = sync?.() ?? 0;
  return (
    <>
      {cursorSync > 0 && <EventBusPlugin config={config} eventBus={eventBus} frame={frame} />}
      {options.mode !== 'none' && (
        <TooltipPlugin2
          config={config} hoverMode={options.mode === 'multi' ? ALL_SERIES : ONE_SERIES} clientZoom
          queryZoom={({ from, to }) => setParams({ from: Math.round(from), to: Math.round(to) })}
          syncMode={cursorSync} syncScope={eventsScope} maxWidth={options.maxWidth}
          getDataLinks={(series, row) => getFieldDisplayLinks(frame.fields[series], row)}
          render={(u, idxs, seriesIdx, isPinned, dismiss, range, viaSync, links) => (
            <Tooltip options={options} frame={frame} idxs={idxs} seriesIdx={seriesIdx} isPinned={isPinned} links={links} />
          )}
        />
      )}
    </>
  );
}

export function TimeSeries({ panel, frames, width, height, ctx, context }) {
  const [hidden, onToggleSeriesVisibility] = useVisibility();
  const [sort, setSort] = useState({});
  const options = panel.options ?? {};
  const drawn = useMemo(() => hideSeries(frames.filter(isDrawable), hidden), [frames, hidden]);
  const legend = useMemo(() => ({ ...DEFAULT_LEGEND, ...options.legend, ...sort }), [options.legend, sort]);
  const onToggleLegendSort = (sortBy) => setSort((old) => {
    const desc = old.sortBy === sortBy ? !old.sortDesc : true;
    return { sortBy, sortDesc: desc };
  });
  const value = { ...context, onToggleSeriesVisibility, onToggleLegendSort };
  if (!drawn.length) {
    return <div className="viewer-message">Data is missing a time field or a number field</div>;
  }
  return (
    <PanelContextProvider value={value}>
      <Chart
        frames={drawn} width={width} height={height} timeRange={ctx.range} timeZone={ctx.timeZone} legend={legend}
        options={options}
      >
        {(config, frame) => <Plugins config={config} frame={frame} options={{ mode: 'single', ...options.tooltip }} />}
      </Chart>
    </PanelContextProvider>
  );
}
