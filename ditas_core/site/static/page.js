// The page: what is chosen, what is on view. The numbers come from the worker (engine.js).

import { Heat, paintScale } from "./heat.js";
import { sqnr } from "./sampler.js";

const FULL = "full", LOUDEST = 32, EARLIER = 12, LARGEST_SEED = 2 ** 31 - 1, SAVED = 512, PHONE = 640;
const AFTER = ["next", "save", "share"]; // buttons for a finished picture
const $ = (id) => document.getElementById(id);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const readable = (name) => name.replaceAll("-", " ");

let site, engine, job = 0, run = null, warm = false;
const loaded = new Set();

/** What this browser lacks; "" where it can draw. */
function lacking() {
  const simd = Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253,
    15, 253, 98, 11,
  );
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(simd)) return "WebAssembly with SIMD";
  if (typeof DecompressionStream !== "function") return "DecompressionStream";
  if (typeof Worker !== "function") return "workers";
  return "";
}

function say(text, kind = "", share = null) {
  $("said").textContent = text;
  $("status").className = `status ${kind}`;
  $("progress").hidden = share === null;
  if (share !== null) $("progress").value = share;
}

const entry = (key) => site.models.find((each) => each.key === key);
const label = (each) => (each.bits ? `${each.bits} · ${each.title}` : "Full precision");

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

/** A radio button or checkbox and its label, whose second line can change. */
function choice(kind, name, value, title, checked) {
  const input = document.createElement("input"), shown = document.createElement("label");
  Object.assign(input, { type: kind, name, value, id: `${name}-${value}`, checked });
  shown.htmlFor = input.id;
  const bold = document.createElement("b"), small = document.createElement("span");
  bold.textContent = title;
  shown.append(bold, small);
  return [input, shown];
}

function build() {
  $("class").append(...site.classes.map((name, i) => option(i, readable(name))));
  $("steps").append(...Object.keys(site.schedule.steps).map((count) => option(count, count)));
  const bits = [...new Set(site.models.map((each) => each.bits).filter(Boolean))];
  bits.sort((a, b) => parseInt(b.slice(1)) - parseInt(a.slice(1)));
  for (const each of bits) {
    const [input, shown] = choice("radio", "bits", each, each.match(/\d+/)[0], each === site.open.bits);
    shown.querySelector("span").remove();
    shown.title = `${each}: weights, activations`;
    $("bits").append(input, shown);
  }
  const kinds = { ditas: "DiTAS", plain: "Plain rounding" };
  if (entry(FULL)) kinds[FULL] = "Full precision";
  for (const [kind, title] of Object.entries(kinds)) {
    $("methods").append(...choice("checkbox", "method", kind, title, kind === "ditas"));
  }
  $("seed").value = site.open.seed;
  $("guidance").value = site.open.guidance;
  $("steps").value = site.open.steps;
  $("class").value = site.open.class;
  restore();
  $("facts").textContent =
    `${site.name}, ${site.pixels} px, ${site.classes.length} classes; licence ${site.licence || "not stated"}. ` +
    `${site.convention} convention, ${site.runtime.name} ${site.runtime.version}.`;
  $("story").hidden = !site.story;
  paintScale($("scale").querySelector("canvas"));
  $("scale-end").textContent = `${LOUDEST}× the median channel`;
  changed();
}

const checked = (name) =>
  [...document.querySelectorAll(`input[name=${name}]:checked`)].map((input) => input.value);

function keys() {
  const [bits] = checked("bits");
  return checked("method").map((kind) => (kind === FULL ? FULL : `${bits}-${kind}`));
}

/** Bytes that drawing would still fetch. */
function missing(wanted) {
  const shared = warm ? 0 : site.runtime.bytes + site.decoder.bytes;
  return wanted.filter((key) => !loaded.has(key))
    .reduce((sum, key) => sum + entry(key).bytes, shared);
}

/** Whatever depends on the choices: sizes, the address, the button. */
function changed() {
  const [bits] = checked("bits"), wanted = keys();
  for (const input of document.querySelectorAll("input[name=method]")) {
    const each = entry(input.value === FULL ? FULL : `${bits}-${input.value}`);
    input.nextElementSibling.querySelector("span").textContent =
      `${loaded.has(each.key) ? "loaded" : megabytes(each.bytes)}, ${each.bits || "32 bits"}`;
  }
  $("guidance-value").textContent = Number($("guidance").value).toFixed(1);
  const bytes = missing(wanted);
  $("cost").textContent = !wanted.length ? "Choose at least one model."
    : bytes ? `${megabytes(bytes)} to load first.` : "";
  $("draw").disabled = !wanted.length || drawing();
  const state = new URLSearchParams({
    class: site.classes[$("class").value], seed: $("seed").value, bits, with: checked("method"),
    steps: $("steps").value, guidance: $("guidance").value,
  });
  history.replaceState(null, "", `#${state}`);
}

