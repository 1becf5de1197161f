// Above the panels: which dashboard, which time, which values.
import React from 'react';
import { Dropdown, Icon, Menu, RefreshPicker, TimeRangePicker, ToolbarButton } from '@grafana/ui';
import { VariableControls } from './controls.jsx';
import { timeParams } from './interpolate.js';
import { DashboardLinks, MenuLink } from './links.jsx';
import { setParams } from './location.js';
import { rangeToUrl, shiftRange, zoomOut } from './time.js';

const INTERVALS = ['5s', '10s', '30s', '1m', '5m', '15m', '30m', '1h'];
const setRange = (range) => setParams(rangeToUrl(range));

function Title({ dashboard, index, ctx }) {
  const menu = (
    <Menu>
      {index.map((item) => (
        <MenuLink key={item.uid} title={item.title} href={`/d/${item.uid}?${timeParams(ctx)}`} active={item.uid === dashboard.uid} />
      ))}
    </Menu>
  );
  return (
    <Dropdown overlay={menu} placement="bottom-start">
      <button type="button" className="viewer-title" aria-label="Choose a dashboard">
        {dashboard.title}<Icon name="angle-down" size="lg" />
      </button>
    </Dropdown>
  );
}

function Time({ ctx, refresh, onRefresh, loading }) {
  return (
    <>
      <TimeRangePicker
        value={ctx.range} timeZone={ctx.timeZone} isOnCanvas onChange={setRange} onChangeTimeZone={(zone) => setParams({ timezone: zone })}
        onMoveBackward={() => setRange(shiftRange(ctx.range, -1))} onMoveForward={() => setRange(shiftRange(ctx.range, 1))}
        onZoom={() => setRange(zoomOut(ctx.range))}
      />
      <RefreshPicker
        value={refresh} intervals={INTERVALS} onRefresh={onRefresh} isLoading={loading} isOnCanvas tooltip="Refresh"
        onIntervalChanged={(interval) => setParams({ refresh: interval })}
      />
    </>
  );
}

export function Toolbar({ dashboard, index, ctx, refresh, onRefresh, onTheme, loading }) {
  const dark = ctx.theme.isDark;
  return (
    <header className="viewer-toolbar">
      <div className="viewer-bar">
        <Title dashboard={dashboard} index={index} ctx={ctx} />
        <div className="viewer-spring" />
        <Time ctx={ctx} refresh={refresh} onRefresh={onRefresh} loading={loading} />
        <ToolbarButton variant="canvas" icon="adjust-circle" tooltip={dark ? 'Light theme' : 'Dark theme'} onClick={onTheme} aria-label="Change theme" />
      </div>
      <div className="viewer-bar viewer-controls">
        <VariableControls vars={ctx.vars} />
        <div className="viewer-spring" />
        <DashboardLinks links={dashboard.links} index={index} ctx={ctx} />
      </div>
    </header>
  );
}
