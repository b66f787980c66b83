// The review by keys: arrows move between cards (keys.js has them for results), letters press what has them as
// data-review-key; after an answer the first card, or the one at the same place, is in focus again.
(() => {
  const isTyping = (element) => element.closest?.("input:not([type=checkbox]), textarea, select");
  const cards = () => [...document.querySelectorAll("#review .card-link")];
  let place = 0;

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const links = cards();
    const card = event.target.closest?.("#review .card");
    const at = card ? links.indexOf(card.querySelector(".card-link")) : -1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step && links.length) {
      event.preventDefault();
      links[Math.min(Math.max(at + step, 0), links.length - 1)].focus();
      return;
    }
    if (event.key.length !== 1) return;
    const scope = event.key === "z" ? document : card;
    const target = scope?.querySelector(`[data-review-key*="${CSS.escape(event.key)}"]`);
    if (!target) return;
    event.preventDefault();
    if (target.tagName === "SELECT") target.focus();
    else target.click();
  });

  // A chosen organ is an answer; without scripts there is a button for it.
  document.addEventListener("change", (event) => {
    if (event.target.matches("#review select[name=organ]") && event.target.value) {
      event.target.form.requestSubmit(event.target.form.querySelector("button[value=organ]"));
    }
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    const card = event.target.closest?.("#review .card");
    place = card ? cards().indexOf(card.querySelector(".card-link")) : 0;
  });
  const focusCard = () => {
    const links = cards();
    if (links.length && !document.querySelector("#review :focus")) {
      links[Math.min(Math.max(place, 0), links.length - 1)].focus();
    }
  };
  document.addEventListener("htmx:afterSettle", focusCard);
  if (document.activeElement === document.body) focusCard();  // a whole new page
})();
