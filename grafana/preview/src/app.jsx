// The page: theme, toolbar, grid, footer.
import React, { useCallback, useEffect, useLayoutEffect, useMemo, useState } from 'react';
import { ThemeContext, createTheme } from '@grafana/data';
import { Alert, GlobalStyles, LoadingPlaceholder, PortalContainer } from '@grafana/ui';
import { useAutoRefresh, useDashboard } from './context.js';
import { Grid } from './grid.jsx';
import { parseHref, setParams, useHref } from './location.js';
import { setPageLoaded } from './ready.js';
import { Toolbar } from './toolbar.jsx';

const STORED = 'jobwatt-theme';
const isTheme = (name) => name === 'light' || name === 'dark';

function useTheme(fromUrl) {
  const [stored, setStored] = useState(() => localStorage.getItem(STORED));
  const name = [fromUrl, stored].find(isTheme) ?? 'dark';
  const theme = useMemo(() => createTheme({ colors: { mode: name } }), [name]);
  const toggle = useCallback(() => {
    const next = name === 'dark' ? 'light' : 'dark';
    localStorage.setItem(STORED, next);
    setStored(next);
    setParams({ theme: null }, { replace: true });
  }, [name]);
  return [theme, toggle];
}

/** The colours that viewer.css uses, on the root: menus stand outside the page's own element. */
function applyTheme({ colors, typography, isDark }) {
  const root = document.documentElement.style;
  root.colorScheme = isDark ? 'dark' : 'light';
  const values = {
    '--text': colors.text.primary, '--text-weak': colors.text.secondary, '--canvas': colors.background.canvas,
    '--panel': colors.background.primary, '--border': colors.border.weak, '--error': colors.error.text,
    '--input': colors.background.secondary, '--border-medium': colors.border.medium, '--hover': colors.action.hover,
    '--font': typography.fontFamily, '--link': colors.text.link,
  };
  Object.entries(values).forEach(([name, value]) => root.setProperty(name, value));
}

const Footer = () => (
  <footer className="viewer-footer">drawn with Grafana&apos;s components; not a Grafana server</footer>
);

const variableError = (ctx) => Object.values(ctx.vars).find((variable) => variable.error)?.error;

function Lost({ error, index }) {
  return (
    <Alert severity="error" title="This dashboard cannot be shown">
      {error}
      <ul>{index.map(({ uid, title }) => <li key={uid}><a href={`/d/${uid}`}>{title}</a></li>)}</ul>
    </Alert>
  );
}

function Content({ state, index, page, theme, toggleTheme }) {
  const { ctx: base, error, loading, refresh } = state;
  const ctx = useMemo(() => base && { ...base, theme }, [base, theme]);
  const interval = page.refresh ?? ctx?.dashboard.refresh ?? '';
  useAutoRefresh(interval, refresh);
  useEffect(() => {
    if (!loading) {
      setPageLoaded(true, error ?? variableError(ctx));
    }
  }, [loading, error, ctx]);
  if (error) {
    return <Lost error={error} index={index} />;
  }
  if (!ctx) {
    return <LoadingPlaceholder text="Loading…" />;
  }
  document.title = `${ctx.dashboard.title} – jobwatt`;
  return (
    <>
      {!page.kiosk && (
        <Toolbar dashboard={ctx.dashboard} index={index} ctx={ctx} refresh={interval} onRefresh={refresh}
          onTheme={toggleTheme} loading={Boolean(loading)} />
      )}
      <Grid key={ctx.dashboard.uid} dashboard={ctx.dashboard} ctx={ctx} />
    </>
  );
}

export function App({ site }) {
  const href = useHref();
  const page = useMemo(() => parseHref(href), [href]);
  const [theme, toggleTheme] = useTheme(page.theme);
  const state = useDashboard(href, site);
  useLayoutEffect(() => applyTheme(theme), [theme]);
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div className="viewer">
        <Content state={state} index={site.index} page={page} theme={theme} toggleTheme={toggleTheme} />
        <Footer />
      </div>
      <PortalContainer />
    </ThemeContext.Provider>
  );
}
