// The studio viewer: strips of decoded steps in, everything else happens here, at once.
// Runs inside gr.HTML, which hands over element, trigger, props and watch. The value is
// written by views/studio.py; "frames", "ab" and "step" are its events.
const KEY_ZOOM = 1.25, MOST_ZOOM = 16, STEP_MS = 140, SMOOTH_UP_TO = 2;
const find = (name) => element.querySelector(name);
const root = find(".studio"), panes = find(".panes"), which = find(".which");
const step = find(".step"), gain = find(".gain"), play = find(".play"), curve = find(".curve");
const figures = [...element.querySelectorAll(".panes figure")];
const view = { left: "a", b: "", sent: "", zoom: 1, x: 0.5, y: 0.5 };
let value = null, frames = [], newest = 0, playing = 0, drawing = 0;

const variant = (name) => value.variants.find((one) => one.name === name);
const a = () => value.variants[0];
const b = () => variant(view.b) ?? value.variants[value.variants.length - 1];
const here = () => Number(step.value);
const index = (one) => value.variants.indexOf(one);
const clamp = (number, low, high) => Math.min(Math.max(number, low), high);

// ---- pictures -----------------------------------------------------------------------

const sheet = (width, height) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  return canvas;
};

// every frame of a strip as its own canvas, so that smoothing never mixes two of them
const cut = async (one, size, count) => {
  const image = new Image();
  image.src = one.strip;
  await image.decode();
  return Array.from({ length: count }, (_, at) => {
    const frame = sheet(size, size);
    frame.getContext("2d", { willReadFrequently: true }).drawImage(image, -at * size, 0);
    return frame;
  });
};

// grey where equal, gain times the signed difference elsewhere
const subtract = (first, second, times) => {
  const size = first.width, out = sheet(size, size);
  const [p, q] = [first, second].map((f) => f.getContext("2d").getImageData(0, 0, size, size).data);
  const context = out.getContext("2d"), made = context.createImageData(size, size);
  for (let i = 0; i < p.length; i++) {
    made.data[i] = i % 4 === 3 ? 255 : 128 + times * (q[i] - p[i]);
  }
  context.putImageData(made, 0, 0);
  return out;
};

const paint = (canvas, picture) => {
  const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
  if (!side) return;
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const size = picture.width, seen = size / view.zoom;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = view.zoom <= SMOOTH_UP_TO;
  context.imageSmoothingQuality = "high";
  context.drawImage(
    picture, view.x * size - seen / 2, view.y * size - seen / 2, seen, seen, 0, 0, side, side
  );
};

const caption = (at, text, colour) => {
  const [canvas, line] = [figures[at].querySelector("canvas"), figures[at].lastElementChild];
  line.textContent = text;
  if (!colour) return void canvas.setAttribute("aria-label", `Difference ${text}, ${where()}`);
  const dot = document.createElement("i");
  dot.style.background = colour;
  line.prepend(dot);
  canvas.setAttribute("aria-label", `${text}, ${value.sample}, ${where()}`);
};

const where = () => {
  const at = value.frames[here()];
  return `step ${at + 1} of ${value.timesteps.length}, t = ${value.timesteps[at]}`;
};

const draw = () => {
  drawing = 0;
  if (!value || !frames.length) return;
  const half = 0.5 / view.zoom;
  view.x = clamp(view.x, half, 1 - half);
  view.y = clamp(view.y, half, 1 - half);
  const at = here(), pair = [[a(), "A"], [b(), "B"]];
  if (view.left === "b") pair.reverse();
  const canvases = figures.map((figure) => figure.querySelector("canvas"));
  pair.forEach(([one, letter], place) => {
    paint(canvases[place], frames[index(one)][at]);
    caption(place, `${letter} · ${one.name}`, one.colour);
  });
  paint(canvases[2], subtract(frames[0][at], frames[index(b())][at], Number(gain.value)));
  caption(2, `B − A, ×${gain.value}`);
  words();
};
const redraw = () => { drawing ||= requestAnimationFrame(draw); };

