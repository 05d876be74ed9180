// The dial: stored pictures of the chosen class at the chosen bits. No question to the server
// per stop; a class's sheet is fetched and decoded once, the others when nothing else is to do.
// Hidden fields, #dial-stop, #dial-class and #dial-model, tell the page where it stands and set it.
(() => {
  const SWIPE_PX = 34;
  const MODELS = ["natural", "injected"];
  const sheets = new Map();
  let home = null, every = [], data = null, seen = { stop: "", at: 0, model: 0 }, asked = 0;

  const load = (source) => {
    if (!sheets.has(source)) {
      const image = new Image();
      image.src = new URL(source, document.baseURI);
      const entry = { image, ready: false };
      entry.done = image.decode().then(() => { entry.ready = true; }, () => sheets.delete(source));
      sheets.set(source, entry);
    }
    return sheets.get(source);
  };
  const find = (selector) => home.querySelector(selector);
  const source = () => (data.stops[seen.stop].apart ? data.more : data.sheets)[seen.at];

  const paint = (image) => {
    const { side } = data, { column } = data.stops[seen.stop];
    const cells = [[0, 0], [column, 0], [column, column ? 1 : 0]];
    home.querySelectorAll("canvas").forEach((canvas, at) => {
      const wide = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)) || 256;
      if (canvas.width !== wide) canvas.width = canvas.height = wide;
      const context = canvas.getContext("2d");
      context.imageSmoothingQuality = "high";
      const [x, y] = cells[at];
      context.drawImage(image, x * side, y * side, side, side, 0, 0, wide, wide);
      canvas.setAttribute("aria-label", `${data.labels[seen.at]}, ${data.titles[at]}`);
    });
    home.dataset.drawn = `${seen.stop} ${data.labels[seen.at]}${seen.model ? " injected" : ""}`;
  };

  // what is decoded is painted at once, in the same task; else as soon as it is there
  const draw = () => {
    const turn = ++asked, sheet = load(source());
    if (sheet.ready) paint(sheet.image);
    else sheet.done.then(() => { if (turn === asked && sheet.ready) paint(sheet.image); });
  };

  const write = () => {
    const stop = data.stops[seen.stop], place = data.together.indexOf(seen.stop);
    home.querySelectorAll("figure").forEach((figure, at) => {
      figure.className = stop.notes[at].state;
      figure.querySelector("span").textContent = stop.notes[at].note;
    });
    find("#dial-words b").textContent = stop.verdict;
    find("#dial-words span").textContent = stop.details;
    const range = find("#dial-range");
    if (place >= 0) range.value = place;
    range.setAttribute("aria-valuetext", stop.spoken);
    home.classList.toggle("between", place < 0);
    const bits = seen.stop.match(/\d+/g).map(Number);
    ["weights", "activations"].forEach((name, at) => {
      const two = find(`#dial-${name}`), index = data[name].indexOf(bits[at]);
      if (!two || index < 0) return;
      two.value = index;
      two.setAttribute("aria-valuetext", `${bits[at]} bits`);
    });
    for (const [name, value] of [["class", seen.at], ["model", seen.model]])
      for (const button of home.querySelectorAll(`button[data-${name}]`))
        button.setAttribute("aria-pressed", String(Number(button.dataset[name]) === value));
    home.dataset.model = seen.model;
  };

  const tell = () => {
    const values = { stop: seen.stop, class: data.labels[seen.at], model: MODELS[seen.model] };
    for (const [id, value] of Object.entries(values)) {
      const field = [...document.querySelectorAll(`#dial-${id} input`)].find((one) => one.value === value);
      if (field && !field.checked) field.click();
    }
  };

  const show = (stop, at, model = seen.model, telling = true) => {
    if (!every[model]?.stops[stop] || !data.sheets[at]) return;
    const same = stop === seen.stop && at === seen.at && model === seen.model;
    seen = { stop, at, model };
    data = every[model];
    if (!same) {
      draw();
      write();
    }
    if (telling) tell();
  };
  // from the page: its address was read
  window.ditasDial = (stop, label, model) => {
    const go = () => home && show(stop, data.labels.indexOf(label), MODELS.indexOf(model), false);
    if (home?.isConnected) go();
    else setTimeout(() => home && go(), 300);
  };

  const begin = (found) => {
    home = found;
    every = JSON.parse(home.dataset.dial);
    data = every[seen.model];
    if (!data.stops[seen.stop]) seen = { stop: data.first, at: 0, model: 0 };
    draw();
    write();
    let width = 0;
    new ResizeObserver(() => {
      if (width === home.clientWidth) return;
      width = home.clientWidth;
      draw();
    }).observe(home);
    const rest = () => data.sheets.forEach(load);
    load(source()).done.then(() => (window.requestIdleCallback ?? setTimeout)(rest));
    find("#dial-apart")?.addEventListener("toggle", () => data.more.forEach(load), { once: true });
  };
  const look = () => {
    const found = document.querySelector("#dial[data-dial]");
    if (found && found !== home) begin(found);
  };
  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });

  const step = (by) => {
    const place = Math.max(0, data.together.indexOf(seen.stop)) + by;
    if (data.together[place]) show(data.together[place], seen.at);
  };
  document.addEventListener("input", (event) => {
    if (!home?.contains(event.target)) return;
    if (event.target.id === "dial-range") show(data.together[event.target.value], seen.at);
    else {
      const bits = ["weights", "activations"].map((name) => data[name][find(`#dial-${name}`).value]);
      show(`W${bits[0]}A${bits[1]}`, seen.at);
    }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#dial button"), { class: at, model } = button?.dataset ?? {};
    if (at) show(seen.stop, Number(at));
    // another model opens where most of it is to be seen; the one on view stays where it is
    if (model && Number(model) !== seen.model) show(every[model].first, seen.at, Number(model));
  });

  // a swipe or a drag over the pictures: to the left for fewer bits, as pages turn
  let from = null;
  document.addEventListener("pointerdown", (event) => {
    from = event.target.closest?.("#dial .dial-pictures") ? event.clientX : null;
  });
  document.addEventListener("pointermove", (event) => {
    if (from === null || Math.abs(event.clientX - from) < SWIPE_PX) return;
    step(event.clientX < from ? 1 : -1);
    from = event.clientX;
  });
  for (const end of ["pointerup", "pointercancel"])
    document.addEventListener(end, () => { from = null; });
})();
