// Prometheus' HTTP API under /prometheus, on our own origin.
const API = '/prometheus/api/v1/';

async function answer(response) {
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error(`Prometheus answered ${response.status}: ${text.slice(0, 200) || response.statusText}`);
  }
  if (body.status !== 'success') {
    throw new Error(body.error ?? `Prometheus answered ${response.status}`);
  }
  return body.data;
}

/** POST, so that a query may be long. */
export const post = async (path, params, signal) =>
  answer(await fetch(API + path, { method: 'POST', body: new URLSearchParams(params), signal }));

/** `params` is a list of pairs: `match[]` may come more than once. */
export const get = async (path, params = [], signal) =>
  answer(await fetch(`${API}${path}?${new URLSearchParams(params)}`, { signal }));

export async function getJson(path) {
  const response = await fetch(path);
  if (!response.ok) {
    throw new Error(`${path}: ${response.status} ${response.statusText}`);
  }
  return response.json();
}