/** What the address says, as far as it makes sense. */
function restore() {
  const state = new URLSearchParams(location.hash.slice(1));
  const at = site.classes.indexOf(state.get("class"));
  if (at >= 0) $("class").value = at;
  const seed = Number(state.get("seed") ?? NaN);
  if (Number.isInteger(seed) && seed >= 0 && seed <= LARGEST_SEED) $("seed").value = seed;
  if (site.schedule.steps[state.get("steps")]) $("steps").value = state.get("steps");
  if (Number(state.get("guidance"))) $("guidance").value = state.get("guidance");
  const bits = document.getElementById(`bits-${state.get("bits")}`);
  if (bits) bits.checked = true;
  const kinds = (state.get("with") ?? "").split(",");
  const inputs = [...document.querySelectorAll("input[name=method]")];
  if (inputs.some((input) => kinds.includes(input.value))) {
    for (const input of inputs) input.checked = kinds.includes(input.value);
  }
}

function pane(key) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption"), bold = document.createElement("b");
  figure.className = "pane";
  canvas.width = canvas.height = site.pixels;
  canvas.setAttribute("role", "img");
  bold.textContent = label(entry(key));
  const size = document.createElement("span"), time = document.createElement("span");
  size.textContent = `${megabytes(entry(key).bytes)} to download`;
  caption.append(bold, size, time);
  figure.append(canvas, caption);
  return { figure, canvas, time };
}