// ---- words --------------------------------------------------------------------------

const words = () => {
  const one = b(), full = value.frames[here()];
  find(".title").textContent = value.sample;
  find(".facts").textContent = one.facts;
  find(".name-a").textContent = a().name;
  find(".name-b").textContent = one.name;
  which.value = one.name;
  for (const button of element.querySelectorAll("[data-left]")) {
    button.setAttribute("aria-pressed", String(button.dataset.left === view.left));
  }
  const distance = `latents ${one.divergence[full].toFixed(1)} dB from full precision (mean of ${value.n})`;
  const text = value.pending ? "decoding the steps …" : `${where()} · ${distance}`;
  find(".at").textContent = text;
  step.setAttribute("aria-valuetext", text);
  find(".times").textContent = `×${gain.value}`;
  find(".zoomed").textContent = `${view.zoom.toFixed(view.zoom < 10 ? 1 : 0)}×`;
  panes.classList.toggle("zoomed-in", view.zoom > 1);
  for (const line of curve.querySelectorAll("polyline")) {
    line.classList.toggle("on", line.dataset.name === one.name);
  }
  const mark = curve.querySelector("line"), last = Math.max(1, value.timesteps.length - 1);
  if (mark) for (const end of ["x1", "x2"]) mark.setAttribute(end, String((100 * full) / last));
};

const element_of = (kind, fields) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, text] of Object.entries(fields)) made.setAttribute(name, text);
  return made;
};

const sketch = () => {
  const others = value.variants.slice(1), all = others.flatMap((one) => one.divergence);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const last = Math.max(1, value.timesteps.length - 1);
  const place = (v, i) =>
    `${((100 * i) / last).toFixed(2)},${(30 - (28 * (v - low)) / (high - low || 1)).toFixed(2)}`;
  const lines = others.map((one) => element_of("polyline", {
    points: one.divergence.map(place).join(" "), stroke: one.colour, "data-name": one.name,
  }));
  curve.replaceChildren(element_of("line", { x1: 0, x2: 0, y1: 0, y2: 32 }), ...lines);
};

// ---- a new value ----------------------------------------------------------------------

const take = async () => {
  const next = props.value, mine = ++newest;
  if (!next || !next.variants) {
    value = null;
    root.classList.add("blank");
    return;
  }
  const cutting = next.variants.map((one) => cut(one, next.size, next.frames.length));
  const ready = await Promise.all(cutting);
  if (mine !== newest) return;
  const same = value && value.key === next.key && value.sample === next.sample;
  if (!same) Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  // the same moment of the run, though other steps may be kept
  const old = value && value.frames[here()] / Math.max(1, value.timesteps.length - 1);
  const moment = same && !next.pending && view.wanted !== undefined ? view.wanted : old ?? 1;
  if (next.pending) view.wanted = view.wanted ?? moment;
  else view.wanted = undefined;
  if (next.b !== view.sent || !next.variants.some((one) => one.name === view.b)) view.b = next.b;
  view.sent = next.b;
  [value, frames] = [next, ready];
  const total = Math.max(1, value.timesteps.length - 1);
  const gaps = value.frames.map((at) => Math.abs(at / total - moment));
  step.max = String(value.frames.length - 1);
  step.value = String(gaps.indexOf(Math.min(...gaps)));
  step.disabled = play.disabled = value.frames.length < 2;
  which.replaceChildren(...value.variants.slice(1).map((one) => new Option(one.name, one.name)));
  root.classList.remove("blank");
  root.dataset.frames = String(value.frames.length);
  sketch();
  redraw();
  if (value.pending) trigger("frames", { key: value.key });
};

// ---- what the visitor does --------------------------------------------------------------

const tell = () => trigger("ab", { variant: b().name, left: view.left });

const put = (side) => {
  view.left = side;
  redraw();
  tell();
};

const zoom = (factor, x = view.x, y = view.y) => {
  const before = view.zoom;
  view.zoom = clamp(view.zoom * factor, 1, MOST_ZOOM);
  // what lies under the pointer stays there
  view.x = x - ((x - view.x) * before) / view.zoom;
  view.y = y - ((y - view.y) * before) / view.zoom;
  redraw();
};

