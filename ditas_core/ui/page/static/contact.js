// The contact sheet: a picture that is pressed is told to the page as "pick".
element.addEventListener("click", (event) => {
  const cell = event.target.closest("button[data-sample]");
  if (!cell) return;
  for (const other of element.querySelectorAll("button[data-sample]")) {
    other.setAttribute("aria-pressed", String(other.dataset.sample === cell.dataset.sample));
  }
  trigger("pick", { sample: Number(cell.dataset.sample), variant: cell.dataset.variant });
});