function map(key, steps) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption"), name = document.createElement("b");
  const words = document.createElement("span");
  name.textContent = label(entry(key));
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${label(entry(key))}: loudness of every channel, step by step`);
  caption.append(name, words);
  figure.append(caption, canvas);
  return { figure, words, heat: new Heat(canvas, site.watched.channels, steps, LOUDEST) };
}

function paint(canvas, pixels) {
  canvas.getContext("2d").putImageData(new ImageData(pixels, site.pixels, site.pixels), 0, 0);
}

function draw() {
  const wanted = keys(), steps = Number($("steps").value), name = site.classes[$("class").value];
  job += 1;
  run = { job, wanted, name: readable(name), seed: Number($("seed").value), panes: new Map(),
    maps: new Map(), drawn: new Map(), began: performance.now(), steps };
  for (const key of wanted) {
    const made = pane(key), seen = map(key, steps);
    made.canvas.setAttribute("aria-label", `${run.name}, ${label(entry(key))}, being drawn`);
    run.panes.set(key, made);
    run.maps.set(key, seen);
  }
  $("panes").replaceChildren(...[...run.panes.values()].map((each) => each.figure));
  $("maps").replaceChildren(...[...run.maps.values()].map((each) => each.figure));
  $("inside-words").textContent =
    `The largest input of each of the ${site.watched.channels} channels of ${site.watched.title}, ` +
    "a row for every step, recorded on your device just now. One loud channel widens the grid that " +
    "all others are rounded to.";
  $("pictures").hidden = $("inside").hidden = false;
  for (const each of AFTER) $(each).disabled = true;
  $("stop").hidden = false;
  changed();
  say("Getting ready.", "busy");
  if (innerWidth < PHONE) $("status").scrollIntoView({ block: "start" }); // the picture below it
  engine.postMessage({ kind: "draw", job, keys: wanted, label: Number($("class").value),
    seed: run.seed, steps, guidance: Number($("guidance").value) });
}

const on = {
  fetched: ({ loaded: got, total }) =>
    say(`Loading, ${megabytes(got)} of ${megabytes(total)}.`, "busy", got / total),

  ready() {
    for (const key of run.wanted) loaded.add(key);
    if (!warm) warmed();
    say("Drawing.", "busy");
    run.ready = performance.now();
    changed();
  },

  step({ key, step, of, ms, pixels, absmax }) {
    const { canvas, time } = run.panes.get(key), { heat, words } = run.maps.get(key);
    paint(canvas, pixels);
    time.textContent = `step ${step} of ${of}, ${ms.toFixed(0)} ms`;
    heat.row(step, absmax);
    words.textContent = `loudest ${heat.loudest.toFixed(1)}× the median`;
  },

  drawn({ key, pixels, latents, ms }) {
    const { canvas, time } = run.panes.get(key);
    paint(canvas, pixels);
    canvas.setAttribute("aria-label", `${run.name}, drawn with ${label(entry(key))}`);
    time.textContent = `${ms.toFixed(0)} ms per step`;
    run.drawn.set(key, { latents, ms });
  },

  done() {
    const seconds = ((performance.now() - run.ready) / 1000).toFixed(1);
    const full = run.drawn.get(FULL);
    for (const [key, { latents, ms }] of full ? run.drawn : []) {
      if (key === FULL) continue;
      const far = sqnr(full.latents, latents);
      run.panes.get(key).time.textContent =
        `${ms.toFixed(0)} ms per step, ${far.toFixed(1)} dB from full precision`;
    }
    say(`Drawn in ${seconds} s: ${run.name}, seed ${run.seed}.`, "done");
    remember();
    finished();
    for (const each of AFTER) $(each).disabled = false;
  },

  failed({ text }) {
    say(`This did not work: ${text}`, "bad");
    finished();
  },
};

const drawing = () => !$("stop").hidden;

function finished() {
  $("stop").hidden = true;
  changed();
}

/** The pictures go to those drawn before, the newest first. */
function remember() {
  for (const [key, { canvas }] of run.panes) {
    const item = document.createElement("li"), image = document.createElement("img");
    const words = document.createElement("span");
    image.src = canvas.toDataURL();
    image.alt = `${run.name}, seed ${run.seed}`;
    words.textContent = `${label(entry(key))}, seed ${run.seed}`;
    item.append(image, words);
    $("earlier").prepend(item);
  }
  while ($("earlier").children.length > EARLIER) $("earlier").lastElementChild.remove();
  $("before").hidden = false;
}

/** The pictures on view as one file, side by side and large enough to send. */
async function picture() {
  const panes = [...run.panes.values()], whole = document.createElement("canvas");
  whole.width = SAVED * panes.length;
  whole.height = SAVED;
  const context = whole.getContext("2d");
  context.imageSmoothingQuality = "high";
  panes.forEach(({ canvas }, i) => context.drawImage(canvas, SAVED * i, 0, SAVED, SAVED));
  const blob = await new Promise((resolve) => whole.toBlob(resolve, "image/png"));
  const name = `${run.name.replaceAll(" ", "-")}-${run.seed}-${run.wanted.join("-")}.png`;
  return new File([blob], name, { type: "image/png" });
}

async function save() {
  const file = await picture(), link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function share() {
  const file = await picture(), told = { title: document.title, url: location.href };
  try {
    if (navigator.canShare?.({ files: [file] })) return await navigator.share({ ...told, files: [file] });
    await navigator.clipboard.writeText(location.href);
    say("The link to this picture is on the clipboard.", "done");
  } catch (error) {
    if (error.name !== "AbortError") say(`The link to this picture: ${location.href}`, "done");
  }
}

function surprise() {
  $("class").value = Math.floor(Math.random() * site.classes.length);
  $("seed").value = Math.floor(Math.random() * 10_000);
  changed();
}

/** The same class from the next seed's noise. */
function next() {
  $("seed").value = (Number($("seed").value) + 1) % LARGEST_SEED;
  $("form").requestSubmit();
}

async function offline() {
  if (!("serviceWorker" in navigator) || !window.isSecureContext) return;
  await navigator.serviceWorker.register("worker.js");
  await navigator.serviceWorker.ready;
  $("offline").textContent =
    "Kept on this device: the page, the runtime and what was loaded work with the network off.";
}

async function start() {
  const lacks = lacking();
  if (lacks) {
    $("cannot").textContent =
      `This browser cannot draw: it lacks ${lacks}. A current Chrome, Edge, Firefox or Safari can.`;
    $("cannot").hidden = false;
    $("form").hidden = $("status").hidden = true;
    return;
  }
  site = await (await fetch("manifest.json")).json();
  build();
  engine = new Worker("engine.js", { type: "module" });
  engine.onmessage = ({ data }) => {
    if (data.kind === "warmed") warmed();
    else if (run && (data.job === run.job || data.kind === "fetched")) on[data.kind](data);
  };
  engine.onerror = () => say("This did not work: the worker could not start.", "bad");
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if ($("form").reportValidity()) draw();
  });
  $("form").addEventListener("input", changed);
  $("dice").addEventListener("click", surprise);
  $("next").addEventListener("click", next);
  $("save").addEventListener("click", save);
  $("share").addEventListener("click", share);
  $("stop").addEventListener("click", () => {
    engine.postMessage({ kind: "stop" });
    run = null;
    say("Stopped.");
    finished();
  });
  say("Ready: choose something and press Draw.");
  document.documentElement.dataset.ready = "yes";
  if (!navigator.connection?.saveData) engine.postMessage({ kind: "warm" });
}

/** The runtime is there; what is kept for later is fetched now, when nothing waits for it. */
function warmed() {
  warm = true;
  changed();
  // a host or a browser without the means: the page works while there is a network
  offline().catch(() => {});
}

start().catch((error) => say(`This did not work: ${error.message}`, "bad"));
