// Loaded before the page is painted. Dark is the default; the choice is kept in this browser.
(() => {
  const root = document.documentElement;
  const stored = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const apply = (theme) => { root.dataset.theme = theme === "light" ? "light" : "dark"; };
  apply(stored());
  addEventListener("storage", () => apply(stored()));
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("[data-theme-switch]")) return;
    const theme = root.dataset.theme === "light" ? "dark" : "light";
    apply(theme);
    try { localStorage.setItem("theme", theme); } catch { /* kept for this page only */ }
  });
})();
