// Arcs of SVG paths; angles in degrees, clockwise from twelve o'clock.
const point = (cx, cy, r, angle) => {
  const radians = ((angle - 90) * Math.PI) / 180;
  return `${(cx + r * Math.cos(radians)).toFixed(2)} ${(cy + r * Math.sin(radians)).toFixed(2)}`;
};

/** A ring segment (or a pie slice where `inner` is 0) from `start` to `end`. */
export function ringPath(cx, cy, outer, inner, start, end) {
  const stop = Math.min(end, start + 359.99);
  const large = stop - start > 180 ? 1 : 0;
  const out = `M ${point(cx, cy, outer, start)} A ${outer} ${outer} 0 ${large} 1 ${point(cx, cy, outer, stop)}`;
  const back = inner > 0
    ? `L ${point(cx, cy, inner, stop)} A ${inner} ${inner} 0 ${large} 0 ${point(cx, cy, inner, start)}`
    : `L ${cx} ${cy}`;
  return `${out} ${back} Z`;
}

export const polar = (cx, cy, r, angle) => point(cx, cy, r, angle).split(' ').map(Number);
