// node draw.mjs SITE KEY LABEL SEED STEPS GUIDANCE: final latents of a site's own sampler, as JSON.

import fs from "node:fs";
import zlib from "node:zlib";
import { pathToFileURL } from "node:url";

const [site, key, label, seed, steps, guidance] = process.argv.slice(2);
const at = (file) => pathToFileURL(`${site}/${file}`).href;
const ort = await import(at("runtime/ort.wasm.min.mjs"));
const { randn } = await import(at("noise.js"));
const { denoise } = await import(at("sampler.js"));
const unpacked = (file) => zlib.gunzipSync(fs.readFileSync(`${site}/${file}`));

const manifest = JSON.parse(fs.readFileSync(`${site}/manifest.json`, "utf8"));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { mjs: at("runtime/ort-wasm-simd-threaded.mjs") };
ort.env.wasm.wasmBinary = unpacked(manifest.runtime.binary);
const entry = manifest.models.find((each) => each.key === key);
const session = await ort.InferenceSession.create(unpacked(entry.file));
const labels = new ort.Tensor("int64", BigInt64Array.of(BigInt(label), BigInt(manifest.null)), [2]);

async function run(latents, time) {
  const found = await session.run({
    hidden_states: new ort.Tensor("float32", latents, [2, ...manifest.latent]),
    timestep: new ort.Tensor("float32", Float32Array.of(time, time), [2]),
    class_labels: labels,
  });
  return { sample: found.sample.data, absmax: found[entry.absmax].data };
}

const noise = randn(Number(seed), manifest.latent.reduce((a, b) => a * b));
const out = { noise: [...noise], latents: [], absmax: [] };
for await (const step of denoise(run, manifest.schedule, steps, Number(guidance), noise)) {
  out.latents.push([...step.latents]);
  out.absmax.push([...step.absmax]);
}
process.stdout.write(JSON.stringify(out));
