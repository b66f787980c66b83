// The drop zone: drop anywhere on the page, choose, or paste pictures. Without JavaScript it is a plain form.
(() => {
  const form = () => document.querySelector("form[data-upload]");
  const say = (text) => {
    const error = form()?.querySelector("[data-upload-error]");
    if (error) { error.textContent = text; error.hidden = !text; }
  };

  const send = (files) => {
    const zone = form();
    if (!zone || !files.length || zone.classList.contains("is-sending")) return;
    const tooLarge = files.find((file) => file.size > Number(zone.dataset.maxBytes));
    if (files.length > Number(zone.dataset.mostImages)) return say(`One search takes ${zone.dataset.mostImages} images at most.`);
    if (tooLarge) return say(`${tooLarge.name} is larger than ${zone.dataset.maxText}, the most that is taken.`);
    say("");
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(file);
    zone.querySelector("input[type=file]").files = transfer.files;
    zone.requestSubmit();
  };

  document.addEventListener("change", (event) => {
    if (event.target.closest("form[data-upload]")) send([...event.target.files]);
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) { event.preventDefault(); send(files); }
  });

  const carriesFiles = (event) => form() && [...(event.dataTransfer?.types ?? [])].includes("Files");
  let depth = 0;  // dragenter and dragleave fire for every child
  const over = (is) => form()?.classList.toggle("is-over", is);
  document.addEventListener("dragenter", (event) => { if (carriesFiles(event)) { depth += 1; over(true); } });
  document.addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) { depth = Math.max(0, depth - 1); over(depth > 0); }
  });
  document.addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    send([...event.dataTransfer.files]);
  });

  const isUpload = (event) => event.target.matches?.("form[data-upload]");
  const progress = (zone, share) => {
    const bar = zone.querySelector("[data-upload-progress]");
    bar.hidden = share === null;
    bar.querySelector("span").style.width = `${Math.round(100 * (share ?? 0))}%`;
  };
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isUpload(event)) { event.target.classList.add("is-sending"); progress(event.target, 0); }
  });
  document.addEventListener("htmx:xhr:progress", (event) => {
    if (isUpload(event) && event.detail.lengthComputable) progress(event.target, event.detail.loaded / event.detail.total);
  });
  const failed = (event) => {
    if (!isUpload(event)) return;
    event.target.classList.remove("is-sending");
    progress(event.target, null);
    say("The file could not be sent. Please try again.");
  };
  document.addEventListener("htmx:sendError", failed);
  document.addEventListener("htmx:responseError", (event) => { if (event.detail.xhr.status !== 422) failed(event); });
  addEventListener("pageshow", (event) => {  // back from the answer: ready for the next image
    const zone = form();
    if (!event.persisted || !zone) return;
    zone.classList.remove("is-sending");
    progress(zone, null);
    zone.reset();
  });
})();
