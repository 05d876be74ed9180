// The worker: fetches models, runs them with onnxruntime-web, tells the page every step.
//
// in   {kind: "warm"}: runtime and decoder, while the visitor still chooses
//      {kind: "draw", job, keys, label, seed, steps, guidance} | {kind: "stop"}
// out  {kind: "warmed"} | {kind: "fetched", job, loaded, total} | {kind: "ready", job}
//      {kind: "step", job, key, step, of, ms, pixels, absmax}
//      {kind: "drawn", job, key, pixels, latents, ms} | {kind: "done", job} | {kind: "failed", job, text}

import * as ort from "./runtime/ort.wasm.min.mjs";
import { randn } from "./noise.js";
import { denoise, quickLook, toPixels } from "./sampler.js";

const KEPT = 4; // sessions, so that a phone's memory is not filled
const MODELS = "ditas-models"; // a cache: what was fetched is there with the network off
const here = new URL("./", import.meta.url).href;
const sessions = new Map();
let manifest = null;
let current = 0;
let busy = Promise.resolve(); // one thing after the other

/** The bytes at an address, unpacked where they are compressed; told(loaded) as they come. */
async function fetched(address, told) {
  const place = new URL(address, here).href;
  // not where the page came over plain HTTP
  const models = address.startsWith("models/") ? await self.caches?.open(MODELS) : null;
  const kept = await models?.match(place);
  const answer = kept ?? await fetch(place);
  if (!answer.ok) throw new Error(`${address}: expected a file, got ${answer.status}`);
  const parts = [];
  let loaded = 0;
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    loaded += part.value.length;
    told(loaded);
  }
  const blob = new Blob(parts);
  if (!kept) await models?.put(place, new Response(blob)).catch(() => {}); // no room: not kept
  const [first, second] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (first !== 0x1f || second !== 0x8b) return blob.arrayBuffer(); // the host unpacked it
  const unpacked = blob.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).arrayBuffer();
}

async function start() {
  ort.env.wasm.wasmPaths = { mjs: `${here}runtime/ort-wasm-simd-threaded.mjs` };
  ort.env.wasm.numThreads = self.crossOriginIsolated
    ? Math.min(4, Math.max(1, navigator.hardwareConcurrency >> 1)) : 1;
  return (await fetch(new URL("manifest.json", here))).json();
}

async function session(key, address, told) {
  if (!sessions.has(key)) {
    const model = await fetched(address, told);
    sessions.set(key, await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }));
  }
  const found = sessions.get(key);
  sessions.delete(key); // the most recent last
  sessions.set(key, found);
  return found;
}

/** Everything that these models need; one after the other, as memory is short on phones. */
async function prepare(job, models) {
  manifest ??= await start();
  const files = models(manifest);
  const wanted = files.filter(([key]) => !sessions.has(key));
  const binary = ort.env.wasm.wasmBinary ? 0 : manifest.runtime.bytes;
  const total = binary + wanted.reduce((sum, [, file]) => sum + file.bytes, 0);
  let before = 0;
  const told = (loaded) =>
    self.postMessage({ kind: "fetched", job, loaded: before + loaded, total });
  if (binary) {
    ort.env.wasm.wasmBinary = await fetched(manifest.runtime.binary, told);
    before += binary;
  }
  const found = new Map();
  for (const [key, file] of files) {
    const fresh = !sessions.has(key);
    found.set(key, await session(key, file.file, told));
    if (fresh) before += file.bytes;
  }
  for (const key of [...sessions.keys()]) {
    if (sessions.size <= KEPT) break;
    if (!found.has(key)) {
      await sessions.get(key).release();
      sessions.delete(key);
    }
  }
  return found;
}

/** One forward pass of both halves of guidance. */
function runner(model, entry, label) {
  const shape = [2, ...manifest.latent];
  const labels = new ort.Tensor("int64", BigInt64Array.of(BigInt(label), BigInt(manifest.null)), [2]);
  return async (latents, time) => {
    const found = await model.run({
      hidden_states: new ort.Tensor("float32", latents, shape),
      timestep: new ort.Tensor("float32", Float32Array.of(time, time), [2]),
      class_labels: labels,
    });
    return { sample: found.sample.data, absmax: found[entry.absmax].data };
  };
}

async function draw({ job, keys, label, seed, steps, guidance }) {
  if (job !== current) return;
  const found = await prepare(job, ({ models, decoder }) => [
    ["decoder", decoder],
    ...keys.map((key) => [key, models.find((each) => each.key === key)]),
  ]);
  if (job !== current) return;
  self.postMessage({ kind: "ready", job });
  const noise = randn(seed, manifest.latent.reduce((a, b) => a * b));
  const runs = keys.map((key) => {
    const entry = manifest.models.find((each) => each.key === key);
    const run = runner(found.get(key), entry, label);
    return { key, ms: [], loop: denoise(run, manifest.schedule, steps, guidance, noise) };
  });
  for (let step = 0; step < manifest.schedule.steps[steps].times.length; step++) {
    for (const run of runs) {
      const { value } = await run.loop.next();
      run.latents = value.latents;
      run.ms.push(value.ms);
      const pixels = quickLook(value.latents, manifest.latent, manifest.look);
      self.postMessage({
        kind: "step", job, key: run.key, step: value.step, of: value.of, ms: value.ms, pixels,
        absmax: value.absmax,
      });
      await new Promise((resolve) => setTimeout(resolve)); // messages come in between steps
      if (job !== current) return;
    }
  }
  for (const { key, latents, ms } of runs) {
    const input = new ort.Tensor("float32", latents, [1, ...manifest.latent]);
    const { images } = await found.get("decoder").run({ latents: input });
    const middle = [...ms].sort((a, b) => a - b)[ms.length >> 1];
    self.postMessage({ kind: "drawn", job, key, latents, pixels: toPixels(images.data), ms: middle });
  }
  self.postMessage({ kind: "done", job });
}

async function warm() {
  await prepare(0, ({ decoder }) => [["decoder", decoder]]);
  self.postMessage({ kind: "warmed" });
}

self.onmessage = ({ data }) => {
  if (data.kind !== "warm") current = data.kind === "draw" ? data.job : 0;
  if (data.kind === "stop") return;
  const job = data.job ?? 0;
  busy = busy.then(() => (data.kind === "warm" ? warm() : draw(data))).catch((error) => {
    self.postMessage({ kind: "failed", job, text: String(error?.message ?? error) });
  });
};
