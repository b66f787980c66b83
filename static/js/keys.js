// Keys: / or u goes to the upload; arrows, Home and End move between the cards of the results; on a card, r and n
// mark it as relevant or not.
(() => {
  const isTyping = (element) => element.closest?.("input:not([type=file]), textarea, select, [contenteditable]");

  const focusUpload = () => {
    const input = document.querySelector("form[data-upload] input[type=file]");
    if (input) { input.focus(); input.scrollIntoView({ block: "center" }); } else { location.assign("/#upload"); }
  };

  const markKeys = { r: ".mark-yes", n: ".mark-no" };

  const neighbour = (cards, index, key) => {
    const top = (card) => card.getBoundingClientRect().top;
    const columns = cards.findIndex((card) => top(card) > top(cards[0]) + 1);
    const perRow = columns < 1 ? cards.length : columns;
    const last = cards.length - 1;
    const steps = { ArrowLeft: index - 1, ArrowRight: index + 1, ArrowUp: index - perRow, ArrowDown: index + perRow };
    return { ...steps, Home: 0, End: last }[key] ?? -1;
  };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (event.key === "/" || event.key === "u") {
      event.preventDefault();
      focusUpload();
      return;
    }
    const mark = event.target.closest?.(".card")?.querySelector(markKeys[event.key] ?? "none");
    if (mark) { event.preventDefault(); mark.click(); return; }
    const cards = [...document.querySelectorAll("#results .card-link")];
    if (!cards.length) return;
    const index = cards.indexOf(document.activeElement);
    if (index < 0 && event.key !== "ArrowRight") return;
    const next = cards[neighbour(cards, index, event.key)];
    if (next) { event.preventDefault(); next.focus(); }
  });

  if (location.hash === "#upload") focusUpload();
})();
