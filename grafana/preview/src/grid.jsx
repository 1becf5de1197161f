// Grafana's grid: 24 columns, cells 30 px high, 8 px between them; rows that open and close.
import React, { useLayoutEffect, useMemo, useRef, useState } from 'react';
import { EventBusSrv } from '@grafana/data';
import { Icon } from '@grafana/ui';
import { interpolate } from './interpolate.js';
import { Panel } from './panel.jsx';

const COLUMNS = 24;
const CELL = 30;
const GAP = 8;
const NARROW = 769; // below this, Grafana puts panels under each other

const byPosition = (a, b) => a.gridPos.y - b.gridPos.y || a.gridPos.x - b.gridPos.x;

/** [{row, panels}]: what stands above the first row, then each row with its panels. */
function sections(panels) {
  const list = [{ row: null, panels: [] }];
  for (const panel of [...panels].sort(byPosition)) {
    if (panel.type === 'row') {
      list.push({ row: panel, panels: [...(panel.panels ?? [])].sort(byPosition) });
    } else {
      list.at(-1).panels.push(panel);
    }
  }
  return list;
}

const rowKey = (row) => row.id ?? row.title;

/** Panels and rows with the grid place they have while the rows in `closed` are shut. */
export function layout(panels, closed, narrow) {
  const items = [];
  let y = 0;
  for (const { row, panels: inside } of sections(panels)) {
    if (row) {
      items.push({ panel: row, x: 0, y, w: COLUMNS, h: 1 });
      y += 1;
    }
    if (!inside.length || (row && closed.has(rowKey(row)))) {
      continue;
    }
    const top = row && !row.collapsed ? row.gridPos.y + 1 : Math.min(...inside.map((p) => p.gridPos.y));
    const start = y;
    for (const panel of inside) {
      const { x, w, h } = panel.gridPos;
      const place = narrow ? { x: 0, y, w: COLUMNS, h } : { x, y: start + panel.gridPos.y - (row ? top : 0), w, h };
      items.push({ panel, ...place });
      y = Math.max(y, place.y + h);
    }
  }
  return { items, rows: y };
}

function useWidth() {
  const ref = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    observer.observe(ref.current);
    setWidth(ref.current.clientWidth);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

function Row({ panel, ctx, closed, onToggle }) {
  return (
    <button type="button" className="viewer-row" onClick={onToggle} aria-expanded={!closed}>
      <Icon name={closed ? 'angle-right' : 'angle-down'} />
      <span>{interpolate(panel.title ?? '', ctx, {}, 'text') || 'Row'}</span>
      {closed && panel.panels?.length > 0 && <small>({panel.panels.length} panels)</small>}
    </button>
  );
}

export function Grid({ dashboard, ctx }) {
  const [ref, width] = useWidth();
  const rows = useMemo(() => dashboard.panels.filter((p) => p.type === 'row' && p.collapsed), [dashboard]);
  const [toggled, setToggled] = useState(() => new Set(rows.map(rowKey)));
  const { items, rows: height } = useMemo(() => layout(dashboard.panels, toggled, width < NARROW), [dashboard, toggled, width]);
  const context = useMemo(() => ({
    eventBus: new EventBusSrv(), eventsScope: dashboard.uid, sync: () => dashboard.graphTooltip ?? 0,
  }), [dashboard]);
  const column = (width - GAP * (COLUMNS - 1)) / COLUMNS;
  const toggle = (row) => setToggled((old) => {
    const next = new Set(old);
    return next.delete(rowKey(row)) ? next : next.add(rowKey(row));
  });
  return (
    <div ref={ref} className="viewer-grid" style={{ height: height * (CELL + GAP) }}>
      {width > 0 && items.map(({ panel, x, y, w, h }) => {
        const size = { width: Math.floor(w * column + (w - 1) * GAP), height: h * CELL + (h - 1) * GAP };
        const style = { position: 'absolute', left: Math.round(x * (column + GAP)), top: y * (CELL + GAP), ...size };
        return (
          <div key={panel.type === 'row' ? `row-${rowKey(panel)}` : panel.id ?? `${x}-${y}-${panel.title}`} style={style}>
            {panel.type === 'row'
              ? <Row panel={panel} ctx={ctx} closed={toggled.has(rowKey(panel))} onToggle={() => toggle(panel)} />
              : <Panel panel={panel} ctx={ctx} context={context} {...size} />}
          </div>
        );
      })}
    </div>
  );
}
