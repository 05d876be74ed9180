// A heatmap that grows a row with every step: channels across, steps down, how loud by colour.

// perceptually even, dark to light (magma, as the explorer's figures have it)
const STOPS = [
  [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122], [229, 80, 100],
  [251, 135, 97], [254, 194, 135], [252, 253, 191],
];

export function colour(share) {
  const at = Math.min(1, Math.max(0, share)) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(at)), part = at - low;
  return STOPS[low].map((value, i) => value + part * (STOPS[low + 1][i] - value));
}

export function median(values) {
  const sorted = Float32Array.from(values).sort();
  return sorted[sorted.length >> 1];
}

/** Rows of channel maxima in units of their median, drawn on a logarithmic scale up to `most`. */
export class Heat {
  constructor(canvas, channels, steps, most) {
    this.canvas = canvas;
    this.most = most;
    canvas.width = channels;
    canvas.height = steps;
    this.loudest = 0;
  }

  row(step, absmax) {
    const unit = Math.max(median(absmax), 1e-12);
    const pixels = new ImageData(absmax.length, 1);
    for (let i = 0; i < absmax.length; i++) {
      const times = absmax[i] / unit;
      this.loudest = Math.max(this.loudest, times);
      const rgb = colour(Math.log(Math.max(times, 1)) / Math.log(this.most));
      pixels.data.set([...rgb, 255], 4 * i);
    }
    this.canvas.getContext("2d").putImageData(pixels, 0, step - 1);
  }
}

/** The colours from quiet to loud. */
export function paintScale(canvas) {
  const pixels = new ImageData(canvas.width, 1);
  for (let i = 0; i < canvas.width; i++) {
    pixels.data.set([...colour(i / (canvas.width - 1)), 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}
