// A part of the query's picture: drawn with mouse, finger or pen while its form is open. The form alone does too.
(() => {
  const names = ["left", "top", "right", "bottom"];
  const form = () => document.querySelector("[data-region][open] form");
  const field = (name) => form().elements.namedItem(name);

  // Where the picture lies within its frame, which it fills in one direction alone.
  const place = (picture) => {
    const frame = picture.getBoundingClientRect();
    const scale = Math.min(frame.width / picture.naturalWidth, frame.height / picture.naturalHeight);
    const [width, height] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
    return { left: frame.left + (frame.width - width) / 2, top: frame.top + (frame.height - height) / 2, width, height };
  };

  const show = () => {
    const figure = document.querySelector("[data-region-picture]");
    const picture = figure?.querySelector("img");
    let box = figure?.querySelector(".region-box");
    if (!form() || !picture?.naturalWidth) { box?.remove(); figure?.classList.remove("is-cut"); return; }
    if (!box) { box = document.createElement("div"); box.className = "region-box"; figure.append(box); }
    figure.classList.add("is-cut");
    const [at, outer] = [place(picture), figure.getBoundingClientRect()];
    const [left, top, right, bottom] = names.map((name) => Number(field(name).value) / 100);
    box.style.left = `${at.left - outer.left - figure.clientLeft + left * at.width}px`;
    box.style.top = `${at.top - outer.top - figure.clientTop + top * at.height}px`;
    box.style.width = `${Math.max(0, right - left) * at.width}px`;
    box.style.height = `${Math.max(0, bottom - top) * at.height}px`;
  };

  const set = (edges) => {
    names.forEach((name, index) => { field(name).value = Math.round(1000 * edges[index]) / 10; });
    show();
  };

  let start = null;
  const within = (share) => Math.min(1, Math.max(0, share));
  const point = (event, picture) => {
    const at = place(picture);
    return [within((event.clientX - at.left) / at.width), within((event.clientY - at.top) / at.height)];
  };
  document.addEventListener("pointerdown", (event) => {
    const figure = event.target.closest("[data-region-picture]");
    if (!figure || !form() || event.button) return;
    event.preventDefault();
    figure.setPointerCapture(event.pointerId);
    start = point(event, figure.querySelector("img"));
  });
  document.addEventListener("pointermove", (event) => {
    if (!start || !form()) return;
    const [x, y] = point(event, document.querySelector("[data-region-picture] img"));
    set([Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])]);
  });
  for (const name of ["pointerup", "pointercancel"]) document.addEventListener(name, () => { start = null; });

  document.addEventListener("input", (event) => { if (event.target.closest("[data-region]")) show(); });
  document.addEventListener("toggle", (event) => {
    if (!event.target.matches("[data-region]")) return;
    event.target.querySelector("[data-region-hint]").hidden = false;
    event.target.querySelector("[data-region-plain]").hidden = true;
    show();
  }, true);
  addEventListener("resize", show);
})();
