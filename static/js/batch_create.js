// Browsers send a chosen folder's files without their paths; the form sends those beside them.
document.querySelector("form[enctype='multipart/form-data']").addEventListener("submit", (event) => {
  const form = event.target;
  const files = [...form.elements.loose_files.files, ...form.elements.folder.files];
  form.elements.paths.value = JSON.stringify(files.map((file) => file.webkitRelativePath || file.name));
});
