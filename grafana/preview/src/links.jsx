// Links of dashboards and of panels.
import React from 'react';
import { Dropdown, Icon, IconButton, Menu, ToolbarButton, Tooltip } from '@grafana/ui';
import { safeUrl } from './fieldconfig.js';
import { interpolate, timeParams, variableParams } from './interpolate.js';

/** An address with the current time and variables added, where the link asks for them. */
function withParams(url, link, ctx) {
  const extra = [link.keepTime && timeParams(ctx), link.includeVars && variableParams(ctx)].filter(Boolean).join('&');
  return safeUrl(extra ? `${url}${url.includes('?') ? '&' : '?'}${extra}` : url);
}

const target = (link) => (link.targetBlank ? '_blank' : undefined);

// Grafana's LinkButton and Menu.Item decode an address while they clean it, and so break `a%26b`: plain anchors do not.

export function MenuLink({ title, href, target: where, active }) {
  return (
    <a className={active ? 'viewer-menu-link active' : 'viewer-menu-link'} role="menuitem" data-role="menuitem" tabIndex={-1}
      href={href} target={where} rel="noreferrer">{title}</a>
  );
}

const ButtonLink = ({ title, href, target: where }) => (
  <a className="viewer-button" href={href} target={where} rel="noreferrer">
    <Icon name={where ? 'external-link-alt' : 'apps'} size="sm" />{title}
  </a>
);

const menuOf = (entries) => <Menu>{entries.map((entry) => <MenuLink key={entry.href + entry.title} {...entry} />)}</Menu>;

/** Links to the dashboards that have all the tags: a menu, or buttons in a row. */
function TaggedDashboards({ link, index, ctx }) {
  const entries = index
    .filter((item) => (link.tags ?? []).every((tag) => item.tags?.includes(tag)))
    .map((item) => ({ title: item.title, href: withParams(`/d/${item.uid}`, link, ctx), target: target(link) }));
  if (!link.asDropdown) {
    return entries.map((entry) => <ButtonLink key={entry.href} {...entry} />);
  }
  return (
    <Dropdown overlay={() => menuOf(entries)} placement="bottom-start">
      <ToolbarButton icon="bars" isOpen={false} variant="canvas">{link.title || 'Dashboards'}</ToolbarButton>
    </Dropdown>
  );
}

const resolved = (link, ctx) => ({
  title: interpolate(link.title, ctx, {}, 'text') || 'Link',
  href: withParams(interpolate(link.url ?? '', ctx, {}, 'uriencode'), link, ctx),
  target: target(link),
});

export function DashboardLinks({ links = [], index, ctx }) {
  return links.map((link, i) => {
    if (link.type === 'dashboards') {
      return <TaggedDashboards key={i} link={link} index={index} ctx={ctx} />;
    }
    const button = <span><ButtonLink {...resolved(link, ctx)} /></span>;
    return link.tooltip ? <Tooltip key={i} content={link.tooltip}>{button}</Tooltip> : <React.Fragment key={i}>{button}</React.Fragment>;
  });
}

/** The arrow in a panel's title. */
export function PanelLinks({ links, ctx }) {
  const entries = links.map((link) => resolved(link, ctx));
  if (entries.length > 1) {
    return <Dropdown overlay={() => menuOf(entries)}><IconButton name="link" tooltip="Links" className="viewer-panel-link" /></Dropdown>;
  }
  const [{ title, href, target: where }] = entries;
  return (
    <Tooltip content={title}>
      <a href={href} target={where} rel="noreferrer" className="viewer-panel-link" aria-label={title}><Icon name="external-link-alt" /></a>
    </Tooltip>
  );
}