const fit = () => {
  Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  redraw();
};

const move = (x, y) => {
  view.x += x / view.zoom;
  view.y += y / view.zoom;
  redraw();
};

const stop = () => {
  clearInterval(playing);
  playing = 0;
  play.textContent = "▶";
  play.setAttribute("aria-label", "Play the steps");
};

const start = () => {
  if (here() >= Number(step.max)) step.value = "0";
  play.textContent = "❚❚";
  play.setAttribute("aria-label", "Pause");
  playing = setInterval(() => {
    step.value = String(here() + 1);
    redraw();
    if (here() >= Number(step.max)) {
      stop();
      trigger("step", { frame: here() });
    }
  }, STEP_MS);
  redraw();
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !value) return;
  const { left, zoom: how } = button.dataset;
  if (left) put(left);
  else if (button === play) playing ? stop() : start();
  else if (how === "fit") fit();
  else if (how) zoom(how === "in" ? KEY_ZOOM : 1 / KEY_ZOOM);
});

which.addEventListener("change", () => {
  view.b = view.sent = which.value;
  redraw();
  tell();
});
step.addEventListener("input", () => { stop(); redraw(); });
step.addEventListener("change", () => trigger("step", { frame: here() }));
gain.addEventListener("input", redraw);

const KEYS = {
  a: () => put("a"),
  b: () => put("b"),
  " ": () => put(view.left === "a" ? "b" : "a"),
  "+": () => zoom(KEY_ZOOM),
  "=": () => zoom(KEY_ZOOM),
  "-": () => zoom(1 / KEY_ZOOM),
  0: fit,
  ArrowLeft: () => move(-0.1, 0),
  ArrowRight: () => move(0.1, 0),
  ArrowUp: () => move(0, -0.1),
  ArrowDown: () => move(0, 0.1),
};
element.addEventListener("keydown", (event) => {
  if (!value || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const own = event.target.closest("select") || (
    event.target !== panes && (key === " " || key.startsWith("Arrow"))
  );  // buttons and sliders keep the keys that belong to them
  if (own || !KEYS[key]) return;
  event.preventDefault();
  KEYS[key]();
});

const spot = (event) => {
  const box = event.target.getBoundingClientRect();
  return [
    view.x + ((event.clientX - box.left) / box.width - 0.5) / view.zoom,
    view.y + ((event.clientY - box.top) / box.height - 0.5) / view.zoom,
  ];
};
panes.addEventListener("wheel", (event) => {
  // the page keeps its wheel until somebody chooses the pictures
  if (!value || !(event.ctrlKey || panes.contains(document.activeElement))) return;
  event.preventDefault();
  if (event.target.matches("canvas")) zoom(event.deltaY < 0 ? KEY_ZOOM : 1 / KEY_ZOOM, ...spot(event));
}, { passive: false });

const touches = new Map();
const spread = () => {
  const [p, q] = [...touches.values()];
  return Math.hypot(p.clientX - q.clientX, p.clientY - q.clientY) || 1;
};
panes.addEventListener("pointerdown", (event) => {
  if (!event.target.matches("canvas")) return;
  touches.set(event.pointerId, event);
  event.target.setPointerCapture(event.pointerId);
  panes.classList.add("moving");
});
panes.addEventListener("pointermove", (event) => {
  const last = touches.get(event.pointerId);
  if (!last || !value) return;
  const apart = touches.size === 2 ? spread() : 0;
  touches.set(event.pointerId, event);
  const side = event.target.clientWidth || 1;
  if (apart) zoom(spread() / apart);
  else move((last.clientX - event.clientX) / side, (last.clientY - event.clientY) / side);
});
for (const name of ["pointerup", "pointercancel"]) {
  panes.addEventListener(name, (event) => {
    touches.delete(event.pointerId);
    if (!touches.size) panes.classList.remove("moving");
  });
}

new ResizeObserver(redraw).observe(panes);
watch("value", take);
take();
