// Offers the columns of a chosen manifest.csv, and shows where to say which is which unless all is plain.
document.querySelector("form[enctype='multipart/form-data']").addEventListener("change", async (event) => {
  const manifest = [...(event.target.files ?? [])].find((file) => file.name === "manifest.csv");
  if (!manifest) return;
  const [line] = (await manifest.slice(0, 65536).text()).replace(/^\uFEFF/, "").split(/\r?\n/, 1);
  const names = line.split(line.includes(";") ? ";" : ",").map((name) => name.trim().replace(/^"|"$/g, ""));
  const options = names.filter(Boolean).map((name) => Object.assign(document.createElement("option"), { value: name }));
  document.getElementById("manifest-columns").replaceChildren(...options);
  if (!["path", "organ"].every((name) => names.includes(name))) document.getElementById("columns").open = true;
});
