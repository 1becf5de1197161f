// One panel: its frame, its data, and what is said where there is none.
import React, { useEffect, useId, useMemo, useState } from 'react';
import { LoadingState } from '@grafana/data';
import { PanelChrome } from '@grafana/ui';
import { completeFieldConfig, applyFieldConfig } from './fieldconfig.js';
import { interpolate } from './interpolate.js';
import { PanelLinks } from './links.jsx';
import { renderMarkup } from './markup.js';
import { PANELS } from './panels/index.js';
import { queryPanel } from './queries.js';
import { dropPanel, setPanel } from './ready.js';
import { applyTransformations } from './transform.js';

const RESIZE_STEP = 100; // panel widths are rounded to this many pixels, so that a resize asks anew only now and then

/** A panel with a time of its own is not drawn with another one silently. */
const unsupported = (panel) => ['timeFrom', 'timeShift'].filter((key) => panel[key]).map((key) => `${key} is not supported by this viewer`);

async function load(panel, ctx, width, signal) {
  const frames = await queryPanel(panel, ctx, width, signal);
  return applyTransformations(panel, frames, ctx);
}

function useFrames(panel, ctx, width) {
  const [state, setState] = useState({ loading: true });
  const rounded = Math.ceil(width / RESIZE_STEP) * RESIZE_STEP;
  useEffect(() => {
    if (panel.type === 'text') {
      setState({ frames: [], ctx });
      return undefined;
    }
    const abort = new AbortController();
    setState((old) => ({ ...old, loading: true }));
    load(panel, ctx, rounded, abort.signal).then(
      (frames) => !abort.signal.aborted && setState({ frames, ctx }),
      (error) => !abort.signal.aborted && setState({ error: error.message, ctx }),
    );
    return () => abort.abort();
  }, [panel, ctx, rounded]);
  return state;
}

const isEmpty = (frames) => frames.every((frame) => frame.length === 0);

function useReport(panel, title, { loading, frames, error }, message) {
  const key = useId();
  useEffect(() => {
    const kind = error ? 'error' : frames && panel.type !== 'text' && isEmpty(frames) ? 'nodata' : undefined;
    setPanel(key, Boolean(loading), kind && { panel: title, kind, text: error ?? message });
  }, [key, loading, frames, error, title, message, panel.type]);
  useEffect(() => () => dropPanel(key), [key]);
}

function Message({ text, error }) {
  return <div className={error ? 'viewer-message viewer-error' : 'viewer-message'}>{text}</div>;
}

/** Drawn with the context its data was asked with, so that axes never run ahead of the data. */
function Body({ panel, frames, ctx, width, height, context }) {
  const fieldConfig = useMemo(() => completeFieldConfig(panel), [panel]);
  const applied = useMemo(() => applyFieldConfig(frames, fieldConfig, ctx), [frames, fieldConfig, ctx]);
  const Draw = PANELS[panel.type];
  return <Draw {...{ panel, frames: applied, fieldConfig, ctx, width, height, context }} />;
}

/** A panel that cannot be drawn must not take the page with it; new data gives it another chance. */
class Guard extends React.Component {
  state = {};

  static getDerivedStateFromError(error) {
    return { error };
  }

  componentDidUpdate({ revision }) {
    if (this.state.error && revision !== this.props.revision) {
      this.setState({ error: undefined });
      this.props.onError(undefined);
    }
  }

  componentDidCatch(error) {
    this.props.onError(error.message);
  }

  render() {
    return this.state.error ? <Message text={this.state.error.message} error /> : this.props.children;
  }
}

export function Panel({ panel, ctx, width, height, context }) {
  const state = useFrames(panel, ctx, width);
  const [failure, setFailure] = useState();
  const title = interpolate(panel.title ?? '', ctx, ctx.scoped, 'text');
  const refused = unsupported(panel)[0] ?? (PANELS[panel.type] ? undefined : `Unknown panel type ${panel.type}`);
  const error = state.error ?? refused;
  const noData = interpolate(panel.fieldConfig?.defaults?.noValue, ctx) || 'No data';
  useReport(panel, title, { ...state, error: error ?? failure }, noData);
  const description = panel.description && (() => renderMarkup(panel.description, ctx));
  return (
    <PanelChrome
      title={title} description={description || undefined} width={width} height={height}
      loadingState={state.loading ? LoadingState.Loading : LoadingState.Done}
      titleItems={panel.links?.length ? <PanelLinks links={panel.links} ctx={ctx} /> : undefined}
      displayMode={panel.transparent ? 'transparent' : 'default'}
      padding={panel.type === 'table' ? 'none' : 'md'}
      hoverHeader={title === '' ? true : undefined}
    >
      {(innerWidth, innerHeight) => {
        if (error) {
          return <Message text={error} error />;
        }
        if (!state.frames || innerWidth < 1 || innerHeight < 1) {
          return null;
        }
        if (panel.type !== 'text' && isEmpty(state.frames)) {
          return <Message text={noData} />;
        }
        return (
          <Guard revision={state.ctx.revision} onError={setFailure}>
            <Body panel={panel} frames={state.frames} ctx={{ ...state.ctx, theme: ctx.theme }} width={innerWidth} height={innerHeight} context={context} />
          </Guard>
        );
      }}
    </PanelChrome>
  );
}
