// The guided DDIM loop (Song et al., 2021), the same as ditas_core.sampling; and a quick look at
// latents. Nothing here knows the page or the runtime.

/** eps = u + g (c - u) of the first `size` numbers of each half, which may hold more (a variance). */
export function guided(sample, size, guidance) {
  const half = sample.length / 2, eps = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const conditional = sample[i], unconditional = sample[half + i];
    eps[i] = unconditional + guidance * (conditional - unconditional);
  }
  return eps;
}

/** One step: x at alpha -> x at the next alpha, both cumulative products of the schedule. */
export function ddim(x, predicted, alpha, after, prediction = "epsilon", clip = null) {
  const next = new Float32Array(x.length);
  const signal = Math.sqrt(alpha), noise = Math.sqrt(1 - alpha);
  const signalAfter = Math.sqrt(after), noiseAfter = Math.sqrt(1 - after);
  for (let i = 0; i < x.length; i++) {
    let clean, eps;
    if (prediction === "epsilon") {
      eps = predicted[i];
      clean = (x[i] - noise * eps) / signal;
    } else if (prediction === "sample") {
      clean = predicted[i];
      eps = (x[i] - signal * clean) / noise;
    } else {
      clean = signal * x[i] - noise * predicted[i];
      eps = signal * predicted[i] + noise * x[i];
    }
    if (clip !== null) clean = Math.min(clip, Math.max(-clip, clean));
    next[i] = signalAfter * clean + noiseAfter * eps;
  }
  return next;
}

/**
 * Denoise one picture; yields {step, of, latents, absmax, ms} after every step.
 *
 * run(latents, time)  one forward pass of both halves: {sample, absmax}
 * schedule            of the manifest; `steps` chooses its table
 */
export async function* denoise(run, schedule, steps, guidance, noise) {
  const { times, alphas, after } = schedule.steps[steps];
  let latents = noise;
  for (let i = 0; i < times.length; i++) {
    const began = performance.now();
    const both = new Float32Array(2 * latents.length);
    both.set(latents);
    both.set(latents, latents.length);
    const { sample, absmax } = await run(both, times[i]);
    const eps = guided(sample, latents.length, guidance);
    latents = ddim(latents, eps, alphas[i], after[i], schedule.prediction, schedule.clip);
    yield { step: i + 1, of: times.length, latents, absmax, ms: performance.now() - began };
  }
}

/** 10 log10(|a|^2 / |a - b|^2), dB. */
export function sqnr(reference, other) {
  let signal = 0, noise = 0;
  for (let i = 0; i < reference.length; i++) {
    signal += reference[i] ** 2;
    noise += (reference[i] - other[i]) ** 2;
  }
  return 10 * Math.log10(signal / Math.max(noise, 1e-30));
}

/** Latents (C, h, w) as RGBA pixels without the decoder: a linear map of 3 x 3 places. */
export function quickLook(latents, [channels, height, width], { block, weights }) {
  const across = width * block;
  const pixels = new Uint8ClampedArray(4 * across * height * block).fill(255);
  const sums = new Float32Array(block * block * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      sums.set(weights[weights.length - 1]);
      let row = 0;
      for (let c = 0; c < channels; c++) {
        for (let dy = -1; dy <= 1; dy++) {
          for (let dx = -1; dx <= 1; dx++, row++) {
            const v = y + dy, u = x + dx;
            if (v < 0 || u < 0 || v >= height || u >= width) continue;
            const value = latents[(c * height + v) * width + u], part = weights[row];
            for (let k = 0; k < sums.length; k++) sums[k] += value * part[k];
          }
        }
      }
      for (let k = 0; k < block * block; k++) {
        const at = 4 * ((y * block + Math.floor(k / block)) * across + x * block + (k % block));
        for (let rgb = 0; rgb < 3; rgb++) pixels[at + rgb] = 255 * sums[3 * k + rgb];
      }
    }
  }
  return pixels;
}

/** Images (3, H, W) in [0, 1] as RGBA pixels. */
export function toPixels(image) {
  const area = image.length / 3, pixels = new Uint8ClampedArray(4 * area).fill(255);
  for (let i = 0; i < area; i++) {
    for (let rgb = 0; rgb < 3; rgb++) pixels[4 * i + rgb] = 255 * image[rgb * area + i];
  }
  return pixels;
}
