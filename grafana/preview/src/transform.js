// Grafana's own transformations, from @grafana/data.
import { standardTransformers, standardTransformersRegistry, transformDataFrame } from '@grafana/data';
import { lastValueFrom } from 'rxjs';
import { interpolate } from './interpolate.js';

standardTransformersRegistry.setInit(() =>
  Object.values(standardTransformers).filter((t, i, all) => all.findIndex((o) => o.id === t.id) === i).map((transformer) => ({
    id: transformer.id,
    name: transformer.name,
    transformation: () => Promise.resolve(transformer),
  })));

/** Frames after the panel's transformations; one that the viewer does not know is an error, not silence. */
export async function applyTransformations(panel, frames, ctx) {
  const steps = (panel.transformations ?? []).filter((step) => !step.disabled);
  const unknown = steps.filter((step) => !standardTransformersRegistry.getIfExists(step.id));
  if (unknown.length) {
    throw new Error(`unknown transformation ${unknown.map((step) => step.id).join(', ')}`);
  }
  return lastValueFrom(transformDataFrame(steps, frames, { interpolate: (text) => interpolate(text, ctx) }));
}
