// What stat and bar gauge share: frames reduced to single values, and their links.
import React from 'react';
import { getFieldDisplayValues } from '@grafana/data';
import { DataLinksContextMenu } from '@grafana/ui';
import { interpolate } from '../interpolate.js';

/** FieldDisplay values of a panel; at least one, which may say that there is no value. */
export function displayValues({ panel, frames, fieldConfig, ctx }, { sparkline = false, percentChange = false } = {}) {
  const reduce = panel.options?.reduceOptions ?? {};
  return getFieldDisplayValues({
    data: frames,
    fieldConfig,
    reduceOptions: { values: false, ...reduce, calcs: reduce.calcs?.length ? reduce.calcs : ['lastNotNull'] },
    replaceVariables: (text, scoped, format) => interpolate(text, ctx, { ...ctx.scoped, ...scoped }, format),
    theme: ctx.theme,
    timeZone: ctx.timeZone,
    sparkline,
    percentChange,
  });
}

/** A single value needs no name in Grafana, unless the field was given one. */
export function clearSingleName(count, field, display) {
  return count === 1 && !field.displayName ? { ...display, title: undefined } : display;
}

/** Draw `children({onClick, className})`, with the value's data links on a click. */
export function WithLinks({ value, children }) {
  if (!value.hasLinks || !value.getLinks) {
    return children({});
  }
  return (
    <DataLinksContextMenu links={value.getLinks} style={{ height: '100%', width: '100%', display: 'block' }}>
      {({ openMenu, targetClassName }) => children({ onClick: openMenu, className: targetClassName })}
    </DataLinksContextMenu>
  );
}
