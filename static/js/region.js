// A part of the query's picture: drawn with mouse, finger or pen while its form is open, moved and sized by arrow
// keys. The form's four numbers are the truth; without JavaScript they are filled in by hand.
(() => {
  const EDGES = ["left", "top", "right", "bottom"];
  const LABEL = "The part to search with. Arrow keys move it, with Shift they change its size, Enter searches with it.";
  const CLICK = 4;  // pixels: a pointer that moves less has only been clicked
  const STEP = 1;  // per cent, by an arrow key
  const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  const form = () => document.querySelector("[data-region][open] form");
  const figure = () => document.querySelector("[data-region-picture]");
  const between = (low, value, high) => Math.min(high, Math.max(low, value));
  const edges = () => EDGES.map((name) => between(0, Number(form().elements.namedItem(name).value), 100));

  // Where the picture lies within its frame, which it fills in one direction alone.
  const place = (picture) => {
    const frame = picture.getBoundingClientRect();
    const scale = Math.min(frame.width / picture.naturalWidth, frame.height / picture.naturalHeight);
    const [width, height] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
    return { left: frame.left + (frame.width - width) / 2, top: frame.top + (frame.height - height) / 2, width, height };
  };

  const newBox = () => {
    const box = document.createElement("div");
    box.className = "region-box";
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", LABEL);
    figure().append(box);
    return box;
  };

  const show = () => {
    const picture = figure()?.querySelector("img");
    const box = figure()?.querySelector(".region-box");
    const isOpen = Boolean(form() && picture?.naturalWidth);
    figure()?.classList.toggle("is-cut", isOpen);
    if (!isOpen) return box?.remove();
    const [at, outer, style] = [place(picture), figure().getBoundingClientRect(), (box ?? newBox()).style];
    const [left, top, right, bottom] = edges().map((edge) => edge / 100);
    style.left = `${at.left - outer.left - figure().clientLeft + left * at.width}px`;
    style.top = `${at.top - outer.top - figure().clientTop + top * at.height}px`;
    style.width = `${Math.max(0, right - left) * at.width}px`;
    style.height = `${Math.max(0, bottom - top) * at.height}px`;
  };

  const set = (values) => {
    EDGES.forEach((name, index) => { form().elements.namedItem(name).value = Math.round(10 * values[index]) / 10; });
    show();
  };

  let start = null;
  const point = (event) => {
    const at = place(figure().querySelector("img"));
    return [100 * (event.clientX - at.left) / at.width, 100 * (event.clientY - at.top) / at.height].map((share) => between(0, share, 100));
  };
  document.addEventListener("pointerdown", (event) => {
    if (!form() || event.button || !event.target.closest("[data-region-picture]")) return;
    event.preventDefault();
    figure().setPointerCapture(event.pointerId);
    start = { x: event.clientX, y: event.clientY, point: point(event) };
  });
  document.addEventListener("pointermove", (event) => {
    if (!start || !form()) return;
    if (Math.hypot(event.clientX - start.x, event.clientY - start.y) < CLICK) return;
    const [[x, y], [fromX, fromY]] = [point(event), start.point];
    set([Math.min(x, fromX), Math.min(y, fromY), Math.max(x, fromX), Math.max(y, fromY)]);
  });
  document.addEventListener("pointerup", () => {
    if (start && form()) figure().querySelector(".region-box")?.focus({ preventScroll: true });
    start = null;
  });
  document.addEventListener("pointercancel", () => { start = null; });

  const moved = ([left, top, right, bottom], [x, y]) => {
    const [byX, byY] = [between(-left, x, 100 - right), between(-top, y, 100 - bottom)];
    return [left + byX, top + byY, right + byX, bottom + byY];
  };
  const sized = ([left, top, right, bottom], [x, y]) =>
    [left, top, between(left + STEP, right + x, 100), between(top + STEP, bottom + y, 100)];
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.(".region-box") || !form() || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") { event.preventDefault(); form().requestSubmit(); }
    if (!ARROWS[event.key]) return;
    event.preventDefault();  // the cards of the results listen to arrow keys too
    set((event.shiftKey ? sized : moved)(edges(), ARROWS[event.key]));
  }, true);

  document.addEventListener("input", (event) => { if (event.target.closest("[data-region]")) show(); });
  document.addEventListener("toggle", (event) => { if (event.target.matches("[data-region]")) show(); }, true);
  document.addEventListener("htmx:load", show);
  addEventListener("load", show);
  addEventListener("resize", show);
})();
