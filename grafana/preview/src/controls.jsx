// One control for each variable that is not hidden.
import React, { useMemo } from 'react';
import { Combobox, Icon, MultiCombobox, Tooltip } from '@grafana/ui';
import { setParams } from './location.js';
import { ALL } from './variables.js';

const change = (variable, values) => setParams({ [`var-${variable.name}`]: values });

function optionsFor(variable) {
  const all = variable.includeAll ? [{ label: 'All', value: ALL }] : [];
  const known = variable.options.map(({ text, value }) => ({ label: text, value }));
  const extra = variable.selected.filter((value) => value !== ALL && !variable.options.some((option) => option.value === value));
  return [...all, ...extra.map((value) => ({ label: value, value })), ...known];
}

/** All and single values exclude each other; choosing nothing means All where there is one. */
function pickMulti(variable, picked) {
  const values = picked.map((option) => option.value);
  const addedAll = values.includes(ALL) && !variable.selected.includes(ALL);
  const single = values.filter((value) => value !== ALL);
  if (addedAll || (single.length === 0 && variable.includeAll)) {
    return [ALL];
  }
  return single.length ? single : variable.selected;
}

function Control({ variable, id }) {
  const options = useMemo(() => optionsFor(variable), [variable]);
  if (variable.multi) {
    return (
      <MultiCombobox id={id} options={options} value={variable.selected} width="auto" minWidth={10} maxWidth={40}
        onChange={(picked) => change(variable, pickMulti(variable, picked))} />
    );
  }
  return (
    <Combobox id={id} options={options} value={variable.selected[0] ?? null} width="auto" minWidth={10} maxWidth={50}
      placeholder="None" createCustomValue={variable.allowCustomValue ?? false}
      onChange={(option) => change(variable, option.value)} />
  );
}

export function VariableControls({ vars }) {
  const shown = Object.values(vars).filter((variable) => variable.hide !== 2);
  return shown.map((variable) => {
    const id = `var-${variable.name}`;
    return (
      <div key={variable.name} className="viewer-variable">
        {variable.hide !== 1 && (
          <label htmlFor={id} title={variable.description || undefined}>
            {variable.label || variable.name}
            {variable.error && <Tooltip content={variable.error}><Icon name="exclamation-triangle" /></Tooltip>}
          </label>
        )}
        <Control variable={variable} id={id} />
      </div>
    );
  });
}
