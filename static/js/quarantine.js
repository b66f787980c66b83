// The quarantine by keys and by drawing: arrows move between cards, letters press what has them as
// data-quarantine-key, and a box drawn on a picture or added by its button is masked too. In a box, arrows move it,
// with Shift they change its size. Boxes are checkboxes: without scripts they work.
(() => {
  const SMALLEST = 0.005;  // of the picture: a pointer that moves less has only clicked
  const STEP = 0.01;  // of the picture, by an arrow key
  const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  const MIDDLE = [0.3, 0.45, 0.7, 0.55];  // where an added box is: as wide as a line of text
  const cards = () => [...document.querySelectorAll("#quarantine .card")];
  const between = (low, value, high) => Math.min(high, Math.max(low, value));
  let place = 0;

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !cards().length) return;
    const all = cards();
    const card = event.target.closest?.("#quarantine .card");
    const box = event.target.closest?.(".mask-box");
    if (box && keyInBox(box, card, event)) {
      event.preventDefault();
      return;
    }
    const at = card ? all.indexOf(card) : -1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) {
      event.preventDefault();
      all[between(0, at + step, all.length - 1)].focus();
      return;
    }
    if (event.key.length !== 1) return;
    const target = card?.querySelector(`[data-quarantine-key="${CSS.escape(event.key)}"]`);
    if (!target) return;
    event.preventDefault();
    target.click();
  });

  let drawn = null;
  const point = (event) => {
    const frame = drawn.figure.getBoundingClientRect();
    return [between(0, (event.clientX - frame.left) / frame.width, 1), between(0, (event.clientY - frame.top) / frame.height, 1)];
  };
  const show = (label, [left, top, right, bottom]) => {
    const percent = (share) => `${(100 * share).toFixed(2)}%`;
    Object.assign(label.style, { left: percent(left), top: percent(top), width: percent(right - left), height: percent(bottom - top) });
    label.firstChild.value = [left, top, right, bottom].map((edge) => edge.toFixed(4)).join(",");
    label.firstChild.setAttribute("aria-label", `Mask the box ${inWords([left, top, right, bottom])}`);
  };
  const newBox = (figure) => {
    const label = document.createElement("label");
    label.className = "mask-box";
    const box = Object.assign(document.createElement("input"), { type: "checkbox", name: `box-${figure.dataset.quarantined}`, checked: true });
    box.setAttribute("aria-describedby", "box-keys");
    label.append(box);
    figure.append(label);
    return label;
  };

  const tell = (words) => { document.querySelector("[data-box-words]").textContent = words; };
  const inWords = ([left, top, right, bottom]) => {
    const [fromLeft, fromTop, wide, high] = [left, top, right - left, bottom - top].map((share) => Math.round(100 * share));
    return `${fromLeft}% from the left, ${fromTop}% from the top, ${wide}% wide, ${high}% high`;
  };
  const moved = ([left, top, right, bottom], [x, y]) => {
    const [byX, byY] = [between(-left, x, 1 - right), between(-top, y, 1 - bottom)];
    return [left + byX, top + byY, right + byX, bottom + byY];
  };
  const sized = ([left, top, right, bottom], [x, y]) =>
    [left, top, between(left + STEP, right + x, 1), between(top + STEP, bottom + y, 1)];
  const keyInBox = (label, card, event) => {
    if (ARROWS[event.key]) {
      const edges = label.firstChild.value.split(",").map(Number);
      show(label, (event.shiftKey ? sized : moved)(edges, ARROWS[event.key]));
      tell(inWords(label.firstChild.value.split(",").map(Number)));
    } else if (event.key === "Delete" || event.key === "Backspace") {
      const other = [...card.querySelectorAll(".mask-box")].find((each) => each !== label);
      label.remove();
      (other?.firstChild ?? card).focus();
      tell("The box is gone.");
    } else if (event.key === "Escape") {
      card.focus();
    } else {
      return false;
    }
    return true;
  };
  document.addEventListener("click", (event) => {
    const figure = event.target.closest?.("[data-add-box]")?.closest(".card").querySelector("[data-quarantined]");
    if (!figure) return;
    const label = newBox(figure);
    show(label, MIDDLE);
    label.firstChild.focus();
  });

  document.addEventListener("pointerdown", (event) => {
    const figure = event.target.closest?.("[data-quarantined]");
    if (!figure || event.button) return;
    if (event.target.tagName === "IMG") event.preventDefault();
    drawn = { figure, label: null };
    drawn.start = point(event);
  });
  document.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    const [[x, y], [fromX, fromY]] = [point(event), drawn.start];
    const edges = [Math.min(x, fromX), Math.min(y, fromY), Math.max(x, fromX), Math.max(y, fromY)];
    if (!drawn.label && Math.min(edges[2] - edges[0], edges[3] - edges[1]) < SMALLEST) return;
    drawn.label ??= newBox(drawn.figure);
    show(drawn.label, edges);
  });
  const end = () => { drawn = null; };
  document.addEventListener("pointerup", end);
  document.addEventListener("pointercancel", end);

  document.addEventListener("htmx:beforeRequest", (event) => {
    const card = document.activeElement?.closest?.("#quarantine .card");
    if (event.target.closest?.("#quarantine")) place = card ? cards().indexOf(card) : 0;
  });
  document.addEventListener("htmx:afterSettle", () => {
    const all = cards();
    if (all.length) all[between(0, place, all.length - 1)].focus({ preventScroll: true });
  });
})();
