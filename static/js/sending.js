// Sends the chosen files one by one, in parts (tus): a lost connection or a closed laptop loses nothing.
// On the page of an import under way the same files are chosen again, and what was sent is not sent twice.
(() => {
  const form = document.querySelector("form[data-begin], form[data-sending]");
  const panel = document.querySelector("#sending");
  if (!form || !panel || !window.tus?.isSupported) return;
  const PARALLEL = 3;
  const PART_BYTES = 16 * 2 ** 20;
  const PATH_LENGTH = 1024;
  const NOISE = ["__macosx", "thumbs.db", "desktop.ini"];  // as ingest/labels.py has it
  const ARCHIVE = /\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$/i;
  const part = (name) => panel.querySelector(`[data-${name}]`);
  const beginAt = form.getAttribute("data-begin");  // form.dataset is the field of that name
  const sendingAt = form.getAttribute("data-sending");
  const token = () => document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1]  // another one after signing in again
    ?? form.querySelector("[name=csrfmiddlewaretoken]").value;
  const pause = (seconds) => new Promise((resolve) => {
    setTimeout(resolve, 1000 * seconds);
    addEventListener("online", resolve, {once: true});
  });

  const chosenFiles = () => [...form.elements.loose_files.files, ...form.elements.folder.files]
    .map((file) => ({file, path: file.webkitRelativePath || file.name, done: 0, state: "waiting"}))
    .filter(({path}) => !path.split("/").some((name) => name.startsWith(".") || NOISE.includes(name.toLowerCase())));

  const manifestAmong = (files) => {
    const tops = new Set(files.map(({path}) => path.split("/")[0]));
    return files.find(({path}) => path === "manifest.csv")
      ?? files.find(({path}) => tops.size === 1 && path === `${[...tops][0]}/manifest.csv`);
  };

  const complain = (sentences) => {
    const alert = form.querySelector("[data-errors]");
    alert.replaceChildren(...sentences.map((text) => Object.assign(document.createElement("p"), {textContent: text})));
    alert.hidden = !sentences.length;
    if (sentences.length) alert.scrollIntoView({block: "center"});
  };

  // Opens the import; where it was opened before, finds what is still to be sent.
  const begin = async () => {
    const files = chosenFiles();
    const manifest = manifestAmong(files);
    const others = files.filter((each) => each !== manifest);
    if (!others.length) { complain(["Choose files, a folder or an archive."]); return; }
    const body = new FormData(form);
    for (const name of ["loose_files", "folder", "paths"]) body.delete(name);
    if (others.every(({path}) => ARCHIVE.test(path))) body.set("only_archives", "on");
    if (manifest) { body.set("manifest", manifest.file); body.set("manifest_path", manifest.path); }
    body.set("announced", others.length);
    const answer = await fetch(beginAt, {method: "POST", body, headers: {"X-CSRFToken": token()}});
    if (answer.status === 422) { complain((await answer.json()).errors); return; }
    if (answer.status !== 201) throw new Error(answer.status);
    const addresses = await answer.json();
    history.replaceState(null, "", addresses.batch_detail);  // reloading leads to where one can go on
    await send(others, addresses);
  };

  const goOn = async () => {
    const files = chosenFiles();
    const addresses = {sending: sendingAt, batch_detail: location.pathname};
    const answer = await fetch(addresses.sending);
    if (!answer.ok) throw new Error(answer.status);
    const {files_to_send: missing, files: begun} = await answer.json();
    const manifest = manifestAmong(files);
    const hasPath = (each, known) => each.path.slice(-PATH_LENGTH) === known.path;
    for (const known of begun) {
      const same = files.find((each) => !each.url && hasPath(each, known)
        && each.file.size === known.size && each.file.lastModified === known.modified);
      if (same) Object.assign(same, {url: known.url, done: known.offset, state: known.is_sent ? "sent" : "waiting"});
    }
    const unfinished = begun.filter(({is_sent: isSent}) => !isSent);
    const chosen = files.filter((each) => each !== manifest);
    const left = chosen.filter(({state}) => state === "waiting");
    const strangers = left.filter((each) => !each.url && !unfinished.some((known) => hasPath(each, known)));
    if (!left.length || strangers.length > missing - unfinished.length) {
      const words = missing === 1 ? "one file of this import is" : `${missing} files of this import are`;
      complain([`These are not the files that are missing: ${words} still to be sent.`]);
      return;
    }
    await send(chosen, addresses);
  };

  const send = async (files, addresses) => {
    const main = document.querySelector("main");
    complain([]);
    form.hidden = true;
    panel.hidden = false;
    part("ledger").href = addresses.batch_detail;
    const show = progressOf(files);
    const timer = setInterval(show, 500);
    const worker = async () => {
      for (let each; (each = files.find(({state}) => state === "waiting"));) await sendOne(each, addresses, show);
    };
    const round = async () => {
      part("trouble").hidden = true;
      await Promise.all(Array.from({length: PARALLEL}, worker));
      show();
      const failed = files.filter(({state}) => state === "failed");
      if (!failed.length) { clearInterval(timer); location.assign(addresses.batch_detail); return; }
      const rows = failed.slice(0, 20).map(({path, why}) => Object.assign(document.createElement("li"), {textContent: `${path}: ${why}`}));
      part("failed").replaceChildren(...rows);
      part("trouble").hidden = false;
    };
    part("again").onclick = () => {
      for (const each of files) if (each.state === "failed") each.state = "waiting";
      round();
    };
    main.focus();
    await round();
  };

  // Ends with the state "sent", "refused" (the ledger says why) or "failed". Waits for a lost connection.
  const sendOne = async (each, addresses, show) => {
    each.state = "sending";
    each.key ??= crypto.getRandomValues(new Uint32Array(4)).join("-");
    for (let tries = 0; each.state === "sending"; tries += 1) {
      const error = await attempt(each, addresses, show);
      const status = error?.originalResponse?.getStatus() ?? 0;
      if (!error) each.state = "sent";
      else if (status === 413) Object.assign(each, {state: "refused", done: each.file.size});
      else if (status === 401) Object.assign(each, {state: "failed", why: "You are signed out. Sign in again in another window."});
      else if (status >= 400 && status < 500) {
        if (await isComplete(addresses)) each.state = "sent";
        else Object.assign(each, {state: "failed", why: sentenceOf(error.originalResponse)});
      } else if (!(await isReadable(each.file))) {
        Object.assign(each, {state: "failed", why: "This device cannot read it, or it was changed."});
      } else {
        part("waiting").hidden = false;
        await pause(Math.min(30, 2 ** tries));
      }
    }
    part("waiting").hidden = true;
  };

  const attempt = (each, addresses, show) => new Promise((resolve) => {
    const upload = new tus.Upload(each.file, {
      endpoint: addresses.sending,
      uploadUrl: each.url ?? null,
      chunkSize: PART_BYTES,
      uploadDataDuringCreation: true,
      storeFingerprintForResuming: false,  // the server tells what has come: on any device, in any browser
      retryDelays: null,
      metadata: {path: each.path, modified: String(each.file.lastModified), key: each.key},
      headers: {"X-CSRFToken": token()},
      onProgress: (sent) => { each.done = sent; part("waiting").hidden = true; show(); },
      onSuccess: () => { each.done = each.file.size; resolve(null); },
      onError: (error) => { each.url = upload.url ?? each.url; resolve(error); },
    });
    upload.start();
  });

  const sentenceOf = (response) =>
    response.getHeader("Content-Type")?.startsWith("text/plain") ? response.getBody() : "It was refused.";
  const isComplete = async ({sending}) => {
    try { return (await (await fetch(sending)).json()).files_to_come === 0; } catch { return false; }
  };
  const isReadable = async (file) => {
    try { await file.slice(0, 1).arrayBuffer(); return true; } catch { return false; }
  };

  const size = (bytes) => {
    const units = ["bytes", "KB", "MB", "GB", "TB"];
    const step = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log2(bytes) / 10));
    return `${(bytes / 2 ** (10 * step)).toFixed(step > 1 && bytes / 2 ** (10 * step) < 100 ? 1 : 0)} ${units[step]}`;
  };
  const time = (seconds) => {
    if (seconds < 60) return "less than a minute left";
    const minutes = Math.ceil(seconds / 60);
    return minutes < 120 ? `about ${minutes} minutes left` : `about ${Math.round(minutes / 60)} hours left`;
  };

  // Shows files, bytes, the rate of the last ten seconds and the time left.
  const progressOf = (files) => {
    const total = files.reduce((sum, {file}) => sum + file.size, 0);
    const marks = [];
    return () => {
      const done = files.reduce((sum, each) => sum + (each.state === "sent" ? each.file.size : each.done), 0);
      const over = files.filter(({state}) => state === "sent" || state === "refused").length;
      const now = performance.now() / 1000;
      marks.push({now, done});
      while (marks.length > 2 && marks[0].now < now - 10) marks.shift();
      const rate = (done - marks[0].done) / Math.max(now - marks[0].now, 1e-3);
      part("bar").max = Math.max(total, 1);
      part("bar").value = done;
      part("files").textContent = `${over.toLocaleString("en")} of ${files.length.toLocaleString("en")} file${files.length === 1 ? "" : "s"} sent`;
      part("bytes").textContent = ` · ${size(done)} of ${size(total)}`
        + (rate > 0 && done < total ? ` · ${size(rate)}/s · ${time((total - done) / rate)}` : "");
    };
  };

  form.addEventListener("submit", async (event) => {
    if (form.elements.server_folder?.value.trim()) return;  // a plain form does
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      await (beginAt ? begin() : goOn());
    } catch {
      complain(["The server cannot be reached, or you are signed out. Please try again."]);
    }
    button.disabled = false;
  });
})();
