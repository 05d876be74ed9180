// Clicks on figures become the text of the hidden field beside them: <figure id>-pick.
// An update of a figure may drop its listeners, so they are looked after all the time.
(() => {
  const tell = (id, point) => {
    const field = document.querySelector(`#${id}-pick textarea, #${id}-pick input`);
    if (!field) return;
    const text = JSON.stringify({ x: point.x, y: point.y, trace: point.curveNumber });
    const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, text);
    field.dispatchEvent(new Event("input", { bubbles: true }));
    // Gradio's .input event of a text field comes from a key; the same point may be clicked again
    field.dispatchEvent(new KeyboardEvent("keypress", { key: "Unidentified", bubbles: true }));
  };
  const attach = () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      const home = plot.closest("[id].picks");
      if (!home || !plot.on) continue;
      plot.ditasPick ??= (event) => tell(home.id, event.points[0]);
      const known = plot._ev?.listeners?.("plotly_click") ?? [];
      if (!known.includes(plot.ditasPick)) plot.on("plotly_click", plot.ditasPick);
    }
  };
  setInterval(attach, 300);

  // What a figure shows, for those who do not see it: its titles become its name.
  const name = () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      const written = [...plot.querySelectorAll(".g-gtitle text, .annotation-text, .cbtitle text")]
        .map((text) => text.textContent.trim())
        .filter((text) => text && !text.startsWith("Click to enter"));
      const label = "Figure: " + ([...new Set(written)].slice(0, 4).join("; ") || "no title");
      if (plot.getAttribute("role") !== "group") plot.setAttribute("role", "group");
      if (plot.getAttribute("aria-label") !== label) plot.setAttribute("aria-label", label);
    }
  };
  setInterval(name, 600);

  // A row of a read-only table can be chosen by Enter as by a click: arrow keys only move.
  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest?.(".body-cell.static");
    if (event.key !== "Enter" || !cell) return;
    for (const kind of ["mousedown", "mouseup"])
      cell.dispatchEvent(new MouseEvent(kind, { bubbles: true, cancelable: true, button: 0 }));
  });

  // Gradio's messages: their header is a button with a button inside, which nothing can read.
  const headers = document.getElementsByClassName("toast-header");
  new MutationObserver(() => {
    for (const header of headers) {
      header.removeAttribute("role");
      header.removeAttribute("tabindex");
    }
  }).observe(document.documentElement, { childList: true, subtree: true });

  // What draws figures takes a second to start: it does so while the visitor reads, not when
  // the first tab with a figure is opened.
  const early = () => {
    for (const file of window.ditasScripts ?? []) import(new URL(file, document.baseURI));
  };
  const read = setInterval(() => {
    if (!document.querySelector("#dial[data-drawn], #dial-view .empty")) return;
    clearInterval(read);
    (window.requestIdleCallback ?? setTimeout)(early);
  }, 300);

  // Code that scrolls can be scrolled with the keyboard, and Gradio's icons with a name, of a figure
  // that is not drawn yet and of a column that is sorted, have the role that may have one: from the
  // moment they are there.
  const named = "div[aria-label='Empty value']:not([role]), span[aria-label^='Sorted']:not([role])";
  const reach = () => {
    for (const icon of document.querySelectorAll(named)) icon.setAttribute("role", "img");
    for (const code of document.querySelectorAll(".cm-scroller[tabindex='-1']")) {
      code.tabIndex = 0;
      code.setAttribute("role", "region");
      code.setAttribute("aria-label", "Program, scrolls");
    }
  };
  new MutationObserver(reach).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["tabindex"],
  });

  // The address changes while the page is open. plotly.js refers to its clips and gradients by
  // the whole address where the page has a <base> with an address, and would lose them; without
  // one it refers to them by name. An empty base means the same folder as Gradio's "./".
  const rebase = () => document.querySelector("base[href='./']")?.setAttribute("href", "");
  rebase();
  document.addEventListener("DOMContentLoaded", rebase);
})();
